//! Rounds, and the table that they give.

use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::client::Client;
use crate::servers::Variant;
use crate::{CLIENT_CPU, Load, Plan, pin_to};

/// One variant under one load in one round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// CPU time of the server per answer, in microseconds.
    cpu_us: f64,
    /// How often the server slept per answer.
    sleeps: f64,
    /// The share of the window that the server ran.
    busy: f64,
}

pub(crate) fn run(plan: &Plan) -> io::Result<()> {
    pin_to(CLIENT_CPU)?;
    let mut samples = vec![vec![Vec::with_capacity(plan.rounds); plan.variants.len()]; plan.loads.len()];
    for _ in 0..plan.rounds {
        for (load, of_load) in plan.loads.iter().zip(&mut samples) {
            for (variant, of_variant) in plan.variants.iter().zip(of_load) {
                of_variant.push(sample(plan, *variant, *load)?);
            }
        }
    }
    println!("CPU of the server per request; medians of {} rounds, [quartiles]", plan.rounds);
    for (load, of_load) in plan.loads.iter().zip(&samples) {
        print_load(plan, *load, of_load);
    }
    Ok(())
}

fn print_load(plan: &Plan, load: Load, samples: &[Vec<Sample>]) {
    match load {
        Load::Paced => println!("\n1 connection, a pause before each request"),
        Load::Closed(count) => println!("\n{count} connections"),
    }
    println!("{:18} {:>8} {:>22} {:>9} {:>6}", "", "us/req", "ratio to the first", "sleeps/r", "busy");
    for (variant, own) in plan.variants.iter().zip(samples) {
        let mut ratios: Vec<f64> =
            own.iter().zip(&samples[0]).map(|(own, first)| own.cpu_us / first.cpu_us).collect();
        ratios.sort_by(f64::total_cmp);
        let column = |pick: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = own.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            quantile(&values, 0.5)
        };
        println!(
            "{:18} {:8.2} {:>7.3} [{:.3} - {:.3}] {:9.3} {:5.0}%",
            variant.name(),
            column(|sample| sample.cpu_us),
            quantile(&ratios, 0.5),
            quantile(&ratios, 0.25),
            quantile(&ratios, 0.75),
            column(|sample| sample.sleeps),
            column(|sample| sample.busy) * 100.0,
        );
    }
}

fn quantile(sorted: &[f64], at: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * at).round() as usize]
}

fn sample(plan: &Plan, variant: Variant, load: Load) -> io::Result<Sample> {
    let server = Server::start(variant)?;
    let mut client = Client::connect(server.address, load)?;
    client.run(plan.warm_up)?;
    let (before, began) = (server.usage()?, Instant::now());
    let answers = client.run(plan.window)? as f64;
    let (after, wall) = (server.usage()?, began.elapsed());
    let cpu_ns = (after.cpu_ns - before.cpu_ns) as f64;
    Ok(Sample {
        cpu_us: cpu_ns / answers / 1000.0,
        sleeps: (after.sleeps - before.sleeps) as f64 / answers,
        busy: cpu_ns / wall.as_nanos() as f64,
    })
}

/// A server process; it ends when this is dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

/// What a process has used so far, over all its threads.
#[derive(Debug, Default)]
struct Usage {
    cpu_ns: u64,
    sleeps: u64,
}

impl Server {
    fn start(variant: Variant) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", variant.name()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let port = line.trim().parse().map_err(|_| io::Error::other(format!("{variant:?} did not start")))?;
        Ok(Self { process, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage::default();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let task = task?.path();
            let schedstat = std::fs::read_to_string(task.join("schedstat"))?;
            usage.cpu_ns += number(schedstat.split_whitespace().next())?;
            let status = std::fs::read_to_string(task.join("status"))?;
            usage.sleeps +=
                number(status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")))?;
        }
        Ok(usage)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn number(text: Option<&str>) -> io::Result<u64> {
    text.and_then(|text| text.trim().parse().ok()).ok_or_else(|| io::Error::other("/proc has another format"))
}
