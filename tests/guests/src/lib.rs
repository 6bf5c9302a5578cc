//! Guests for the tests of workers: one component for the world `wasi:http/proxy`, whose path chooses what it does.
//!
//! One component and not fifty, so that the tests compile it once and every subject is a path away. The good ones
//! show what a worker may rely on, the bad ones what a node has to survive. [`run`] is the table of them all.
//!
//! A subject that cannot go on returns a [`Failure`]: its name goes to stderr, and the body that it was writing is
//! dropped without an end, as a careful worker would do it. A panic is always meant, or a mistake of the test.

mod answers;
mod attacks;
mod bodies;
mod canary;
mod failure;
mod headers;
mod outgoing;
mod rewrite;
mod world;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use failure::Failure;

struct Guests;

wasip2::http::proxy::export!(Guests);

impl Guest for Guests {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        if let Err(failure) = run(path, query, &request, out) {
            eprintln!("{path}: {failure}");
        }
    }
}

/// Runs the subject of the path.
fn run(path: &str, query: &str, request: &IncomingRequest, out: ResponseOutparam) -> Result<(), Failure> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts[..] {
        [""] => answers::whole(out, "hello from berth\n"),
        ["hello"] => answers::text(out, 200, "hello\n"),
        ["echo"] => bodies::echo(request, out),
        ["upload"] => bodies::upload(request, out),
        ["stream", bytes] => answers::stream(out, number(bytes)),
        ["trailers"] => answers::trailers(out),
        ["head"] => answers::head(request, out),
        ["status", status] => answers::status(out, number(status)),
        ["no-answer"] => Ok(()),
        ["abandon"] => answers::abandon(out),
        ["trap-early"] => panic!("before an answer, as the path asks"),
        ["trap-late"] => answers::trap_late(out),
        ["length", promised, written] => answers::length(out, number(promised), number(written)),
        ["late-set"] => world::sleep(out, 50),
        ["sleep", ms] => world::sleep(out, number(ms)),
        ["linger", ms] => world::linger(out, number(ms)),
        ["clock"] => world::clock(out),
        ["env"] => world::env(out),
        ["random"] => world::random(out),
        ["random", bytes] => world::random_bytes(out, number(bytes)),
        ["stdout"] => world::stdout(out),
        ["log-flood", bytes] => world::log_flood(out, number(bytes)),

        ["spin"] => attacks::spin(),
        ["spin", ms] => attacks::spin_for(out, number(ms)),
        ["recurse"] => attacks::recurse(out),
        ["recurse-shadow"] => attacks::recurse_shadow(out),
        ["memory"] => attacks::memory(),
        ["memory", mebibytes] => attacks::memory_of(out, number(mebibytes)),
        ["fill"] => attacks::fill(),
        ["handles"] => attacks::handles(),
        ["call-bytes", bytes] => attacks::call_bytes(out, number(bytes)),
        ["headers", count] => headers::many(out, number(count)),
        ["header-bytes", bytes] => headers::large(out, number(bytes)),
        ["split"] => headers::split(request, out),
        ["canary", "fill", key] => canary::fill(out, key),
        ["canary", "look"] => canary::look(out),

        ["ask"] => outgoing::ask_whole(out, url(query)),
        ["fetch"] => outgoing::fetch(out, url(query)),
        ["proxy-post"] => outgoing::proxy_post(request, out, url(query)),
        ["fetch-error"] => outgoing::fetch_error(out, url(query)),
        ["fetch-many", count] => outgoing::fetch_many(out, number(count), url(query)),
        ["fetch-abandon"] => outgoing::fetch_abandon(out, url(query)),
        ["rewrite"] => outgoing::rewrite(out, url(query)),

        _ => answers::text(out, 404, "no such subject\n"),
    }
}

fn number<N: std::str::FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| panic!("{text} in the path is not a number of the range that it needs"))
}

/// The URL is all that follows `url=`, as it is: neither `&` nor `%` means anything here.
fn url(query: &str) -> &str {
    query.strip_prefix("url=").expect("the query is url= and a URL")
}
