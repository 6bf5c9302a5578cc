//! A counter for each name: GET reads it, POST adds one. Both answer with the number.

use berth_object::{Context, Object, Request, Response, Result};

#[derive(Default)]
struct Counter;

impl Object for Counter {
    async fn handle(&mut self, ctx: &Context, request: Request) -> Result<Response> {
        let count = ctx.storage().counter("count");
        Ok(Response::text(if request.method == "POST" { count.add(1).await? } else { count.get().await? }))
    }
}

berth_object::export!(Counter);
