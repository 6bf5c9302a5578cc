//! `berth new`: a project from a template, ready to build.
//!
//! The templates are in this program, so that they fit its version. `{{name}}` in them is the project's name.

use std::path::Path;

use crate::Failure;
use crate::project::parse_name;

/// The flags of `berth new`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What kind of project.
    template: Template,
    /// The name of the project, its folder and its zone.
    #[arg(value_parser = parse_name)]
    name: String,
}

/// The templates of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Template {
    /// A worker in Rust.
    RustWorker,
    /// An object in Rust: not built yet.
    RustObject,
    /// A worker in JavaScript.
    JsWorker,
    /// An object in JavaScript: not built yet.
    JsObject,
    /// A worker in Python: not built yet.
    PythonWorker,
}

/// A path in the project, and the text of that file.
type File = (&'static str, &'static str);

const RUST_WORKER: &[File] = &[
    (".gitignore", include_str!("../templates/rust-worker/.gitignore")),
    ("Cargo.toml", include_str!("../templates/rust-worker/Cargo.toml")),
    ("README.md", include_str!("../templates/rust-worker/README.md")),
    ("berth.toml", include_str!("../templates/rust-worker/berth.toml")),
    ("src/lib.rs", include_str!("../templates/rust-worker/src/lib.rs")),
];

const JS_WORKER: &[File] = &[
    (".gitignore", include_str!("../templates/js-worker/.gitignore")),
    ("README.md", include_str!("../templates/js-worker/README.md")),
    ("berth.toml", include_str!("../templates/js-worker/berth.toml")),
    ("package.json", include_str!("../templates/js-worker/package.json")),
    ("src/worker.js", include_str!("../templates/js-worker/src/worker.js")),
    ("wit/worker.wit", include_str!("../templates/js-worker/wit/worker.wit")),
];

/// Makes the project in a new folder.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let name = &arguments.name;
    let files = match arguments.template {
        Template::RustWorker => RUST_WORKER,
        Template::JsWorker => JS_WORKER,
        Template::RustObject | Template::JsObject | Template::PythonWorker => {
            return Err("this template is not built yet; rust-worker and js-worker are".into());
        }
    };
    write(Path::new(name), name, files)?;
    println!("made {name}; now:\n  cd {name}\n  berth dev .");
    Ok(())
}

/// Writes the files into a folder that is not there yet.
fn write(folder: &Path, name: &str, files: &[File]) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            format!("{} is there already; choose another name, or remove it", folder.display())
        }
        _ => failed(folder, error),
    })?;
    for (path, text) in files {
        let path = folder.join(path);
        let inner = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(inner).map_err(|error| failed(inner, error))?;
        std::fs::write(&path, fill(text, name)).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

fn fill(text: &str, name: &str) -> String {
    text.replace("{{name}}", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Project;

    #[test]
    fn templates_become_projects() {
        for files in [RUST_WORKER, JS_WORKER] {
            let folder = std::env::temp_dir().join(format!("berth-new-{}", std::process::id()));
            write(&folder, "my-worker", files).unwrap();
            for (path, _) in files {
                let text = std::fs::read_to_string(folder.join(path)).unwrap();
                assert!(!text.contains("{{"), "{path}");
            }
            let project = Project::open(&folder).unwrap();
            assert_eq!(project.name, "my-worker");
            assert!(project.hosts.contains(&"my-worker.localhost".to_owned()), "{:?}", project.hosts);
            assert!(project.build.command.is_some());
            let failure = write(&folder, "my-worker", files).unwrap_err().to_string();
            assert!(failure.contains("is there already"), "{failure}");
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn every_file_of_a_template_is_in_the_program() {
        for (template, files) in [("rust-worker", RUST_WORKER), ("js-worker", JS_WORKER)] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(template);
            let mut found = Vec::new();
            let mut folders = vec![root.clone()];
            while let Some(folder) = folders.pop() {
                for entry in std::fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    match path.is_dir() {
                        true => folders.push(path),
                        false => found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()),
                    }
                }
            }
            found.sort();
            assert_eq!(found, files.iter().map(|(path, _)| *path).collect::<Vec<_>>());
        }
    }
}
