//! WebSocket clients for the stories: Python's `websockets`, told line by line what to do.

use serde_json::{Value, json};

use crate::told::Told;

/// The client's program.
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/sockets.py");

/// Some clients, each with a name.
pub struct Sockets(Told);

impl Sockets {
    /// None yet.
    pub fn start() -> Self {
        Self(Told::start(CLIENT, &[]))
    }

    fn tell(&mut self, what: &Value) -> Value {
        self.0.tell(what)
    }

    /// Opens a socket, and gives the subprotocol.
    pub fn open(&mut self, name: &str, url: &str) -> Value {
        let said = self.try_open(name, url, &json!({}));
        said.get("ok").unwrap_or_else(|| panic!("{url}: {said}")).clone()
    }

    /// The same with more to say. Its status, if it was refused.
    pub fn try_open(&mut self, name: &str, url: &str, more: &Value) -> Value {
        let mut what = json!({"do": "open", "as": name, "url": url});
        let more = more.as_object().expect("an object").clone();
        what.as_object_mut().expect("an object").extend(more);
        self.tell(&what)
    }

    /// Sends a text.
    pub fn send(&mut self, name: &str, text: &str) {
        let said = self.tell(&json!({"do": "send", "as": name, "text": text}));
        assert_eq!(said, json!({"ok": null}), "{name}");
    }

    /// Sends so many zeros.
    pub fn send_bytes(&mut self, name: &str, bytes: usize) {
        let said = self.tell(&json!({"do": "send", "as": name, "bytes": bytes}));
        assert_eq!(said, json!({"ok": null}), "{name}");
    }

    /// Sends the numbers up to `count`, as fast as it can.
    pub fn send_numbers(&mut self, name: &str, count: usize) {
        let said = self.tell(&json!({"do": "send", "as": name, "count": count}));
        assert_eq!(said, json!({"ok": null}), "{name}");
    }

    /// The next message.
    pub fn recv(&mut self, name: &str) -> String {
        self.recv_many(name, 1).remove(0)
    }

    /// The next `count` messages.
    pub fn recv_many(&mut self, name: &str, count: usize) -> Vec<String> {
        let said = self.tell(&json!({"do": "recv", "as": name, "count": count}));
        let texts = said["ok"].as_array().unwrap_or_else(|| panic!("{name}: {said}"));
        texts.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    }

    /// The code and the reason with which the other side closes, after messages that are thrown away.
    pub fn closed(&mut self, name: &str) -> (Option<u64>, String) {
        loop {
            let said = self.tell(&json!({"do": "recv", "as": name}));
            if said.get("ok").is_none() {
                return (said["closed"].as_u64(), said["reason"].as_str().unwrap_or_default().to_owned());
            }
        }
    }

    /// Closes a socket.
    pub fn close(&mut self, name: &str, code: u16, reason: &str) {
        let said = self.tell(&json!({"do": "close", "as": name, "code": code, "reason": reason}));
        assert_eq!(said, json!({"ok": null}), "{name}");
    }

    /// Whether nobody has closed it.
    pub fn is_open(&mut self, name: &str) -> bool {
        self.tell(&json!({"do": "is_open", "as": name})) == json!({"ok": true})
    }
}
