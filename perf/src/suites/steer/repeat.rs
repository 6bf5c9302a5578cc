//! Test runs: the kernel repeats a program, with one frame or with many in turn.

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, ProgramArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};

/// Programs and maps for those who measure, built beside those that steer.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../ebpf-programs/measure.bpf.o");

/// Bytes of a frame that is drawn; shorter ones are padded.
const FRAME_LEN: usize = 160;
/// Of these, those that differ from flow to flow.
type Window = [u64; 8];
const WINDOW: Range<usize> = 16..80;

/// What the program says when something is wrong: XDP_ABORTED.
const ABORTED: u32 = 0;

/// The programs of [`OBJECT`].
pub(super) struct Repeater {
    object: Ebpf,
    /// One of those that were laid out.
    frame: [u8; FRAME_LEN],
}

/// What one run took, by two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// By the test run: the time of all, divided.
    pub(super) tested_ns: f64,
    /// By the kernel's account of the program, which is longer by a look at a clock.
    pub(super) account_ns: f64,
}

impl Run {
    /// Longer than any.
    pub(super) const ENDLESS: Self = Self { tested_ns: f64::INFINITY, account_ns: f64::INFINITY };

    /// The shorter one, by each clock.
    pub(super) fn or_shorter(self, other: Self) -> Self {
        Self {
            tested_ns: self.tested_ns.min(other.tested_ns),
            account_ns: self.account_ns.min(other.account_ns),
        }
    }
}

impl Repeater {
    pub(super) fn load() -> Result<Self, Box<dyn Error>> {
        let mut object = Ebpf::load(OBJECT)?;
        for name in ["berth_empty", "berth_drawn"] {
            let program: &mut Xdp =
                object.program_mut(name).ok_or("the object lacks a program")?.try_into()?;
            program.load()?;
        }
        Ok(Self { object, frame: [0; FRAME_LEN] })
    }

    /// The program that does nothing.
    pub(super) fn empty(&mut self) -> Result<&mut Xdp, Box<dyn Error>> {
        Ok(self.object.program_mut("berth_empty").ok_or("the object lacks a program")?.try_into()?)
    }

    /// The frames that are drawn from now on, all of one kind.
    pub(super) fn lay_out(&mut self, frames: &[Vec<u8>]) -> Result<(), Box<dyn Error>> {
        self.frame = padded(frames.first().ok_or("there is no frame")?)?;
        let map = self.object.map_mut("WINDOWS").ok_or("the object lacks a map")?;
        let mut windows: Array<_, Window> = Array::try_from(map)?;
        for (place, frame) in (0..).zip(frames) {
            let frame = padded(frame)?;
            if frame[..WINDOW.start] != self.frame[..WINDOW.start]
                || frame[WINDOW.end..] != self.frame[WINDOW.end..]
            {
                return Err("frames of one kind differ outside of the window".into());
            }
            let mut value: Window = Default::default();
            let (words, _) = frame[WINDOW].as_chunks();
            value.iter_mut().zip(words).for_each(|(word, bytes)| *word = u64::from_ne_bytes(*bytes));
            windows.set(place, value, 0)?;
        }
        Ok(())
    }

    /// Draws that many frames, and runs a program with each (`None`: the empty one).
    pub(super) fn draw(&mut self, measured: Option<&Xdp>, repeat: u32) -> Result<Run, Box<dyn Error>> {
        let measured = match measured {
            Some(program) => program.fd()?.try_clone()?,
            None => self.empty()?.fd()?.try_clone()?,
        };
        let map = self.object.map_mut("MEASURED").ok_or("the object lacks a map")?;
        ProgramArray::try_from(map)?.set(0, &measured, 0)?;
        let drawn: &Xdp =
            self.object.program("berth_drawn").ok_or("the object lacks a program")?.try_into()?;
        run(drawn, &self.frame, repeat)
    }
}

fn padded(frame: &[u8]) -> Result<[u8; FRAME_LEN], Box<dyn Error>> {
    let mut padded = [0; FRAME_LEN];
    padded.get_mut(..frame.len()).ok_or("a frame is too long")?.copy_from_slice(frame);
    Ok(padded)
}

/// Runs a program with a frame, as often as told.
pub(super) fn run(program: &Xdp, frame: &[u8], repeat: u32) -> Result<Run, Box<dyn Error>> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = repeat;
    let before = program.info()?;
    let tested = program.test_run(options)?;
    let after = program.info()?;
    if tested.return_value == ABORTED || after.run_count() - before.run_count() != u64::from(repeat) {
        return Err("the kernel keeps no account of run times, or somebody else runs the program".into());
    }
    let per_run = |time: Duration| time.as_nanos() as f64 / f64::from(repeat);
    Ok(Run {
        tested_ns: tested.duration.as_nanos() as f64,
        account_ns: per_run(after.run_time() - before.run_time()),
    })
}
