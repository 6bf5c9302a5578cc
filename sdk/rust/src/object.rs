//! The trait that a class implements. Its methods are the events of the WIT, and their defaults are for classes that do
//! not have what would cause them.

use crate::{Context, Data, Due, Error, Request, Response, Result, Socket};

/// The code of a class. An instance begins with `Default`, before its first turn.
#[allow(async_fn_in_trait, reason = "a turn never leaves its thread: nobody wants its future to be Send")]
pub trait Object: Default + 'static {
    /// A request. Its answer is a [`Response`]; one made by [`Response::accept`] takes the WebSocket that it asked for.
    async fn handle(&mut self, ctx: &Context, request: Request) -> Result<Response>;

    /// An alarm is due. It comes at least once, and is cleared with the end of the turn unless the turn sets it anew.
    async fn alarm(&mut self, _ctx: &Context, due: Due) -> Result<()> {
        Err(Error::new(format!("the alarm {:?} is due, and the class has no method `alarm`", due.id)))
    }

    /// A message came on a WebSocket. A class without this method does not listen.
    async fn message(&mut self, _ctx: &Context, _socket: Socket, _data: Data) -> Result<()> {
        Ok(())
    }

    /// A WebSocket has closed; without a close of the client, the code is 1006.
    async fn closed(&mut self, _ctx: &Context, _socket: Socket, _code: u16, _reason: &str) -> Result<()> {
        Ok(())
    }

    /// What is stored was written under another version of the schema. Runs before any other turn; an error leaves
    /// everything as it was, and the object does not start. The version may be a higher one, after a rollback.
    async fn upgrade(&mut self, _ctx: &Context, from_version: u32) -> Result<()> {
        Err(Error::new(format!("version {from_version} is stored, and the class has no method `upgrade`")))
    }
}
