//! A chat room for each name: it numbers what is said, keeps the last of it, and tells everybody.

use berth_object::{Accept, Context, Data, Error, Object, Range, Request, Response, Result, Socket};
use serde::{Deserialize, Serialize};

/// So many messages are kept, and told to who comes in.
const KEPT: u32 = 500;
const TEXT_MAX: usize = 4000;
const NAME_MAX: usize = 40;
/// The page does what it needs, and nothing that somebody says becomes part of it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'";
/// The tag of everybody in the room.
const HERE: &str = "here";

#[derive(Default)]
struct Room;

/// What a client sends. It says the same again if it has not seen it numbered; the id tells.
#[derive(Deserialize)]
struct Said {
    id: String,
    text: String,
}

/// What everybody gets.
#[derive(Serialize, Deserialize)]
struct Message {
    number: i64,
    id: String,
    from: String,
    text: String,
}

impl Object for Room {
    async fn handle(&mut self, ctx: &Context, request: Request) -> Result<Response> {
        let path = request.path().to_owned();
        match (request.socket(), path.trim_start_matches('/').split_once('/')) {
            (Some(socket), _) => enter(ctx, &request, socket).await,
            (None, Some((_, ""))) => Ok(page("text/html; charset=utf-8", include_str!("page.html"))),
            (None, Some((_, "page.css"))) => Ok(page("text/css", include_str!("page.css"))),
            (None, Some((_, "page.js"))) => Ok(page("text/javascript", include_str!("page.js"))),
            // What the page asks for is relative to its folder.
            (None, None) => Ok(Response::new(308).with_header("location", format!("{path}/"))),
            (None, Some(_)) => Ok(Response::text("no such page\n").with_status(404)),
        }
    }

    async fn message(&mut self, ctx: &Context, socket: Socket, data: Data) -> Result<()> {
        let said: Option<Said> = data.as_text().and_then(|text| serde_json::from_str(text).ok());
        let Some(said) = said.filter(|said| said.text.len() <= TEXT_MAX && (1..=64).contains(&said.id.len()))
        else {
            return Ok(socket.close(4000, "that was no message").await?);
        };
        let storage = ctx.storage();
        let known = format!("id/{}", said.id);
        if let Some(number) = storage.get_text(&known).await? {
            // It came before, and its sender missed the answer.
            let message = storage.get_text(format!("message/{number}")).await?;
            return Ok(socket.send(message.unwrap_or_default()).await?);
        }
        let number = storage.counter("number").add(1).await?;
        let from = String::from_utf8_lossy(&socket.attachment().await?).into_owned();
        let text = serde_json::to_string(&Message { number, id: said.id, from, text: said.text })
            .map_err(Error::new)?;
        storage.put(format!("message/{}", key(number)), &text).await?;
        storage.put(known, key(number)).await?;
        forget(ctx, number - i64::from(KEPT)).await?;
        Ok(ctx.sockets().broadcast(HERE, text).await?)
    }

    async fn closed(&mut self, ctx: &Context, _socket: Socket, _code: u16, _reason: &str) -> Result<()> {
        tell_count(ctx, 0).await
    }
}

/// Takes a socket, and tells it what it has missed: `?from=NAME&after=NUMBER`.
async fn enter(ctx: &Context, request: &Request, socket: Socket) -> Result<Response> {
    let query = request.query().unwrap_or_default();
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let from = decoded(value("from").unwrap_or_default());
    let from: String = from.chars().filter(|letter| !letter.is_control()).take(NAME_MAX).collect();
    let after = value("after").and_then(|number| number.parse().ok()).unwrap_or(0);
    let range = Range::prefix("message/").from(format!("message/{}", key(after + 1)));
    let page = ctx.storage().scan(range.reverse().limit(KEPT)).await?;
    for entry in page.entries.iter().rev() {
        socket.send(String::from_utf8_lossy(&entry.value).into_owned()).await?;
    }
    tell_count(ctx, 1).await?;
    socket.send(here(ctx, 1).await).await?;
    let from = if from.is_empty() { "somebody".to_owned() } else { from };
    Ok(Response::accept(Accept::new().tag(HERE).attachment(from)))
}

async fn here(ctx: &Context, more: usize) -> String {
    let count = ctx.sockets().tagged(HERE).await.len() + more;
    format!("{{\"here\":{count}}}")
}

/// Tells everybody how many are here, with `more` whose sockets are not there yet.
async fn tell_count(ctx: &Context, more: usize) -> Result<()> {
    let count = here(ctx, more).await;
    Ok(ctx.sockets().broadcast(HERE, count).await?)
}

/// Forgets a message that is too old, and its id.
async fn forget(ctx: &Context, number: i64) -> Result<()> {
    let (storage, name) = (ctx.storage(), format!("message/{}", key(number)));
    let old = storage.get_text(&name).await?;
    let old: Option<Message> = old.and_then(|text| serde_json::from_str(&text).ok());
    if let Some(old) = old {
        storage.delete(name).await?;
        storage.delete(format!("id/{}", old.id)).await?;
    }
    Ok(())
}

/// A number whose text has the order of numbers.
fn key(number: i64) -> String {
    format!("{number:016}")
}

fn page(kind: &str, body: &str) -> Response {
    Response::new(200)
        .with_body(body)
        .with_header("content-type", kind)
        .with_header("content-security-policy", POLICY)
        .with_header("x-content-type-options", "nosniff")
        .with_header("cache-control", "no-cache")
}

/// A part of a query, without its escapes.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        let escaped =
            escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => bytes.push(if *first == b'+' { b' ' } else { *first }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

berth_object::export!(Room);
