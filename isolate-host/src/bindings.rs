//! What the engine's generator makes of `wit/`: types and traits of the interfaces that guests import.

// The generated code has no docs of its own; `wit/` has them.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated from wit/")]

wasmtime::component::bindgen!({
    path: "wit",
    world: "berth:guests/worker",
    imports: { default: trappable },
    exports: { default: async },
    require_store_data_send: true,
    with: {
        "wasi:io/poll": wasmtime_wasi_io::bindings::wasi::io::poll,
        "wasi:io/streams": wasmtime_wasi_io::bindings::wasi::io::streams,
        "wasi:io/error": wasmtime_wasi_io::bindings::wasi::io::error,
        "wasi:http/types.fields": crate::wasi::fields::Fields,
        "wasi:http/types.incoming-request": crate::wasi::incoming::IncomingRequest,
        "wasi:http/types.incoming-response": crate::wasi::incoming::IncomingResponse,
        "wasi:http/types.incoming-body": crate::wasi::incoming::IncomingBody,
        "wasi:http/types.future-trailers": crate::wasi::incoming::FutureTrailers,
        "wasi:http/types.outgoing-request": crate::wasi::outgoing::OutgoingRequest,
        "wasi:http/types.request-options": crate::wasi::outgoing::RequestOptions,
        "wasi:http/types.outgoing-response": crate::wasi::outgoing::OutgoingResponse,
        "wasi:http/types.outgoing-body": crate::wasi::outgoing::OutgoingBody,
        "wasi:http/types.response-outparam": crate::wasi::outgoing::ResponseOutparam,
        "wasi:http/types.future-incoming-response": crate::wasi::outgoing::FutureIncomingResponse,
        "wasi:cli/terminal-input.terminal-input": crate::wasi::cli::Terminal,
        "wasi:cli/terminal-output.terminal-output": crate::wasi::cli::Terminal,
    },
});
