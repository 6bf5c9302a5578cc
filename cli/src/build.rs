//! `berth build`: makes the components of a project by its own command.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::Failure;
use crate::output::show;
use crate::project::{Owner, Project};

/// The flags of `berth build`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder with `berth.toml`.
    #[arg(default_value = ".")]
    path: PathBuf,
}

/// Builds and says which components there are.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let project = Project::open(&arguments.path)?;
    if project.build.command.is_none() {
        return Err("the project has no [build] command; write one, or make its components yourself".into());
    }
    build(&project)?;
    let mut shown = String::new();
    for (owner, code) in project.codes() {
        let component = project.folder.join(&code.component);
        let bytes =
            std::fs::metadata(&component).map_err(|error| no_component(&owner, &component, &error))?.len();
        shown += &format!("{owner}  {}  {bytes} bytes\n", component.display());
    }
    show(&shown)
}

/// Runs the project's command, if it has one. Its words go to standard error: standard output has results alone.
pub(crate) fn build(project: &Project) -> Result<(), Failure> {
    let Some(mut command) = shell(project) else { return Ok(()) };
    let status = command
        .stdout(std::io::stderr())
        .status()
        .map_err(|error| format!("the build cannot start: {error}"))?;
    verdict(project, status)
}

/// Starts the project's command in a process group of its own, so that it can be ended with all that it starts.
pub(crate) fn start(project: &Project) -> Result<Option<Child>, Failure> {
    let Some(mut command) = shell(project) else { return Ok(None) };
    let child =
        command.process_group(0).spawn().map_err(|error| format!("the build cannot start: {error}"))?;
    Ok(Some(child))
}

/// Whether a build went well.
pub(crate) fn verdict(project: &Project, status: ExitStatus) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    let command = project.build.command.as_deref().unwrap_or_default();
    Err(format!("the build failed ({status}): {command}; what it says is above").into())
}

/// What to say when a component cannot be read.
pub(crate) fn no_component(owner: &Owner, path: &std::path::Path, error: &std::io::Error) -> String {
    format!(
        "{} {}: {}: {error}; does the build put the component there? See [build] and component in the project's file",
        owner.kind(),
        owner.name(),
        path.display()
    )
}

fn shell(project: &Project) -> Option<Command> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(project.build.command.as_ref()?).stdin(Stdio::null());
    // The folder of `berth.toml` alone is no path at all, and means this one.
    if !project.folder.as_os_str().is_empty() {
        command.current_dir(&project.folder);
    }
    Some(command)
}
