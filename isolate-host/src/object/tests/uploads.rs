//! What is taken as a class, and what is refused with which words.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;

use super::place::*;
use crate::compile::compile;
use crate::engine::Settings;
use crate::object::*;
use crate::tests::{block_on, load_component};
use crate::{Call, Incoming, Limits, pipe};

fn refusal(source: &str) -> String {
    compile(&wat::parse_str(source).unwrap()).unwrap_err().to_string()
}

#[test]
fn what_is_no_class_and_no_worker_is_told_what_is_missing() {
    let storage = r#"(import "berth:object/storage@0.1.0" (instance))"#;
    let handler = r#"(instance $nothing) (export "wasi:http/incoming-handler@0.2.0" (instance $nothing))"#;
    let events = r#"(instance $nothing) (export "berth:object/events@0.1.0" (instance $nothing))"#;
    let sockets = r#"(import "wasi:sockets/tcp@0.2.0" (instance))"#;
    for (parts, words) in [
        ([storage, ""], "nor berth:object/events@0.1.x, so it is no class of objects"),
        ([storage, handler], "what only a class of objects has: berth:object/storage@0.1.0"),
        ([sockets, handler], "not offered here: wasi:sockets/tcp@0.2.0"),
        ([sockets, events], "not offered here: wasi:sockets/tcp@0.2.0"),
        ([storage, events], "engine refuses"),
    ] {
        let text = refusal(&format!("(component {} {})", parts[0], parts[1]));
        assert!(text.contains(words), "{parts:?}: {text}");
    }
    let later = r#"(instance $nothing) (export "berth:object/events@0.2.0" (instance $nothing))"#;
    assert!(refusal(&format!("(component {later})")).contains("it exports berth:object/events@0.2.0"));
}

/// As componentize-qjs makes them: components in a component, which hand each other text from memory to memory.
#[test]
fn components_may_be_made_of_components() {
    let taker = r#"(component $taker
        (core module $m (memory (export "memory") 1) (func (export "take") (param i32 i32))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func (export "take") (param "text" string)
            (canon lift (core func $i "take")
                (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#;
    let giver = r#"(component $giver
        (import "take" (func $take (param "text" string)))
        (core module $memory (memory (export "memory") 1))
        (core instance $own (instantiate $memory))
        (core func $lowered (canon lower (func $take) (memory (core memory $own "memory"))))
        (core module $m (import "" "take" (func $take (param i32 i32)))
            (func (export "give") (call $take (i32.const 0) (i32.const 1))))
        (core instance $i (instantiate $m (with "" (instance (export "take" (func $lowered))))))
        (func (export "give") (canon lift (core func $i "give"))))"#;
    let whole = format!(
        r#"(component {taker} {giver} (instance $one (instantiate $taker))
        (instance $other (instantiate $giver (with "take" (func $one "take"))))
        (instance $handler (export "handle" (func $other "give")))
        (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    // An adapter between them that the engine does not take would end the compiler.
    compile(&wat::parse_str(whole).unwrap()).map(drop).unwrap();
}

#[test]
fn a_class_answers_no_requests_of_workers_and_a_worker_has_no_objects() {
    let request = Incoming::<pipe::Reader> {
        method: http::Method::GET,
        https: true,
        authority: None,
        path: "/".to_owned(),
        headers: HeaderMap::new(),
        body: None,
    };
    let around = Arc::<Surroundings>::default();
    let way_out = Rc::new(Others(Arc::clone(&around)));
    let mut call = Call::new(class(), &Arc::new(Limits::default()), around, way_out, request);
    let fault = block_on(std::future::poll_fn(|cx| call.poll_head(cx))).unwrap_err();
    assert!(fault.detail.contains("class of objects"), "{fault:?}");

    let worker = wat::parse_str(include_str!("../../../../tests/guests/wat/table.wat")).unwrap();
    let worker = load_component(&worker, &Settings { instances: 3, ..Settings::default() });
    assert!(class().is_class() && !worker.is_class());
    let error = block_on(ObjectInstance::start(&worker, place().setup())).result.err().unwrap();
    assert!(error.to_string().contains("this is a worker"), "{error}");
}
