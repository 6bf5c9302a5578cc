"""One HTTP/3 connection to a node, on aioquic.

`Client` sends requests, hashes what comes back, and can change its local socket in mid-transfer.
`Quic` is aioquic's connection with what it knows and does not tell. It leans on names that aioquic
keeps for itself, which is why its version is pinned where it is installed.
"""

import argparse
import asyncio
import enum
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection, Setting
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    QuicTransportParameters,
    QuicVersionInformation,
    pull_quic_transport_parameters,
)
from aioquic.tls import Epoch, SessionTicket

BACKLOG_MAX = 1 << 18
"""Bytes of a request body that may wait in memory: a few round trips on loopback."""

RECEIVE_BUFFER = 1 << 22
"""Bytes that the kernel may hold for us while Python is busy; it grants what it allows."""

SPARE_ID_PATIENCE = 20.0
"""Seconds to wait for a connection id to migrate with: a round trip, on a busy machine."""

LINGER = 1.0
"""Seconds for which a client that migrated still listens where it was."""

Header = tuple[bytes, bytes]
Headers = list[Header]
Report = dict[str, Any]
"""What a command observed; it is printed as JSON."""
Run = Callable[[argparse.Namespace], Awaitable[Report]]
"""What carries out a command."""
Add = Callable[[str, Run], argparse.ArgumentParser]
"""Makes a command of this name, whose options can then be added."""


class Failure(Exception):
    """The node did not do what was asked. The report says what was observed until then."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report or {}


class Ender(enum.StrEnum):
    """Who ended a connection."""

    SERVER = "server"
    CLIENT = "client"
    """We did: because the program is over, or because aioquic found a fault with the node."""
    TIMEOUT = "timeout"
    RESET = "reset"
    """The server, by a stateless reset: it does not know the connection."""


@dataclass(frozen=True)
class End:
    """How a connection ended, as its CONNECTION_CLOSE frame says."""

    by: Ender
    code: int
    reason: str
    is_app: bool
    """Whether the code is one of HTTP/3, not of QUIC."""


class ConnectionLost(Failure):
    """The connection ended while something was still to be done on it."""

    def __init__(self, end: End) -> None:
        super().__init__(f"the connection ended: {end}", {"end": asdict(end)})
        self.end = end


class Move(enum.StrEnum):
    """A way in which a client comes from another address."""

    REBIND = "rebind"
    """As behind a NAT that forgot: the same connection ids from another port."""
    MIGRATE = "migrate"
    """As a phone that changes networks: another address and a fresh connection id."""


@dataclass
class Answer:
    """What came back on one request stream until now."""

    stream: int
    status: int | None = None
    headers: Headers = field(default_factory=list)
    trailers: Headers = field(default_factory=list)
    length: int = 0
    hash: Any = field(default_factory=hashlib.sha256)
    data: bytearray | None = None
    """The body itself, for who asks for it by putting a bytearray here."""
    ended: bool = False
    reset: int | None = None
    """The code of RESET_STREAM."""
    stopped: int | None = None
    """The code of STOP_SENDING: the node wants no more of the request's body."""

    def add(self, data: bytes) -> None:
        """Takes the next bytes of the body."""
        self.length += len(data)
        self.hash.update(data)
        if self.data is not None:
            self.data += data

    def summary(self) -> Report:
        """Status, length and hash; or the code of the reset."""
        if self.reset is not None:
            return {"status": self.status, "reset": self.reset}
        return {"status": self.status, "length": self.length, "sha256": self.hash.hexdigest()}


class Quic(QuicConnection):
    """aioquic's connection: see the head of this file."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.parameters: QuicTransportParameters | None = None
        self.path_challenges = 0
        self.ended_by: Ender | None = None

    @property
    def version(self) -> int | None:
        """The version of QUIC in use."""
        return self._version

    @property
    def was_retried(self) -> bool:
        """Whether the server answered the first Initial with a Retry."""
        return self._retry_count > 0

    @property
    def spare_ids(self) -> int:
        """Connection ids of the server that were not used yet."""
        return len(self._peer_cid_available)

    @property
    def key_phase(self) -> int:
        """The key phase in which the server was last heard, or which we began."""
        return self._cryptos[Epoch.ONE_RTT].recv.key_phase

    @property
    def may_update_keys(self) -> bool:
        """Whether HANDSHAKE_DONE came: aioquic would put an update off until then."""
        return self._handshake_confirmed

    @property
    def end(self) -> End | None:
        """How the connection ended, as soon as that is known."""
        event = self._close_event
        if event is None:
            return None
        by = self.ended_by or (Ender.CLIENT if self._close_pending else Ender.TIMEOUT)
        return End(by, event.error_code, event.reason_phrase, event.frame_type is None)

    def backlog(self, stream: int) -> int:
        """Bytes of a stream that were not acknowledged yet."""
        known = self._streams.get(stream)
        return len(known.sender._buffer) if known else 0

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        if self._is_stateless_reset(data) and self._close_event is None:
            self.ended_by = Ender.RESET
            self._close_event = events.ConnectionTerminated(0, 0, "stateless reset")
            self._close_end()
            return
        super().receive_datagram(data, addr, now)

    def _is_stateless_reset(self, data: bytes) -> bool:
        """aioquic does not look for them, and would wait for its idle timeout."""
        ids = [self._peer_cid, *self._peer_cid_available]
        return len(data) >= 21 and any(data[-16:] == known.stateless_reset_token for known in ids)

    def _close_begin(self, is_initiator: bool, now: float) -> None:
        self.ended_by = Ender.CLIENT if is_initiator else Ender.SERVER
        super()._close_begin(is_initiator, now)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        if not from_session_ticket:
            self.parameters = pull_quic_transport_parameters(Buffer(data=data))
        super()._parse_transport_parameters(data, from_session_ticket)

    def _handle_path_challenge_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        self.path_challenges += 1
        super()._handle_path_challenge_frame(context, frame_type, buf)


class Http(H3Connection):
    """aioquic's HTTP/3, which reads GOAWAY and does not tell."""

    goaway: int | None = None
    """The first request stream that the server will not serve."""

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        if frame_type == FrameType.GOAWAY:
            self.goaway = Buffer(data=frame_data).pull_uint_var()
        super()._handle_control_frame(frame_type, frame_data)


class Ear(asyncio.DatagramProtocol):
    """A socket of a client, which may have several over time."""

    def __init__(self, client: "Client") -> None:
        self.client = client

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.client.datagram_received(data, addr)


class Client(QuicConnectionProtocol):
    """A connection to the node: requests, and moves from socket to socket."""

    _quic: Quic
    _transport: asyncio.DatagramTransport
    quic_class: type[Quic] = Quic
    """What a connection of this kind has below HTTP."""

    def __init__(self, quic: Quic, address: tuple[Any, ...]) -> None:
        super().__init__(quic)
        self.address = address
        self.http: Http | None = None
        self.handshake: events.HandshakeCompleted | None = None
        self.answers: dict[int, Answer] = {}
        self._progress = asyncio.Event()

    @property
    def quic(self) -> Quic:
        """The connection below HTTP."""
        return self._quic

    # The connection's life.

    async def start(self, local: str | None) -> None:
        """Begins the handshake from this local address."""
        self._transport = await self._open_socket(local)
        self.connect(self.address)

    async def connected(self) -> None:
        """Waits for the end of the handshake and for the node's SETTINGS."""
        await self.until(lambda: self.handshake is not None)
        await self.until(lambda: self.http is not None and self.http.received_settings is not None)

    def stop(self) -> None:
        """Says good-bye and lets go of the socket."""
        self.close(error_code=0x100)  # H3_NO_ERROR
        self._transport.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition, which is looked at after each datagram and timer.

        Raises if the connection ends before.
        """
        while not condition():
            end = self.quic.end
            if end is not None:
                raise ConnectionLost(end)
            self._progress.clear()
            await self._progress.wait()

    def transmit(self) -> None:
        super().transmit()
        self._progress.set()

    # Requests.

    def open(self, head: Headers, *, ends: bool) -> Answer:
        """Sends the head of a request; `ends` says that no body follows."""
        assert self.http is not None, "the handshake is over"
        stream = self.quic.get_next_available_stream_id()
        answer = self.answers[stream] = Answer(stream)
        self.http.send_headers(stream, head, end_stream=ends)
        self.transmit()
        return answer

    def head(self, method: str, path: str) -> Headers:
        """The pseudo-headers of a request."""
        name = self.quic.configuration.server_name or "localhost"
        return [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", name.encode()),
            (b":path", path.encode()),
        ]

    def send(self, answer: Answer, data: bytes, *, ends: bool = False) -> None:
        """Sends a DATA frame of a request, unless the node wants no more of it."""
        assert self.http is not None, "a head was sent"
        if answer.stopped is None:
            self.http.send_data(answer.stream, data, end_stream=ends)
            self.transmit()

    async def send_body(self, answer: Answer, pieces: Iterable[bytes]) -> None:
        """Sends a body piece by piece, no faster than the node takes it."""
        for piece in pieces:
            await self.until(lambda: self.quic.backlog(answer.stream) < BACKLOG_MAX)
            if answer.stopped is not None:
                return
            self.send(answer, piece)
        self.send(answer, b"", ends=True)

    async def fetch(
        self, method: str, path: str, pieces: Iterable[bytes] | None = None, more: Iterable[Header] = ()
    ) -> Answer:
        """A whole request; returns when the answer has ended."""
        answer = self.open([*self.head(method, path), *more], ends=pieces is None)
        if pieces is not None:
            await self.send_body(answer, pieces)
        await self.until(lambda: answer.ended)
        return answer

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.ProtocolNegotiated) and event.alpn_protocol in H3_ALPN:
            self.http = Http(self.quic)
        elif isinstance(event, events.HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, events.StreamReset) and event.stream_id in self.answers:
            answer = self.answers[event.stream_id]
            answer.reset, answer.ended = event.error_code, True
        elif isinstance(event, events.StopSendingReceived) and event.stream_id in self.answers:
            self.answers[event.stream_id].stopped = event.error_code
        if self.http is not None:
            for http_event in self.http.handle_event(event):
                self._http_event_received(http_event)

    def _http_event_received(self, event: H3Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", -1))
        if answer is None:
            return
        if isinstance(event, HeadersReceived):
            status = dict(event.headers).get(b":status")
            if status is not None:
                answer.status, answer.headers = int(status), list(event.headers)
            else:
                answer.trailers = list(event.headers)
            answer.ended |= event.stream_ended
        elif isinstance(event, DataReceived):
            answer.add(event.data)
            answer.ended |= event.stream_ended

    # Moves.

    async def move(self, how: Move, local: str | None = None) -> None:
        """Goes on from another socket. The node hears of it at once, by a PING."""
        transport = await self._open_socket(local)
        if how is Move.MIGRATE:
            await self._spare_id()
            self.quic.change_connection_id()
            self._loop.call_later(LINGER, self._transport.close)
        else:
            self._transport.close()
        self._transport = transport
        # Without it, who only receives would have nothing to send, and the node would go on to
        # send to where nobody is.
        self.quic.send_ping(0)
        self.transmit()

    async def _spare_id(self) -> None:
        try:
            async with asyncio.timeout(SPARE_ID_PATIENCE):
                await self.until(lambda: self.quic.spare_ids > 0)
        except TimeoutError:
            raise Failure("the node gives no connection id for another path") from None

    async def _open_socket(self, local: str | None) -> asyncio.DatagramTransport:
        family = socket.AF_INET if len(self.address) == 2 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((local or "", 0))
        transport, _ = await self._loop.create_datagram_endpoint(lambda: Ear(self), sock=sock)
        return transport

    # Reports.

    def facts(self) -> Report:
        """What the handshake and the SETTINGS said."""
        handshake = self.handshake
        settings = self.http.received_settings if self.http else None
        return {
            "alpn": handshake.alpn_protocol if handshake else None,
            "version": f"0x{self.quic.version or 0:08x}",
            "retry": self.quic.was_retried,
            "resumed": bool(handshake and handshake.session_resumed),
            "early_data_accepted": bool(handshake and handshake.early_data_accepted),
            "transport_parameters": parameters_as_json(self.quic.parameters),
            "settings": {setting_name(key): value for key, value in (settings or {}).items()},
            "path_challenges": self.quic.path_challenges,
            "goaway": self.http.goaway if self.http else None,
        }


def setting_name(key: int) -> str:
    """The name of an HTTP/3 setting, in lower case; its number if it has none."""
    try:
        return Setting(key).name.lower()
    except ValueError:
        return f"0x{key:x}"


def parameters_as_json(parameters: QuicTransportParameters | None) -> Report:
    """The transport parameters that were sent, bytes in hexadecimal."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.hex()
        if isinstance(value, QuicVersionInformation):
            return [value.chosen_version, *value.available_versions]
        return value if isinstance(value, (bool, int)) else str(value)

    every = vars(parameters).items() if parameters else ()
    return {name: plain(value) for name, value in every if value is not None}


@dataclass
class Memory:
    """What a client remembers for its next connection: the session and the address token."""

    ticket: SessionTicket | None = None
    token: bytes = b""


def parse_target(target: str) -> tuple[str, int]:
    """`HOST:PORT`, where an IPv6 address stands in brackets."""
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)


SomeClient = TypeVar("SomeClient", bound=Client)


@asynccontextmanager
async def connect(
    kind: type[SomeClient],
    target: str,
    server_name: str,
    *,
    local: str | None = None,
    memory: Memory | None = None,
    **configuration: Any,
) -> AsyncIterator[SomeClient]:
    """A connection to `HOST:PORT`. With a memory it resumes from it, and remembers for the next."""
    memory = memory or Memory()
    host, port = parse_target(target)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    quic = kind.quic_class(
        configuration=QuicConfiguration(
            alpn_protocols=H3_ALPN,
            server_name=server_name,
            session_ticket=memory.ticket,
            token=memory.token,
            verify_mode=ssl.CERT_NONE,
            **configuration,
        ),
        session_ticket_handler=lambda ticket: setattr(memory, "ticket", ticket),
        token_handler=lambda token: setattr(memory, "token", token),
    )
    client = kind(quic, found[0][4])
    await client.start(local)
    try:
        await client.connected()
        yield client
    finally:
        client.stop()
