//! `berth new`: a project from a template, ready to build.
//!
//! The templates are in this program, so that they fit its version. `{{name}}` in them is the project's name. What the SDK
//! for objects is, a project gets as a folder: it is in no registry, and such a project builds wherever it is taken.

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
    /// A class of objects in Rust.
    RustObject,
    /// A worker in JavaScript.
    JsWorker,
    /// A class of objects in JavaScript.
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

const RUST_OBJECT: &[File] = &[
    (".gitignore", include_str!("../templates/rust-object/.gitignore")),
    ("Cargo.toml", include_str!("../templates/rust-object/Cargo.toml")),
    ("README.md", include_str!("../templates/rust-object/README.md")),
    ("berth.toml", include_str!("../templates/rust-object/berth.toml")),
    ("src/lib.rs", include_str!("../templates/rust-object/src/lib.rs")),
];

/// The SDK for objects in Rust, with the licence that it comes under. Written as it is.
const RUST_SDK: &[File] = &[
    ("berth-object/Cargo.toml", include_str!("../../sdk/rust/Cargo.toml")),
    ("berth-object/LICENSE", include_str!("../../LICENSE")),
    ("berth-object/README.md", include_str!("../../sdk/rust/README.md")),
    ("berth-object/src/alarms.rs", include_str!("../../sdk/rust/src/alarms.rs")),
    ("berth-object/src/context.rs", include_str!("../../sdk/rust/src/context.rs")),
    ("berth-object/src/error.rs", include_str!("../../sdk/rust/src/error.rs")),
    ("berth-object/src/identity.rs", include_str!("../../sdk/rust/src/identity.rs")),
    ("berth-object/src/lib.rs", include_str!("../../sdk/rust/src/lib.rs")),
    ("berth-object/src/message.rs", include_str!("../../sdk/rust/src/message.rs")),
    ("berth-object/src/object.rs", include_str!("../../sdk/rust/src/object.rs")),
    ("berth-object/src/outgoing.rs", include_str!("../../sdk/rust/src/outgoing.rs")),
    ("berth-object/src/run.rs", include_str!("../../sdk/rust/src/run.rs")),
    ("berth-object/src/sockets.rs", include_str!("../../sdk/rust/src/sockets.rs")),
    ("berth-object/src/storage.rs", include_str!("../../sdk/rust/src/storage.rs")),
    ("berth-object/wit/object.wit", include_str!("../../isolate-host/wit/object/object.wit")),
];

/// What workers need beyond their template comes from registries.
const NO_SDK: &[File] = &[];

const JS_WORKER: &[File] = &[
    (".gitignore", include_str!("../templates/js-worker/.gitignore")),
    ("README.md", include_str!("../templates/js-worker/README.md")),
    ("berth.toml", include_str!("../templates/js-worker/berth.toml")),
    ("package.json", include_str!("../templates/js-worker/package.json")),
    ("src/worker.js", include_str!("../templates/js-worker/src/worker.js")),
    ("wit/worker.wit", include_str!("../templates/js-worker/wit/worker.wit")),
];

const JS_OBJECT: &[File] = &[
    (".gitignore", include_str!("../templates/js-object/.gitignore")),
    ("README.md", include_str!("../templates/js-object/README.md")),
    ("berth.toml", include_str!("../templates/js-object/berth.toml")),
    ("package.json", include_str!("../templates/js-object/package.json")),
    ("src/object.js", include_str!("../templates/js-object/src/object.js")),
];

/// The SDK for objects in JavaScript, without its tests.
const JS_SDK: &[File] = &[
    ("berth-object/LICENSE", include_str!("../../LICENSE")),
    ("berth-object/README.md", include_str!("../../sdk/js/README.md")),
    ("berth-object/build.mjs", include_str!("../../sdk/js/build.mjs")),
    ("berth-object/index.d.ts", include_str!("../../sdk/js/index.d.ts")),
    ("berth-object/package.json", include_str!("../../sdk/js/package.json")),
    ("berth-object/src/alarms.js", include_str!("../../sdk/js/src/alarms.js")),
    ("berth-object/src/errors.js", include_str!("../../sdk/js/src/errors.js")),
    ("berth-object/src/events.js", include_str!("../../sdk/js/src/events.js")),
    ("berth-object/src/host.js", include_str!("../../sdk/js/src/host.js")),
    ("berth-object/src/index.js", include_str!("../../sdk/js/src/index.js")),
    ("berth-object/src/object.js", include_str!("../../sdk/js/src/object.js")),
    ("berth-object/src/outgoing.js", include_str!("../../sdk/js/src/outgoing.js")),
    ("berth-object/src/prelude.js", include_str!("../../sdk/js/src/prelude.js")),
    ("berth-object/src/serve.js", include_str!("../../sdk/js/src/serve.js")),
    ("berth-object/src/sockets.js", include_str!("../../sdk/js/src/sockets.js")),
    ("berth-object/src/storage.js", include_str!("../../sdk/js/src/storage.js")),
    ("berth-object/src/turn.js", include_str!("../../sdk/js/src/turn.js")),
    ("berth-object/src/web/abort.js", include_str!("../../sdk/js/src/web/abort.js")),
    ("berth-object/src/web/clone.js", include_str!("../../sdk/js/src/web/clone.js")),
    ("berth-object/src/web/console.js", include_str!("../../sdk/js/src/web/console.js")),
    ("berth-object/src/web/crypto.js", include_str!("../../sdk/js/src/web/crypto.js")),
    ("berth-object/src/web/encoding.js", include_str!("../../sdk/js/src/web/encoding.js")),
    ("berth-object/src/web/fetch.js", include_str!("../../sdk/js/src/web/fetch.js")),
    ("berth-object/src/web/headers.js", include_str!("../../sdk/js/src/web/headers.js")),
    ("berth-object/src/web/host.js", include_str!("../../sdk/js/src/web/host.js")),
    ("berth-object/src/web/jobs.js", include_str!("../../sdk/js/src/web/jobs.js")),
    ("berth-object/src/web/percent.js", include_str!("../../sdk/js/src/web/percent.js")),
    ("berth-object/src/web/url.js", include_str!("../../sdk/js/src/web/url.js")),
    ("berth-object/wit/deps/cli.wit", include_str!("../../isolate-host/wit/deps/cli.wit")),
    ("berth-object/wit/deps/clocks.wit", include_str!("../../isolate-host/wit/deps/clocks.wit")),
    ("berth-object/wit/deps/config.wit", include_str!("../../isolate-host/wit/deps/config.wit")),
    ("berth-object/wit/deps/io.wit", include_str!("../../isolate-host/wit/deps/io.wit")),
    ("berth-object/wit/deps/object/object.wit", include_str!("../../isolate-host/wit/object/object.wit")),
    ("berth-object/wit/deps/random.wit", include_str!("../../isolate-host/wit/deps/random.wit")),
    ("berth-object/wit/world.wit", include_str!("../../sdk/js/wit/world.wit")),
];

/// Makes the project in a new folder.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let name = &arguments.name;
    let (files, sdk) = match arguments.template {
        Template::RustWorker => (RUST_WORKER, NO_SDK),
        Template::RustObject => (RUST_OBJECT, RUST_SDK),
        Template::JsWorker => (JS_WORKER, NO_SDK),
        Template::JsObject => (JS_OBJECT, JS_SDK),
        Template::PythonWorker => {
            return Err("this template is not built yet; the others are".into());
        }
    };
    write(Path::new(name), name, files, sdk)?;
    println!("made {name}; now:\n  cd {name}\n  berth dev .");
    Ok(())
}

/// Writes the files into a folder that is not there yet: a template's with the name, an SDK's as they are.
fn write(folder: &Path, name: &str, files: &[File], sdk: &[File]) -> Result<(), Failure> {
    std::fs::create_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            format!("{} is there already; choose another name, or remove it", folder.display())
        }
        _ => failed(folder, &error),
    })?;
    for (path, text) in files {
        write_file(&folder.join(path), &fill(text, name))?;
    }
    for (path, text) in sdk {
        write_file(&folder.join(path), text)?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    Ok(std::fs::write(path, text).map_err(|error| failed(path, &error))?)
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
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
        let templates =
            [(RUST_WORKER, NO_SDK), (RUST_OBJECT, RUST_SDK), (JS_WORKER, NO_SDK), (JS_OBJECT, JS_SDK)];
        for (index, (files, sdk)) in templates.into_iter().enumerate() {
            let folder = std::env::temp_dir().join(format!("berth-new-{}-{index}", std::process::id()));
            write(&folder, "my-worker", files, sdk).unwrap();
            for (path, _) in files {
                let text = std::fs::read_to_string(folder.join(path)).unwrap();
                assert!(!text.contains("{{"), "{path}");
            }
            for (path, text) in sdk {
                assert_eq!(std::fs::read_to_string(folder.join(path)).unwrap(), *text);
            }
            let project = Project::open(&folder).unwrap();
            assert_eq!(project.name, "my-worker");
            assert!(project.hosts.contains(&"my-worker.localhost".to_owned()), "{:?}", project.hosts);
            assert!(project.build.command.is_some());
            assert_eq!(project.codes().count(), 1);
            let failure = write(&folder, "my-worker", files, sdk).unwrap_err().to_string();
            assert!(failure.contains("is there already"), "{failure}");
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    /// Files of a folder with those of its folders, by their paths in it.
    fn files_below(root: &Path, found: &mut Vec<String>, path: &str) {
        for entry in std::fs::read_dir(root.join(path)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            match root.join(&path).is_dir() {
                true => files_below(root, found, &path),
                false => found.push(path),
            }
        }
    }

    #[test]
    fn every_file_of_a_template_is_in_the_program() {
        let templates = [
            ("rust-worker", RUST_WORKER),
            ("rust-object", RUST_OBJECT),
            ("js-worker", JS_WORKER),
            ("js-object", JS_OBJECT),
        ];
        for (template, files) in templates {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(template);
            let mut found = Vec::new();
            files_below(&root, &mut found, "");
            found.sort();
            assert_eq!(found, files.iter().map(|(path, _)| *path).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_whole_sdks_are_in_the_program() {
        let rust = &["Cargo.toml", "LICENSE", "README.md"][..];
        let javascript = &["LICENSE", "README.md", "build.mjs", "index.d.ts", "package.json"];
        for (sdk, files, single) in [("rust", RUST_SDK, rust), ("js", JS_SDK, javascript)] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk").join(sdk);
            let mut found: Vec<String> = single.iter().copied().map(str::to_owned).collect();
            files_below(&root, &mut found, "src");
            files_below(&root, &mut found, "wit");
            found.sort();
            let files: Vec<_> =
                files.iter().filter_map(|(path, _)| path.strip_prefix("berth-object/")).collect();
            assert_eq!(found, files);
        }
    }
}
