//! `wasi:filesystem`: there is none. Standard libraries import it whether their programs open files or not, so that its
//! types must be there; since no guest ever gets a descriptor, no function of one can be called.

use wasmtime::component::{Linker, LinkerInstance, ResourceType, Val};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, Error as IoError};

use crate::guest::Guest;

/// Types that no value has.
enum Descriptor {}
enum DirectoryEntryStream {}

const METHODS: [&str; 29] = [
    "[method]descriptor.read-via-stream",
    "[method]descriptor.write-via-stream",
    "[method]descriptor.append-via-stream",
    "[method]descriptor.advise",
    "[method]descriptor.sync-data",
    "[method]descriptor.get-flags",
    "[method]descriptor.get-type",
    "[method]descriptor.set-size",
    "[method]descriptor.set-times",
    "[method]descriptor.read",
    "[method]descriptor.write",
    "[method]descriptor.read-directory",
    "[method]descriptor.sync",
    "[method]descriptor.create-directory-at",
    "[method]descriptor.stat",
    "[method]descriptor.stat-at",
    "[method]descriptor.set-times-at",
    "[method]descriptor.link-at",
    "[method]descriptor.open-at",
    "[method]descriptor.readlink-at",
    "[method]descriptor.remove-directory-at",
    "[method]descriptor.rename-at",
    "[method]descriptor.symlink-at",
    "[method]descriptor.unlink-file-at",
    "[method]descriptor.is-same-object",
    "[method]descriptor.metadata-hash",
    "[method]descriptor.metadata-hash-at",
    "[method]directory-entry-stream.read-directory-entry",
    "filesystem-error-code",
];

pub(super) fn add_types(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut instance = linker.instance("wasi:filesystem/types@0.2.12")?;
    for (name, resource) in [
        ("descriptor", ResourceType::host::<Descriptor>()),
        ("directory-entry-stream", ResourceType::host::<DirectoryEntryStream>()),
        ("input-stream", ResourceType::host::<DynInputStream>()),
        ("output-stream", ResourceType::host::<DynOutputStream>()),
        ("error", ResourceType::host::<IoError>()),
    ] {
        instance.resource(name, resource, |_, _| Ok(()))?;
    }
    for name in METHODS {
        refuse(&mut instance, name)?;
    }
    Ok(())
}

fn refuse(instance: &mut LinkerInstance<'_, Guest>, name: &'static str) -> wasmtime::Result<()> {
    instance.func_new(name, move |_, _, _, results| match results {
        // Of `filesystem-error-code`: no error is one of a file system.
        [result] if name == "filesystem-error-code" => {
            *result = Val::Option(None);
            Ok(())
        }
        _ => Err(wasmtime::format_err!("{name}: there is no file system")),
    })
}

pub(super) fn add_preopens(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut instance = linker.instance("wasi:filesystem/preopens@0.2.12")?;
    instance.resource("descriptor", ResourceType::host::<Descriptor>(), |_, _| Ok(()))?;
    instance.func_new("get-directories", |_, _, _, results| {
        if let [result] = results {
            *result = Val::List(Vec::new());
        }
        Ok(())
    })
}
