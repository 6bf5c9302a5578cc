//! From the host's calls to the methods of an [`Object`], and back. For [`export!`](crate::export) alone.
//!
//! The host's calls wait in place, so that a method's future is ready when it is polled first. One that is not waits for
//! something that is not of this crate: it is polled again as long as it wakes itself, and its turn fails when it does
//! not, instead of going round until the limit of time.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context as Polling, Poll, Wake, Waker};
use std::thread::LocalKey;

use crate::world::exports::berth::object::events::{OutgoingError, Response};
use crate::{Context, Data, Error, Object, Request, Socket};

pub use crate::world::exports::berth::object::events;

/// Where the macro keeps the instance. Empty until its first turn.
pub type Place<O> = RefCell<Option<O>>;

/// How a turn ends, as the host learns it.
pub type Turn<T> = Result<T, String>;

/// What the reserved event `reply` carries.
pub type Reply = Result<Response, OutgoingError>;

/// A request.
pub fn handle<O: Object>(
    place: &'static LocalKey<Place<O>>,
    request: events::Request,
    upgrade: Option<u64>,
) -> Turn<events::Answer> {
    let request = Request::of_host(request, upgrade);
    turn(place, async |object, ctx| object.handle(ctx, request).await.map(Into::into))
}

/// An alarm is due.
pub fn alarm<O: Object>(place: &'static LocalKey<Place<O>>, alarm: events::Due) -> Turn<()> {
    turn(place, async |object, ctx| object.alarm(ctx, alarm.into()).await)
}

/// A message came on a WebSocket.
pub fn message<O: Object>(place: &'static LocalKey<Place<O>>, socket: u64, data: events::Data) -> Turn<()> {
    let data = Data::from(data);
    turn(place, async |object, ctx| object.message(ctx, Socket(socket), data).await)
}

/// A WebSocket has closed.
pub fn closed<O: Object>(
    place: &'static LocalKey<Place<O>>,
    socket: u64,
    code: u16,
    reason: &str,
) -> Turn<()> {
    turn(place, async |object, ctx| object.closed(ctx, Socket(socket), code, reason).await)
}

/// The reserved event: nothing here sends what it would be the reply to.
pub fn reply() -> Turn<()> {
    Err("a reply came, and nothing was sent".to_owned())
}

/// What is stored is of another version.
pub fn upgrade<O: Object>(place: &'static LocalKey<Place<O>>, from_version: u32) -> Turn<()> {
    turn(place, async |object, ctx| object.upgrade(ctx, from_version).await)
}

/// Runs one turn on the instance, which is made for its first.
fn turn<O: Object, T>(
    place: &'static LocalKey<Place<O>>,
    run: impl AsyncFnOnce(&mut O, &Context) -> Result<T, Error>,
) -> Turn<T> {
    let context = Context { _private: () };
    place.with_borrow_mut(|instance| {
        let object = instance.get_or_insert_with(O::default);
        let ended = block_on(run(object, &context));
        ended.unwrap_or_else(|| Err(Error::new(STUCK))).map_err(String::from)
    })
}

const STUCK: &str = "the turn waits for something that is not of berth-object, and nobody would wake it";

/// Whether a future has woken itself.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// The output of a future that nobody but itself can wake. Nothing if it waits for others.
fn block_on<T>(future: impl Future<Output = T>) -> Option<T> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut polling = Polling::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut polling) {
            return Some(output);
        }
        if !woken.0.swap(false, Relaxed) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};

    use super::*;
    use crate::{Response, Result};

    /// Answers with how many requests it had, and fails as it is asked to.
    #[derive(Default)]
    struct Turns(u32);

    impl Object for Turns {
        async fn handle(&mut self, _ctx: &Context, request: Request) -> Result<Response> {
            self.0 += 1;
            match request.path() {
                "/wait" => pending().await,
                "/fail" => Err(Error::new("as asked")),
                _ => Ok(Response::text(self.0)),
            }
        }
    }

    thread_local! {
        static OBJECT: Place<Turns> = const { RefCell::new(None) };
    }

    fn ask(path: &str) -> Turn<String> {
        let url = format!("http://h{path}");
        let request =
            events::Request { method: "GET".to_owned(), url, headers: Vec::new(), body: Vec::new() };
        match handle(&OBJECT, request, None)? {
            events::Answer::Response(response) => Ok(String::from_utf8(response.body).unwrap()),
            events::Answer::Accept(_) => panic!("nobody asked for a socket"),
        }
    }

    #[test]
    fn an_instance_lasts_from_turn_to_turn() {
        assert_eq!(ask("/").as_deref(), Ok("1"));
        assert_eq!(ask("/").as_deref(), Ok("2"));
        assert_eq!(ask("/fail"), Err("as asked".to_owned()));
        assert_eq!(ask("/wait"), Err(STUCK.to_owned()));
    }

    #[test]
    fn what_a_class_does_not_have_is_said_or_passes() {
        let due = events::Due { id: "tick".to_owned(), due_ms: 0, attempt: 1, payload: Vec::new() };
        assert!(alarm(&OBJECT, due).unwrap_err().contains("\"tick\""));
        assert!(upgrade(&OBJECT, 3).unwrap_err().contains("version 3"));
        assert_eq!(message(&OBJECT, 1, events::Data::Text("hello".to_owned())), Ok(()));
        assert_eq!(closed(&OBJECT, 1, 1006, ""), Ok(()));
        assert!(reply().is_err());
    }

    #[test]
    fn who_wakes_itself_goes_on() {
        let mut polls = 0;
        let yields = poll_fn(|polling| {
            polls += 1;
            if polls == 3 {
                return Poll::Ready(polls);
            }
            polling.waker().wake_by_ref();
            Poll::Pending
        });
        assert_eq!(block_on(yields), Some(3));
        assert_eq!(block_on(ready(1)), Some(1));
        assert_eq!(block_on(pending::<()>()), None);
    }
}
