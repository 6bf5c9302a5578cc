//! Where the tree is, how cargo is started in it, and which text files it holds.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::shell::{self, Failure};

/// The checkout that this xtask belongs to.
#[derive(Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

/// A text file of the tree, as the source rules see it.
pub(crate) struct TextFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Workspace {
    /// Finds the tree through the environment that `cargo run` sets.
    pub(crate) fn find() -> Result<Self, Failure> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| {
            Failure::new("CARGO_MANIFEST_DIR is not set: start this program as `cargo xtask`, not by itself")
        })?;
        let root = Path::new(&manifest).parent().expect("xtask is a folder of the workspace").to_path_buf();
        let mut workspace = Self { target: root.join("target"), root };
        let metadata = workspace.metadata()?;
        if let Some(target) = metadata["target_directory"].as_str() {
            workspace.target = PathBuf::from(target);
        }
        Ok(workspace)
    }

    /// A path below the root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A path below the folder of build output.
    pub(crate) fn target(&self, relative: &str) -> PathBuf {
        self.target.join(relative)
    }

    /// `cargo` with these arguments, in the root. Found in PATH, so that `+nightly` works too.
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// `cargo metadata` of the members only: needs no network and no lock file.
    pub(crate) fn metadata(&self) -> Result<Value, Failure> {
        let json = shell::capture(self.cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&json).map_err(|error| Failure::new(format!("cargo metadata: {error}")))
    }

    /// Reads a file of the tree; `None` if it is not there.
    pub(crate) fn read(&self, relative: &str) -> Result<Option<String>, Failure> {
        match fs::read_to_string(self.path(relative)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::new(format!("cannot read {relative}: {error}"))),
        }
    }

    /// Writes a file of the tree, with its folders.
    pub(crate) fn write(&self, relative: &str, text: &str) -> Result<(), Failure> {
        let path = self.path(relative);
        let folder = path.parent().expect("a file of the tree has a folder");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| Failure::new(format!("cannot write {relative}: {error}")))
    }

    /// All text files that we wrote, sorted by path.
    ///
    /// The tree is walked rather than asked of git, so that an exported archive is checked too.
    pub(crate) fn text_files(&self) -> Result<Vec<TextFile>, Failure> {
        let mut files = Vec::new();
        self.walk(&self.root, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn walk(&self, folder: &Path, files: &mut Vec<TextFile>) -> Result<(), Failure> {
        let cannot_read = |error| Failure::new(format!("cannot read {}: {error}", folder.display()));
        for entry in fs::read_dir(folder).map_err(cannot_read)? {
            let path = entry.map_err(cannot_read)?.path();
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if path.is_dir() {
                if !is_foreign_folder(name) {
                    self.walk(&path, files)?;
                }
            } else if is_our_text(name) || folder == self.root.join(".ci") {
                let text = fs::read_to_string(&path)
                    .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
                let relative = path.strip_prefix(&self.root).expect("the walk starts at the root");
                files.push(TextFile { path: relative.to_string_lossy().into_owned(), text });
            }
        }
        Ok(())
    }
}

/// Folders whose files nobody wrote by hand.
fn is_foreign_folder(name: &str) -> bool {
    let hidden = name.starts_with('.') && ![".ci", ".cargo", ".config"].contains(&name);
    hidden || ["target", "corpus", "seeds", "artifacts", "node_modules"].contains(&name)
}

fn is_our_text(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str).unwrap_or_default();
    ["rs", "md", "toml", "sh", "py", "service", "html", "js", "wit", "yml"].contains(&extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_found_and_read() {
        let workspace = Workspace::find().unwrap();
        let files = workspace.text_files().unwrap();
        let has = |path: &str| files.iter().any(|file| file.path == path);
        assert!(has("xtask/src/workspace.rs") && has("Cargo.toml") && has(".ci/run"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/")));
    }

    #[test]
    fn build_output_and_corpora_are_not_ours() {
        for folder in ["target", ".git", "corpus", "seeds", "artifacts"] {
            assert!(is_foreign_folder(folder), "{folder}");
        }
        assert!(!is_foreign_folder("src"));
        assert!(!is_foreign_folder(".ci"));
    }
}
