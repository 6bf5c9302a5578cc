//! The thread beside the node of `berth dev`: builds and deploys the project, then does so again after each change.
//!
//! It goes through the admin API like everybody, so that what works here works elsewhere. When anything fails it says so
//! and waits for the next change; what was deployed before goes on.
//!
//! The build runs in a process group of its own, and is ended with the node: a build that outlives its terminal would
//! go on unseen.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::snapshot::Snapshot;
use crate::admin_client::Admin;
use crate::build;
use crate::deploy::{deploy, urls};
use crate::progress::Progress;
use crate::project::{FILE, Project};
use crate::{Failure, io_failure};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How often a build is asked whether it is done.
const BUILD_LOOK: Duration = Duration::from_millis(20);
/// Looks that may pass until files that change have come to rest.
const LOOKS_TO_REST_MAX: u32 = 20;

/// The thread's other end.
pub(super) struct Deployer {
    running: Arc<Mutex<Running>>,
}

/// What has to end with the node.
#[derive(Default)]
struct Running {
    /// The process group of the build.
    build: Option<Pid>,
    is_over: bool,
}

/// What a change asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Build,
    Deploy,
}

impl Deployer {
    /// Starts it, for the project at `path`, which was read once already.
    pub(super) fn start(path: PathBuf, project: Project, admin: Admin) -> Result<Self, Failure> {
        let running = Arc::default();
        let work = Work { path, project, admin, running: Arc::clone(&running), told_urls: false };
        let started = std::thread::Builder::new().name("deployer".to_owned()).spawn(move || work.run());
        started.map_err(io_failure("starting the thread that deploys"))?;
        Ok(Self { running })
    }

    /// Ends a build that runs, and starts no other.
    pub(super) fn stop(self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.is_over = true;
        if let Some(group) = running.build {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

struct Work {
    path: PathBuf,
    /// As it was read the last time that it could be.
    project: Project,
    admin: Admin,
    running: Arc<Mutex<Running>>,
    told_urls: bool,
}

impl Work {
    /// Until the process ends.
    fn run(mut self) {
        let mut due = Due::Build;
        loop {
            // From before the build: what is changed while it runs is built again. Components from after it: it writes them.
            let sources = Snapshot::of(&self.sources());
            if let Err(failure) = self.round(due) {
                eprintln!("berth: {failure}\nberth: waiting for a change; what was deployed before goes on");
            }
            due = self.wait(&sources, &Snapshot::of(&self.components()));
        }
    }

    fn round(&mut self, due: Due) -> Result<(), Failure> {
        self.project = open(&self.path)?;
        if due == Due::Build {
            self.build()?;
        }
        let deployed = deploy(&self.project, &self.admin, &mut Progress::none())?;
        let scripts: Vec<String> =
            deployed.scripts.iter().map(|(worker, id)| format!("{worker} {}", short(id))).collect();
        println!("deployed {} version {}: {}", deployed.zone, deployed.version, scripts.join(", "));
        if !std::mem::replace(&mut self.told_urls, true) {
            urls(&self.project.hosts, &self.admin.read("/v1/status")?)
                .iter()
                .for_each(|url| println!("  {url}"));
        }
        Ok(())
    }

    fn build(&self) -> Result<(), Failure> {
        let Some(status) = self.run_build()? else { return Ok(()) };
        build::verdict(&self.project, status)
    }

    /// Runs the build, if there is one. Whoever holds the lock sees a process group that is still there.
    fn run_build(&self) -> Result<Option<ExitStatus>, Failure> {
        let lock = || self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = {
            let mut running = lock();
            if running.is_over {
                return Err("the node ends".into());
            }
            let Some(child) = build::start(&self.project)? else { return Ok(None) };
            println!("building {}", self.project.name);
            running.build = Some(Pid::from_child(&child));
            child
        };
        loop {
            let mut running = lock();
            if let Some(status) = child.try_wait()? {
                running.build = None;
                return Ok(Some(status));
            }
            drop(running);
            std::thread::sleep(BUILD_LOOK);
        }
    }

    /// Waits for a change, and until it is over: a large file is not written at once.
    fn wait(&self, sources: &Snapshot, components: &Snapshot) -> Due {
        let look = || (Snapshot::of(&self.sources()), Snapshot::of(&self.components()));
        let mut now = look();
        while (&now.0, &now.1) == (sources, components) {
            std::thread::sleep(LOOK);
            now = look();
        }
        for _ in 0..LOOKS_TO_REST_MAX {
            std::thread::sleep(LOOK);
            let before = std::mem::replace(&mut now, look());
            if before == now {
                break;
            }
        }
        if now.0 == *sources { Due::Deploy } else { Due::Build }
    }

    /// What the build reads.
    fn sources(&self) -> Vec<PathBuf> {
        let file = if self.path.is_dir() { self.path.join(FILE) } else { self.path.clone() };
        let components = self.components();
        let watched = self.project.build.watch.iter().cloned();
        watched.chain([file]).filter(|path| !components.contains(path)).collect()
    }

    /// What the build writes.
    fn components(&self) -> Vec<PathBuf> {
        self.project.codes().map(|(_, code)| self.project.folder.join(&code.component)).collect()
    }
}

/// Reads a project for a node on the maker's own machine: it gets the requests to every other host, too.
pub(super) fn open(path: &Path) -> Result<Project, Failure> {
    let mut project = Project::open(path)?;
    if !project.hosts.iter().any(|host| host == "*") {
        project.hosts.push("*".to_owned());
    }
    Ok(project)
}

/// As much of an id as people compare.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
