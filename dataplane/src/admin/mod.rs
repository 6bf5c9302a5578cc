//! The admin API: status, metrics, health, and deployments, on a thread of its own.
//!
//! It runs on a core that is not one of the node's, so that it answers while those are busy or
//! stalled. Requests must come with a loopback `Host` and, if with an `Origin`, a loopback one:
//! web pages and guests must not reach it through somebody's browser or by a name that they bind
//! to 127.0.0.1.

mod deployments;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use berth_protocol::link::{Question, Transport};
use http::{HeaderValue, Method, StatusCode, header};

use crate::agent_link::{NobodyAnswers, SteeringView};
use crate::http::message::{Problem, Reply, Request, Service};
use crate::http::target::{Host, percent_decode};
use crate::metrics::{self, Facade};
use crate::status::NodeView;
use crate::workers::Workers;

/// The service behind the admin address.
pub struct Admin {
    view: Rc<NodeView>,
    facade: Facade,
    workers: Arc<Workers>,
}

impl Admin {
    /// Shows this node.
    pub fn new(view: NodeView, facade: Facade, workers: Arc<Workers>) -> Self {
        Self { view: Rc::new(view), facade, workers }
    }

    /// What nobody may ask, or not so.
    fn refusal(request: &Request) -> Option<Reply> {
        if !request.host.as_ref().is_some_and(is_local) || !origin_is_local(request) {
            return Some(Reply::problem(Problem::Forbidden));
        }
        if let Some(question) = deployments::question(request) {
            return question.err().map(deployments::wrong_method);
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            let reply = Reply::problem(Problem::Method);
            return Some(reply.with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD")));
        }
        None
    }

    fn answer(&self, request: &Request) -> Reply {
        match request.target.normal_path() {
            "/metrics" => text(metrics::render(&self.view, &self.facade), "text/plain; version=0.0.4"),
            "/v1/status" => match serde_json::to_string(&self.view.status()) {
                Ok(json) => text(json + "\n", "application/json"),
                Err(_) => Reply::problem(Problem::Internal),
            },
            "/health/live" => self.live(),
            "/health/ready" => self.ready(),
            _ => Reply::problem(Problem::NoRoute),
        }
    }

    /// Alive: every core makes progress.
    fn live(&self) -> Reply {
        match self.view.stalled() {
            0 => text("live\n".into(), "text/plain"),
            stalled => unwell(format!("{stalled} cores are stalled\n")),
        }
    }

    /// Ready: the node takes new connections.
    fn ready(&self) -> Reply {
        match self.view.ready.load(Relaxed) {
            true => text("ready\n".into(), "text/plain"),
            false => unwell("starting or draining\n".into()),
        }
    }
}

/// A reply that is there already, or a question that the agent answers.
enum Answer {
    Now(Reply),
    OfAgent(SteeringView, Request),
    OfDeployments(Arc<Workers>, deployments::Question, Request),
}

impl Service for Admin {
    fn call(&self, request: Request) -> impl Future<Output = Reply> + 'static {
        let answer = match Self::refusal(&request) {
            Some(refusal) => Answer::Now(refusal),
            None if let Some(Ok(question)) = deployments::question(&request) => {
                Answer::OfDeployments(Arc::clone(&self.workers), question, request)
            }
            None if request.target.normal_path() == "/v1/explain/flow" => {
                Answer::OfAgent(self.view.steering.clone(), request)
            }
            None => Answer::Now(self.answer(&request)),
        };
        async move {
            match answer {
                Answer::Now(reply) => reply,
                Answer::OfDeployments(workers, question, request) => {
                    deployments::answer(workers, question, request.body).await
                }
                Answer::OfAgent(steering, request) => {
                    explain_flow(steering, request.target.raw_query().unwrap_or_default()).await
                }
            }
        }
    }
}

/// Asks the agent where a flow or a connection id goes.
async fn explain_flow(steering: SteeringView, query: &[u8]) -> Reply {
    let question = match parse_question(query) {
        Ok(question) => question,
        Err(mistake) => return plain(StatusCode::BAD_REQUEST, mistake + "\n"),
    };
    match steering.explain(question).await {
        Ok(explanation) => match serde_json::to_string(&explanation) {
            Ok(json) => text(json + "\n", "application/json"),
            Err(_) => Reply::problem(Problem::Internal),
        },
        Err(NobodyAnswers) => unwell(
            "no control agent answers, and only it knows the table; without one the kernel spreads flows by a hash of \
             its own\n"
                .to_owned(),
        ),
    }
}

/// `id=` and 34 hexadecimal digits, or `source=ADDRESS:PORT&destination=ADDRESS:PORT&transport=tcp|udp`.
fn parse_question(query: &[u8]) -> Result<Question, String> {
    let query = String::from_utf8_lossy(query);
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        Some(String::from_utf8_lossy(&percent_decode(value)).into_owned())
    };
    if let Some(id) = value("id") {
        let id = parse_hex(&id).ok_or_else(|| format!("id={id}: an id is written in hexadecimal digits"))?;
        return Ok(Question::ConnectionId { id });
    }
    let address = |name: &str| -> Result<SocketAddr, String> {
        let text = value(name).ok_or_else(|| format!("{name}= is missing, or id="))?;
        text.parse().map_err(|_| format!("{name}={text}: write ADDRESS:PORT"))
    };
    let transport = value("transport").and_then(|word| Transport::from_word(&word));
    let transport = transport.ok_or("transport= is tcp or udp")?;
    Ok(Question::Flow { source: address("source")?, destination: address("destination")?, transport })
}

/// At most as many bytes as a connection id of any version of QUIC can have.
fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2) && digits.len() <= 2 * 255)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn text(body: String, kind: &'static str) -> Reply {
    Reply::new(StatusCode::OK, body).with_header(header::CONTENT_TYPE, HeaderValue::from_static(kind))
}

fn unwell(body: String) -> Reply {
    plain(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn plain(status: StatusCode, body: String) -> Reply {
    let mut reply = text(body, "text/plain");
    reply.status = status;
    reply
}

fn is_local(host: &Host<'_>) -> bool {
    matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]")
}

fn origin_is_local(request: &Request) -> bool {
    let mut origins = request.headers.get_all(header::ORIGIN).iter();
    origins.all(|origin| {
        let authority =
            origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
        authority
            .and_then(|authority| Host::parse(authority.as_bytes()).ok())
            .is_some_and(|host| is_local(&host))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_or_their_mistake_is_named() {
        let id = parse_question(b"id=00ff7A");
        assert_eq!(id, Ok(Question::ConnectionId { id: vec![0, 0xff, 0x7a] }));
        let flow = parse_question(b"transport=udp&source=%5B2001:db8::9%5D:1&destination=[2001:db8::1]:443");
        let [source, destination] =
            ["[2001:db8::9]:1", "[2001:db8::1]:443"].map(|text| text.parse().unwrap());
        assert_eq!(flow, Ok(Question::Flow { source, destination, transport: Transport::Udp }));
        for (query, word) in [
            ("", "transport="),
            ("id=0", "hexadecimal"),
            ("id=xy", "hexadecimal"),
            ("transport=sctp", "tcp or udp"),
            ("transport=tcp&source=1.2.3.4:5", "destination="),
            ("transport=tcp&source=1.2.3.4&destination=1.2.3.4:5", "ADDRESS:PORT"),
        ] {
            let mistake = parse_question(query.as_bytes()).unwrap_err();
            assert!(mistake.contains(word), "{query}: {mistake}");
        }
        assert!(parse_question(&[b"id=".as_slice(), &[b'0'; 600]].concat()).is_err());
    }
}
