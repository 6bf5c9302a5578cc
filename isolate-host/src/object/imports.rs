//! The interfaces that only objects import: `berth:object`'s storage, alarms, identity and sockets.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use berth_protocol::record::{Effect, Space, alarm_due_ms};
use bytes::Bytes;

use super::message::{SocketCommand, SocketData, SocketId, TurnError};
use super::state::{Object, Sync};
use super::storage::{CommitError, KeyRange, Order, PageMost};
use crate::guest::Guest;
use crate::object_bindings::berth::object::{alarms, identity, sockets, storage, types};

/// Alarms that an object may have: enough to plan, too few to be a queue.
pub const ALARMS_MAX: usize = 100;
/// Bytes of the id of an alarm.
pub const ALARM_ID_MAX: usize = 256;
/// Bytes of what is kept with an alarm: what it is about, not the data.
pub const ALARM_PAYLOAD_MAX: usize = 4 << 10;
/// All alarms at their largest are one page.
const ALARMS_PAGE: PageMost =
    PageMost { entries: ALARMS_MAX + 1, bytes: (ALARMS_MAX + 1) * (ALARM_ID_MAX + ALARM_PAYLOAD_MAX + 8) };
/// Bytes of a message on a WebSocket, as the node itself takes them from clients.
const MESSAGE_MAX: usize = 1 << 20;
/// Bytes of what is kept beside a socket.
pub(super) const ATTACHMENT_MAX: usize = 2 << 10;
/// Bytes of a reason: a control frame has no room for more.
const REASON_MAX: usize = 123;
/// What a turn may do on sockets, in commands and in bytes: all of it waits in memory until the turn is durable.
const COMMANDS_MAX: usize = 1000;
const COMMAND_BYTES_MAX: usize = 16 << 20;
/// The step in which a guest learns its own time, so that it measures no neighbour.
const CPU_STEP_US: u64 = 1000;

impl Guest {
    /// The object, which every guest of a class has.
    pub(super) fn object(&self) -> wasmtime::Result<&Arc<Object>> {
        self.object.as_ref().ok_or_else(|| wasmtime::format_err!("this guest has no object"))
    }
}

fn to_vec(bytes: Bytes) -> Vec<u8> {
    Vec::from(bytes)
}

impl types::Host for Guest {}

impl storage::Host for Guest {
    async fn get(&mut self, key: Vec<u8>) -> wasmtime::Result<Result<Option<Vec<u8>>, storage::Error>> {
        let value = self.object()?.get(&key).await;
        Ok(value.map(|value| value.map(to_vec)))
    }

    async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> wasmtime::Result<Result<(), storage::Error>> {
        Ok(self.object()?.put(key.into(), value.into(), None).await)
    }

    fn delete(&mut self, key: Vec<u8>) -> wasmtime::Result<Result<(), storage::Error>> {
        Ok(self.object()?.delete(key.into(), None))
    }

    async fn scan(
        &mut self,
        range: storage::Range,
    ) -> wasmtime::Result<Result<storage::Page, storage::Error>> {
        let order = if range.reverse { Order::Down } else { Order::Up };
        let keys = KeyRange { start: range.start.map(Bytes::from), end: range.end.map(Bytes::from) };
        let page = self.object()?.scan(keys, order, range.limit as usize).await;
        Ok(page.map(|page| storage::Page {
            entries: page
                .entries
                .into_iter()
                .map(|(key, value)| storage::Entry { key: to_vec(key), value: to_vec(value) })
                .collect(),
            more: page.more,
        }))
    }

    fn delete_all(&mut self) -> wasmtime::Result<Result<(), storage::Error>> {
        self.object()?.delete_all();
        Ok(Ok(()))
    }

    async fn compare_and_swap(
        &mut self,
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        new: Option<Vec<u8>>,
    ) -> wasmtime::Result<Result<bool, storage::Error>> {
        let object = self.object()?;
        Ok(object.compare_and_swap(key.into(), expected.as_deref(), new.map(Bytes::from)).await)
    }

    async fn increment(&mut self, key: Vec<u8>, delta: i64) -> wasmtime::Result<Result<i64, storage::Error>> {
        Ok(self.object()?.increment(key.into(), delta).await)
    }

    async fn sync(&mut self) -> wasmtime::Result<Result<(), storage::Error>> {
        let object = self.object()?;
        object.commit_point();
        object.lock().sync = Sync::Wanted;
        // Nobody is woken: who polls the turn polls its guest next. A commit that fails ends the guest here.
        poll_fn(|_| if object.lock().sync == Sync::Done { Poll::Ready(()) } else { Poll::Pending }).await;
        object.lock().sync = Sync::None;
        Ok(Ok(()))
    }

    fn get_usage(&mut self) -> wasmtime::Result<storage::Usage> {
        let (bytes, most) = self.object()?.usage();
        Ok(storage::Usage { bytes, most })
    }
}

impl Object {
    /// Adds to a number, and tells the sum.
    pub(super) async fn increment(&self, key: Bytes, delta: i64) -> Result<i64, storage::Error> {
        let current = self.get(&key).await?;
        let number = current.as_deref().map_or(Some(0), read_number).ok_or(storage::Error::NotANumber)?;
        let sum = number.checked_add(delta).ok_or(storage::Error::Overflow)?;
        self.put(key, Bytes::from(sum.to_string()), Some(current.as_ref())).await?;
        Ok(sum)
    }

    /// Writes if the value is the expected one, and tells whether it was.
    async fn compare_and_swap(
        &self,
        key: Bytes,
        expected: Option<&[u8]>,
        new: Option<Bytes>,
    ) -> Result<bool, storage::Error> {
        let current = self.get(&key).await?;
        if current.as_deref() != expected {
            return Ok(false);
        }
        let known = Some(current.as_ref());
        match new {
            Some(new) => self.put(key, new, known).await?,
            None => self.delete(key, known)?,
        }
        Ok(true)
    }
}

/// A number as `increment` writes it.
fn read_number(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.starts_with('+') { None } else { text.parse().ok() }
}

impl Object {
    /// The ids of all alarms, read when somebody first wants them.
    async fn learn_alarms(&self) -> Result<(), alarms::Error> {
        if self.lock().alarm_ids.is_some() {
            return Ok(());
        }
        let ids: BTreeSet<Bytes> = self.all_alarms().await?.into_iter().map(|(id, _)| id).collect();
        self.lock().alarm_ids = Some(ids);
        Ok(())
    }

    async fn all_alarms(&self) -> Result<Vec<(Bytes, Bytes)>, alarms::Error> {
        let page = self.scan_space(Space::Alarm, KeyRange::default(), Order::Up, ALARMS_PAGE).await;
        match page {
            Ok(page) => Ok(page.entries),
            Err(storage::Error::Unavailable(reason)) => Err(alarms::Error::Unavailable(reason)),
            Err(other) => Err(alarms::Error::Unavailable(format!("{other:?}"))),
        }
    }

    /// Whether an alarm is still set for this time. If a turn set it anew or cleared it while it was on its way, it does not
    /// ring, and this turn clears nothing.
    pub(super) async fn is_still_due(&self, id: &str, due_ms: u64) -> Result<bool, TurnError> {
        let read = self.lock().storage.get(Space::Alarm, id.as_bytes());
        let set = read.wait().await.map_err(|error| CommitError(error.to_string()))?;
        let is_due = set.as_deref().and_then(alarm_due_ms) == Some(due_ms);
        if !is_due {
            self.lock().turn.due = None;
        }
        Ok(is_due)
    }

    async fn set_alarm(&self, alarm: alarms::Alarm) -> Result<(), alarms::Error> {
        check_alarm_id(&alarm.id)?;
        if alarm.payload.len() > ALARM_PAYLOAD_MAX {
            return Err(alarms::Error::PayloadLength);
        }
        self.learn_alarms().await?;
        let id = Bytes::from(alarm.id);
        let mut state = self.lock();
        let ids = state.alarm_ids.get_or_insert_default();
        if !ids.contains(&id) && ids.len() >= ALARMS_MAX {
            return Err(alarms::Error::TooMany);
        }
        ids.insert(id.clone());
        if state.turn.due.as_ref() == Some(&id) {
            state.turn.due = None;
        }
        if let Effect::Put { key, value, .. } = Effect::alarm(id, alarm.at_ms, &alarm.payload) {
            state.alarms.write(key, Some(value), None);
        }
        Ok(())
    }
}

fn check_alarm_id(id: &str) -> Result<(), alarms::Error> {
    if id.is_empty() || id.len() > ALARM_ID_MAX { Err(alarms::Error::IdLength) } else { Ok(()) }
}

/// An alarm as its guest sees it. Its key was made of text, and its value has a time in front.
fn read_alarm((id, value): &(Bytes, Bytes)) -> Option<alarms::Alarm> {
    let at_ms = alarm_due_ms(value)?;
    let payload = value.get(berth_protocol::record::ALARM_DUE_LEN..)?.to_vec();
    Some(alarms::Alarm { id: String::from_utf8_lossy(id).into_owned(), at_ms, payload })
}

impl alarms::Host for Guest {
    async fn set(&mut self, alarm: alarms::Alarm) -> wasmtime::Result<Result<(), alarms::Error>> {
        Ok(self.object()?.set_alarm(alarm).await)
    }

    fn clear(&mut self, id: String) -> wasmtime::Result<Result<(), alarms::Error>> {
        if let Err(error) = check_alarm_id(&id) {
            return Ok(Err(error));
        }
        self.object()?.lock().clear_alarm(&id.into());
        Ok(Ok(()))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<alarms::Alarm>, alarms::Error>> {
        let all = self.object()?.all_alarms().await;
        Ok(all.map(|all| all.iter().filter_map(read_alarm).collect()))
    }
}

impl super::state::State {
    pub(super) fn clear_alarm(&mut self, id: &Bytes) {
        if let Some(ids) = &mut self.alarm_ids {
            ids.remove(id);
        }
        self.alarms.write(id.clone(), None, None);
    }
}

impl identity::Host for Guest {
    fn get_identity(&mut self) -> wasmtime::Result<identity::Identity> {
        let own = self.object()?.identity.clone();
        Ok(identity::Identity {
            id: own.id,
            name: own.name,
            class: own.class,
            zone: own.zone,
            epoch: own.epoch,
            schema_version: own.schema_version,
        })
    }

    fn queue_length(&mut self) -> wasmtime::Result<u32> {
        Ok(self.object()?.world.queue_length())
    }

    fn cpu_used_us(&mut self) -> wasmtime::Result<u64> {
        let used = self.call.meter.within().as_micros() as u64;
        Ok(used / CPU_STEP_US * CPU_STEP_US)
    }
}

impl From<types::Data> for SocketData {
    fn from(data: types::Data) -> Self {
        match data {
            types::Data::Text(text) => Self::Text(text),
            types::Data::Binary(bytes) => Self::Binary(bytes.into()),
        }
    }
}

impl From<SocketData> for types::Data {
    fn from(data: SocketData) -> Self {
        match data {
            SocketData::Text(text) => Self::Text(text),
            SocketData::Binary(bytes) => Self::Binary(to_vec(bytes)),
        }
    }
}

type Sent = Result<(), sockets::Error>;

impl Object {
    /// Whether the turn may use a socket: one that is open, or that the turn may accept.
    fn is_usable(&self, socket: SocketId) -> bool {
        let state = self.lock();
        let is_closed = state.turn.closed.contains(&socket);
        let is_coming = state.turn.upgrade == Some(socket);
        drop(state);
        !is_closed && (is_coming || self.world.is_open(socket))
    }

    /// Keeps a command until its segment is durable. `bytes` are what it keeps in memory until then.
    fn command(&self, command: SocketCommand, bytes: usize) -> Sent {
        let mut state = self.lock();
        let (count, sum) = state.turn.commands;
        if count >= COMMANDS_MAX || sum + bytes > COMMAND_BYTES_MAX {
            return Err(sockets::Error::TooMany);
        }
        state.turn.commands = (count + 1, sum + bytes);
        let is_greeting = command.socket().is_some() && command.socket() == state.turn.upgrade;
        if is_greeting {
            state.turn.greetings.push(command);
        } else {
            state.turn.sends.push(command);
        }
        Ok(())
    }

    fn send(&self, socket: SocketId, data: SocketData) -> Sent {
        if data.len() > MESSAGE_MAX {
            return Err(sockets::Error::TooLarge);
        }
        if !self.is_usable(socket) {
            return Err(sockets::Error::Gone);
        }
        let bytes = data.len();
        self.command(SocketCommand::Send { socket, data }, bytes)
    }

    fn close(&self, socket: SocketId, code: u16, reason: String) -> Sent {
        if code != 1000 && !(3000..=4999).contains(&code) {
            return Err(sockets::Error::BadCode);
        }
        if reason.len() > REASON_MAX {
            return Err(sockets::Error::TooLarge);
        }
        if !self.is_usable(socket) {
            return Err(sockets::Error::Gone);
        }
        self.command(SocketCommand::Close { socket, code, reason }, REASON_MAX)?;
        self.lock().turn.closed.insert(socket);
        Ok(())
    }

    fn set_attachment(&self, socket: SocketId, attachment: Bytes) -> Sent {
        if attachment.len() > ATTACHMENT_MAX {
            return Err(sockets::Error::TooLarge);
        }
        if !self.is_usable(socket) {
            return Err(sockets::Error::Gone);
        }
        let command = SocketCommand::SetAttachment { socket, attachment: attachment.clone() };
        self.command(command, attachment.len())?;
        self.lock().turn.attachments.insert(socket, attachment);
        Ok(())
    }
}

impl sockets::Host for Guest {
    fn send(&mut self, socket: u64, data: types::Data) -> wasmtime::Result<Sent> {
        Ok(self.object()?.send(SocketId(socket), data.into()))
    }

    fn broadcast(&mut self, tag: String, data: types::Data, but: Option<u64>) -> wasmtime::Result<Sent> {
        let data = SocketData::from(data);
        if data.len() > MESSAGE_MAX {
            return Ok(Err(sockets::Error::TooLarge));
        }
        let bytes = data.len() + tag.len();
        let command = SocketCommand::Broadcast { tag, data, but: but.map(SocketId) };
        Ok(self.object()?.command(command, bytes))
    }

    fn close(&mut self, socket: u64, code: u16, reason: String) -> wasmtime::Result<Sent> {
        Ok(self.object()?.close(SocketId(socket), code, reason))
    }

    fn tags(&mut self, socket: u64) -> wasmtime::Result<Result<Vec<String>, sockets::Error>> {
        Ok(self.object()?.world.tags(SocketId(socket)).ok_or(sockets::Error::Gone))
    }

    fn attachment(&mut self, socket: u64) -> wasmtime::Result<Result<Vec<u8>, sockets::Error>> {
        let (object, socket) = (self.object()?, SocketId(socket));
        let changed = object.lock().turn.attachments.get(&socket).cloned();
        let found = changed.or_else(|| object.world.attachment(socket));
        Ok(found.map(to_vec).ok_or(sockets::Error::Gone))
    }

    fn set_attachment(&mut self, socket: u64, attachment: Vec<u8>) -> wasmtime::Result<Sent> {
        Ok(self.object()?.set_attachment(SocketId(socket), attachment.into()))
    }

    fn tagged(&mut self, tag: Option<String>) -> wasmtime::Result<Vec<u64>> {
        let object = self.object()?;
        let mut found = object.world.sockets(tag.as_deref());
        let state = object.lock();
        found.retain(|socket| !state.turn.closed.contains(socket));
        Ok(found.into_iter().map(|socket| socket.0).collect())
    }
}
