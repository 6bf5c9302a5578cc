//! Libraries whose compiler is a shell that knows one answer: the code of a component that was compiled before.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::mpsc::Sender;
use std::task::Wake;
use std::time::Duration;

use super::*;
use crate::Settings;
use crate::compile::Budget;
use crate::tests::block_on;

/// Only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// Removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("berth-library-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn gate(&self) -> PathBuf {
        self.0.join("gate")
    }

    /// A library whose compiler waits until there is a file [`Folder::gate`].
    fn library(&self, bytes_max: usize) -> Arc<Library> {
        let code = self.0.join("compiled");
        fs::write(&code, compile::compile(&component(0)).unwrap()).unwrap();
        let script = format!(
            "while [ ! -e {} ]; do sleep 0.01; done; printf '\\0'; exec cat {}",
            self.gate().display(),
            code.display()
        );
        let compiler = Compiler {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script],
            budget: Budget::default(),
        };
        let host = Host::new(&Settings { instances: 4, ..Settings::default() }).unwrap();
        Library::open(&self.0, host, compiler, bytes_max).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A component that differs from the others in what its last section, which nobody reads, is called.
fn component(name: u8) -> Vec<u8> {
    let mut bytes = wat::parse_str(include_str!("../../../tests/guests/wat/table.wat")).unwrap();
    bytes.extend([0, 2, 1, b'a' + name]);
    bytes
}

#[test]
fn what_was_not_wanted_for_the_longest_time_makes_room_and_comes_back() {
    let folder = Folder::new("room");
    fs::write(folder.gate(), "").unwrap();
    let library = folder.library(usize::MAX);
    let ids: Vec<ScriptId> = (0..3).map(|name| library.add(&component(name)).unwrap()).collect();
    let want = |library: &Library, name: usize| block_on(library.script(&library.entry(ids[name]))).unwrap();
    let size = want(&library, 0).bytes();
    drop(library);

    let library = folder.library(2 * size + size / 2);
    let are_loaded = || [0, 1, 2].map(|name| library.is_loaded(ids[name]));
    let counts = || {
        let numbers = library.numbers();
        (numbers.loads.load(Relaxed), numbers.evictions.load(Relaxed))
    };
    want(&library, 0);
    let kept = want(&library, 1);
    want(&library, 0);
    assert_eq!((are_loaded(), counts()), ([true, true, false], (2, 0)), "two have room");
    want(&library, 2);
    assert_eq!((are_loaded(), counts()), ([true, false, true], (3, 1)), "the first was wanted again");
    assert_eq!(library.loaded(), (2, 2 * size));
    let again = want(&library, 1);
    assert_eq!((are_loaded(), counts()), ([false, true, true], (4, 2)), "it is back, in another's place");
    assert!(!Arc::ptr_eq(&kept, &again) && kept.bytes() == size, "who still used it kept it");
    want(&library, 2);
    want(&library, 0);
    assert_eq!((are_loaded(), counts()), ([true, false, true], (5, 3)));
    assert_eq!(library.numbers().compiles.load(Relaxed), 0, "code that is on disk is not made again");
}

type Wanted<'l> = Pin<Box<dyn Future<Output = Result<Arc<Script>, LoadError>> + 'l>>;

/// Tells that it was woken.
struct Bell(usize, Sender<usize>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.1.send(self.0);
    }
}

#[test]
fn a_thousand_that_want_a_cold_script_wait_for_one_load() {
    const COUNT: usize = 1000;
    let folder = Folder::new("thousand");
    let library = folder.library(usize::MAX);
    // Without its code, so that it must be compiled, which ends when we say so.
    let id = ScriptId::of(&component(1));
    image::write_whole(&library.component_path(id), &[&component(1)]).unwrap();
    let entry = library.entry(id);
    let (rings, rung) = channel();
    let mut waiting: Vec<Wanted<'_>> =
        (0..COUNT).map(|_| Box::pin(library.script(&entry)) as Wanted<'_>).collect();
    let poll = |waiting: &mut Wanted<'_>, index| {
        let waker = Waker::from(Arc::new(Bell(index, rings.clone())));
        waiting.as_mut().poll(&mut Context::from_waker(&waker))
    };
    for (index, one) in waiting.iter_mut().enumerate() {
        assert!(poll(one, index).is_pending());
    }
    assert_eq!(library.numbers().loads.load(Relaxed), 0);
    fs::write(folder.gate(), "").unwrap();
    let woken: HashSet<usize> = (0..COUNT).map(|_| rung.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(woken.len(), COUNT, "each of them hears of it");
    let scripts: Vec<Arc<Script>> = (waiting.iter_mut().enumerate())
        .map(|(index, one)| match poll(one, index) {
            Poll::Ready(script) => script.unwrap(),
            Poll::Pending => panic!("{index} waits for more"),
        })
        .collect();
    assert!(scripts.iter().all(|script| Arc::ptr_eq(script, &scripts[0])));
    let numbers = library.numbers();
    assert_eq!((numbers.compiles.load(Relaxed), numbers.loads.load(Relaxed)), (1, 1));
}

#[test]
fn what_was_left_half_written_long_ago_is_removed() {
    let folder = Folder::new("half-written");
    drop(folder.library(1 << 20));
    let file = |name: &str| {
        let path = folder.0.join("components").join(name);
        (fs::File::create(&path).unwrap(), path)
    };
    let [(old, gone), (_young, young), (kept, old_and_whole)] =
        ["a.1-0.new", "b.1-1.new", "c.wasm"].map(file);
    for file in [old, kept] {
        file.set_modified(SystemTime::now() - HALF_WRITTEN_FOR * 2).unwrap();
    }
    drop(folder.library(1 << 20));
    assert!(!gone.exists() && young.exists() && old_and_whole.exists());
}
