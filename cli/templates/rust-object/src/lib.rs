//! A class of objects, each a counter with a name. GET reads it, POST adds one, DELETE begins anew; an hour after the last
//! POST it does so by itself.

use std::time::Duration;

use berth_object::{Context, Due, Object, Request, Response, Result};

const IDLE_MAX: Duration = Duration::from_secs(3600);

/// What an instance has in memory. An instance ends when the node wants its room: what must last belongs into storage.
#[derive(Default)]
struct Counter;

impl Object for Counter {
    /// A request: a turn, alone in its object. The answer leaves when what was written is durable.
    async fn handle(&mut self, ctx: &Context, request: Request) -> Result<Response> {
        let count = ctx.storage().counter("count");
        match request.method.as_str() {
            "GET" => Ok(Response::text(count.get().await?)),
            "POST" => {
                ctx.alarms().set_in("reset", IDLE_MAX, "").await?;
                Ok(Response::text(count.add(1).await?))
            }
            "DELETE" => {
                ctx.storage().delete_all().await?;
                ctx.alarms().clear("reset").await?;
                Ok(Response::new(204))
            }
            _ => Ok(Response::new(405).with_header("allow", "GET, POST, DELETE")),
        }
    }

    /// An alarm that `handle` set. It comes at least once, also after a restart of the node.
    async fn alarm(&mut self, ctx: &Context, _due: Due) -> Result<()> {
        Ok(ctx.storage().delete_all().await?)
    }
}

berth_object::export!(Counter);
