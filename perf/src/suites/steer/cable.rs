//! Frames that come in bursts, over a cable in a network namespace of our own, as a loaded network card hands them over.
//!
//! A veth hands over what has queued up when its NAPI thread runs, up to 64 frames at a time. The sender has that thread's
//! CPU to itself while it sends (it is a real-time thread, the other is not), so a burst is exactly what was sent. After
//! the program the kernel takes each frame, as it does on a server: caches and branch predictors do not belong to the
//! program alone.

use std::error::Error;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::Xdp;

use crate::sys::{self, FrameSocket, Pid};

/// Frames of one burst: as many as the kernel polls from a card before it looks at another.
pub(super) const BURST: usize = 64;

/// How long a burst may take, until something is wrong.
const PATIENCE: Duration = Duration::from_secs(2);

/// A cable at whose far end a program runs.
pub(super) struct Cable {
    near: FrameSocket,
}

/// Moves this thread to a network of its own, which has no cable yet and ends with the thread.
pub(super) fn leave_network() -> Result<(), Box<dyn Error>> {
    sys::leave_network()?;
    // Nobody but us shall send here.
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    Ok(())
}

impl Cable {
    /// Lays it, and has `attach` put the program to its far end; the thread of that end runs on this CPU.
    pub(super) fn lay(
        name: &str,
        cpu: usize,
        attach: impl FnOnce(&str) -> Result<(), Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        let (near, far) = (&*format!("{name}0"), &*format!("{name}1"));
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let pair = [&["link", "add", near][..], &queues, &["type", "veth", "peer", far], &queues].concat();
        run(Command::new("ip").args(pair))?;
        for end in [near, far] {
            run(Command::new("ip").args(["link", "set", end, "up"]))?;
        }
        attach(far)?;
        // A network's cards are in the /sys that was mounted there.
        let thread = format!("mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/{far}/threaded");
        run(Command::new("unshare").args(["--mount", "sh", "-c", &thread]))?;
        sys::pin(napi_thread(far)?, cpu)?;
        Ok(Self { near: FrameSocket::open(near)? })
    }

    /// What the program took for all frames of a burst together.
    pub(super) fn burst(&self, program: &Xdp, frames: &[&[u8]]) -> Result<Duration, Box<dyn Error>> {
        let before = program.info()?;
        for frame in frames {
            self.near.send(frame)?;
        }
        let sent = Instant::now();
        loop {
            // The thread at the far end has the CPU now.
            std::thread::sleep(Duration::from_micros(50));
            let after = program.info()?;
            match after.run_count() - before.run_count() {
                all if all == frames.len() as u64 => return Ok(after.run_time() - before.run_time()),
                some if some > frames.len() as u64 => return Err("frames came that we did not send".into()),
                some if sent.elapsed() > PATIENCE => {
                    return Err(format!("of {} frames {some} arrived", frames.len()).into());
                }
                _ => {}
            }
        }
    }
}

/// The kernel's thread that polls a card.
fn napi_thread(card: &str) -> Result<Pid, Box<dyn Error>> {
    let name = format!("napi/{card}-");
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if comm.starts_with(&name) {
            return Ok(process.file_name().to_string_lossy().parse()?);
        }
    }
    Err(format!("the kernel has no thread {name}…").into())
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}
