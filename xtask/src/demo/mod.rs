//! `cargo xtask demo`: a node on this machine, in one command.
//!
//! Builds `berth` in release mode, starts `berth dev` on an empty state folder, deploys the examples to it, and shows how
//! to talk to it until Ctrl-C. With `--smoke` it makes the same requests itself, checks the answers,
//! stops the node and exits 0 or 1; with `--kill` it kills its node in the middle of writes and looks what the next one has. As root it also shows packets being steered, in network namespaces.

mod kill;
mod node;
mod smoke;
mod steering;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::demo::node::Node;
use crate::demo::smoke::Http3;
use crate::demo::steering::Shown;
use crate::demo::workers::Workers;
use crate::examples;
use crate::shell::{self, Failure};
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Make the requests, check the answers, and stop
    #[arg(long)]
    smoke: bool,
    /// Kill the node with SIGKILL while clients write, start it again, show that nothing was lost, and stop
    #[arg(long)]
    kill: bool,
}

/// How often we look whether somebody pressed Ctrl-C or the node ended. Short enough not to be felt.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Failure> {
    // Caught from the start, so that the node never outlives us, not even while it comes up.
    let stop = catch_signals()?;
    smoke::provide_curl()?;
    let http3 = if arguments.smoke { smoke::provide_aioquic(workspace) } else { Ok(()) };
    let javascript = examples::build(workspace)?;
    shell::run(workspace.cargo(["build", "--release", "--package", "berth-cli", "--bin", "berth"]))?;
    let mut node = Node::start(workspace)?;
    node.wait_until_ready(&stop)?;
    let workers = Workers::deploy(workspace, &node, javascript)?;
    if arguments.kill || arguments.smoke {
        kill::run(workspace, &mut node, &stop)?;
    }
    if arguments.kill && !arguments.smoke {
        return node.stop();
    }
    if arguments.smoke {
        let asked = if http3.is_ok() { Http3::Asked } else { Http3::LeftOut };
        smoke::run(workspace, &mut node, &workers, asked)?;
        let steered = steering::show(workspace)?;
        left_out(&workers, &steered);
        if let Err(missing) = http3 {
            println!("  requests over HTTP/3: {missing}");
        }
        return Ok(());
    }
    let steered = steering::show(workspace)?;
    introduce(&node, &workers, &steered);
    wait_for_the_end(&mut node, &stop)
}

fn catch_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second Ctrl-C ends us at once, whatever the node does.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Failure::new(format!("cannot catch signal {signal}: {error}")))?;
    }
    Ok(stop)
}

fn introduce(node: &Node, workers: &Workers, steered: &Shown) {
    let (plain, tls, admin) = (&node.plain, &node.tls, &node.admin);
    println!(
        "\nBerth runs. Try, in another terminal:\n\
         \n  HTTP/1.1             curl -i http://{plain}/\
         \n  HTTP/2, clear text   curl -i --http2-prior-knowledge http://{plain}/\
         \n  HTTP/2 over TLS      curl -i --insecure https://{tls}/\
         \n  HTTP/3               curl -i --insecure --http3-only https://{tls}/ (where curl speaks it)\
         \n  echo a body          curl --data-binary 'ahoy' http://{plain}/echo\
         \n  stream a body        curl --output /dev/null http://{plain}/stream/1MiB\
         \n  what it counts       curl http://{admin}/metrics\
         {}\n\
         \nThe certificate is self-made, hence --insecure.\n",
        workers.lines(node)
    );
    left_out(workers, steered);
    println!(
        "`cargo xtask demo --kill` kills such a node while clients write, and shows what the next one has."
    );
    println!("Ctrl-C stops it.");
}

fn left_out(workers: &Workers, steered: &Shown) {
    if workers.left_out().is_empty() && !matches!(steered, Shown::No(_)) {
        return;
    }
    println!("Left out of this demo:");
    if let Shown::No(why) = steered {
        println!("  XDP and reuseport steering in network namespaces: {why}");
    }
    for what in workers.left_out() {
        println!("  {what}");
    }
}

fn wait_for_the_end(node: &mut Node, stop: &AtomicBool) -> Result<(), Failure> {
    while !stop.load(Ordering::Relaxed) {
        if let Some(status) = node.ended()? {
            return Err(Failure::new(format!("berth ended by itself: {status}; its own words are above")));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    println!("\nStopping.");
    node.stop()
}
