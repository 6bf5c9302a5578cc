"""A client without manners: its HTTP/3 is made by hand, and its QUIC puts up with the answers."""

import asyncio
import os
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import pylsqpack
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.h3.connection import FrameType, Setting, StreamType, encode_frame, encode_settings
from aioquic.quic import events
from aioquic.quic.connection import QuicConnectionId

from client import BACKLOG_MAX, Client, Headers, Quic

STREAM_WITH_ALL = 0x0E
"""A STREAM frame with offset and length, without the end of the stream."""
MAX_STREAM_DATA = 0x11
NEW_CONNECTION_ID = 0x18


class RudeQuic(Quic):
    """Sends what breaks the rules, and finds no fault with what comes back for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.frames: deque[tuple[int, bytes]] = deque()
        """Frames to send as they are: type, and what follows it."""
        self.grants_credit = True
        """Whether MAX_DATA and MAX_STREAM_DATA are sent."""

    def send_frame(self, frame_type: int, *fields: int | bytes) -> None:
        """Queues a frame made of variable-length integers and of bytes."""
        rest = (encode_uint_var(field) if isinstance(field, int) else field for field in fields)
        self.frames.append((frame_type, b"".join(rest)))

    def send_stream_frame(self, stream: int, offset: int, data: bytes) -> None:
        """Queues a STREAM frame past all limits, of the server's and of aioquic's."""
        self.send_frame(STREAM_WITH_ALL, stream, offset, len(data), data)

    def send_connection_id(self) -> None:
        """Gives the server another connection id, and has it retire all before."""
        number = self._host_cid_seq
        self._host_cid_seq += 1
        known = QuicConnectionId(os.urandom(8), number, os.urandom(16), was_sent=True)
        self._host_cids.append(known)
        self.send_frame(NEW_CONNECTION_ID, number, number, b"\x08", known.cid, known.stateless_reset_token)

    def grant(self, stream: int, limit: int) -> None:
        """Lets the server send up to this offset of a stream."""
        known = self._streams.get(stream)
        if known is None:
            return  # It is over.
        known.max_stream_data_local = known.max_stream_data_local_sent = limit
        self.send_frame(MAX_STREAM_DATA, stream, limit)

    def is_blocked(self, stream: int) -> bool:
        """Whether the server must allow more streams before this one can begin."""
        known = self._streams.get(stream)
        return known is not None and known.is_blocked

    def _handle_retire_connection_id_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        buf.pull_uint_var()

    def _handle_path_response_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        buf.pull_bytes(8)

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        while self.frames:
            frame_type, rest = self.frames[0]
            room = 8 + len(rest)  # The type takes up to 8 bytes.
            if builder.remaining_buffer_space < room and not builder.packet_is_empty:
                return  # The next packet takes it.
            builder.start_frame(frame_type, room).push_bytes(rest)
            self.frames.popleft()
        if self.grants_credit:
            super()._write_connection_limits(builder, space)

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:
        if self.grants_credit:
            super()._write_stream_limits(builder, space, stream)


class Bare(Client):
    """A client whose streams carry whatever bytes a misdeed puts there."""

    _quic: RudeQuic
    quic_class = RudeQuic

    def __init__(self, quic: Quic, address: tuple[Any, ...]) -> None:
        super().__init__(quic, address)
        self.received: Counter[int] = Counter()
        """Bytes that came on each stream."""
        self.resets: Counter[int] = Counter()
        """Codes of RESET_STREAM frames."""
        self.stops: dict[int, int] = {}
        """Codes of STOP_SENDING frames by stream."""
        self._qpack = pylsqpack.Encoder()

    @property
    def quic(self) -> RudeQuic:
        """The connection below HTTP."""
        return self._quic

    async def connected(self) -> None:
        """Waits for the end of the handshake, confirmed so that all frames may be sent."""
        await self.until(lambda: self.quic.may_update_keys)

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            self.received[event.stream_id] += len(event.data)
        elif isinstance(event, events.StreamReset):
            self.resets[event.error_code] += 1
        elif isinstance(event, events.StopSendingReceived):
            self.stops[event.stream_id] = event.error_code

    def write(self, stream: int, data: bytes, *, ends: bool = False) -> None:
        """Puts bytes on a stream."""
        self.quic.send_stream_data(stream, data, ends)
        self.transmit()

    def open_uni(self, kind: int, data: bytes = b"", *, ends: bool = False) -> int:
        """Begins a unidirectional stream of this type."""
        stream = self.quic.get_next_available_stream_id(is_unidirectional=True)
        self.write(stream, encode_uint_var(kind) + data, ends=ends)
        return stream

    def open_request(self, data: bytes, *, ends: bool = False) -> int:
        """Begins a request stream."""
        stream = self.quic.get_next_available_stream_id()
        self.write(stream, data, ends=ends)
        return stream

    def preface(self) -> int:
        """What a client must send first. Returns its control stream."""
        settings = encode_settings({Setting.QPACK_MAX_TABLE_CAPACITY: 0})
        return self.open_uni(StreamType.CONTROL, encode_frame(FrameType.SETTINGS, settings))

    def headers(self, fields: Headers) -> bytes:
        """A HEADERS frame, which refers to no dynamic table."""
        # Without the server's SETTINGS, the encoder has no table to insert into.
        _, block = self._qpack.encode(0, fields)
        return encode_frame(FrameType.HEADERS, block)

    def request(self, path: str = "/", more: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """The HEADERS frame of a GET."""
        return self.headers([*self.head("GET", path), *more])

    async def flush(self) -> None:
        """Waits until all queued frames are sent."""
        self.transmit()
        await self.until(lambda: not self.quic.frames)

    async def has_begun(self, stream: int) -> None:
        """Waits until the server allows a stream."""
        await self.until(lambda: not self.quic.is_blocked(stream))
        # A breath, in which the server's complaints are read.
        await asyncio.sleep(0)

    def allowed(self, parameter: str) -> int:
        """A limit among the server's transport parameters."""
        return getattr(self.quic.parameters, parameter) or 0

    async def repeat(self, stream: int, piece: bytes, count: int) -> None:
        """Puts the same bytes on a stream again and again, as fast as the server takes them."""
        at_once = max(1, (1 << 14) // len(piece))
        for _ in range(0, count, at_once):
            await self.write_slowly(stream, piece * at_once)

    async def pour(self, stream: int, total: int) -> None:
        """Puts this many zeros on a stream, as fast as the server takes them."""
        await self.repeat(stream, bytes(1 << 14), total >> 14)

    async def write_slowly(self, stream: int, data: bytes) -> None:
        """Puts bytes on a stream when those before have left, unless the server stopped it."""
        await self.until(lambda: self.quic.backlog(stream) < BACKLOG_MAX or stream in self.stops)
        if stream not in self.stops:
            self.write(stream, data)
