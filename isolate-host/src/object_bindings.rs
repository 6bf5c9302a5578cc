//! What the engine's generator makes of `wit/object/`, the world of objects, and of `wit/keyvalue/`.

// The generated code has no docs of its own; the WIT has them.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated from wit/")]

wasmtime::component::bindgen!({
    path: "wit/object",
    world: "berth:object/object",
    imports: {
        "berth:object/storage.get": async | trappable,
        "berth:object/storage.put": async | trappable,
        "berth:object/storage.scan": async | trappable,
        "berth:object/storage.compare-and-swap": async | trappable,
        "berth:object/storage.increment": async | trappable,
        "berth:object/storage.sync": async | trappable,
        "berth:object/alarms.set": async | trappable,
        "berth:object/alarms.get-all": async | trappable,
        "berth:object/outgoing.fetch": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    require_store_data_send: true,
});

pub mod keyvalue {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue",
        world: "wasi:keyvalue/imports",
        imports: {
            "wasi:keyvalue/store.[method]bucket.get": async | trappable,
            "wasi:keyvalue/store.[method]bucket.set": async | trappable,
            "wasi:keyvalue/store.[method]bucket.exists": async | trappable,
            "wasi:keyvalue/store.[method]bucket.list-keys": async | trappable,
            "wasi:keyvalue/atomics.[static]cas.new": async | trappable,
            "wasi:keyvalue/atomics.increment": async | trappable,
            "wasi:keyvalue/atomics.swap": async | trappable,
            "wasi:keyvalue/batch.get-many": async | trappable,
            "wasi:keyvalue/batch.set-many": async | trappable,
            default: trappable,
        },
        require_store_data_send: true,
        with: {
            "wasi:keyvalue/store.bucket": crate::object::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::object::keyvalue::Cas,
        },
    });
}
