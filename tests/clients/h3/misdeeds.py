"""What a client may do to a node on one connection: each misdeed is an entry of `MISDEEDS`.

The codes that an entry expects are those that RFC 9000, 9114 and 9204 name for the mistake. None
are named for what breaks no rule and only costs: there the question is whether the node lives on.
"""

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, StreamType, encode_frame, encode_settings
from aioquic.quic.packet import QuicErrorCode

from bare import Bare

UNKNOWN = 0x21
"""Reserved by RFC 9114 so that peers get to practise ignoring it: a type of frames and of streams."""
HTTP2_PING = 0x06
HTTP2_ENABLE_PUSH = 0x02

PING = 0x01
PATH_CHALLENGE = 0x1A
UNKNOWN_QUIC_FRAME = 0x3F

Deed = Callable[[Bare, argparse.Namespace], Awaitable[None]]


@dataclass(frozen=True)
class Misdeed:
    """What is done, and the codes of which one must answer it."""

    deed: Deed
    expected: tuple[IntEnum, ...] = ()


def declared(frame_type: int, length: int) -> bytes:
    """The head of a frame that claims this length."""
    return encode_uint_var(frame_type) + encode_uint_var(length)


# One write.


def on_request(data: bytes | Callable[[Bare], bytes], *, ends: bool = False) -> Deed:
    """These bytes at the beginning of a request stream."""

    async def deed(client: Bare, _: argparse.Namespace) -> None:
        client.preface()
        client.open_request(data if isinstance(data, bytes) else data(client), ends=ends)

    return deed


def on_control(data: bytes, *, ends: bool = False) -> Deed:
    """These bytes on the control stream, after SETTINGS."""

    async def deed(client: Bare, _: argparse.Namespace) -> None:
        client.write(client.preface(), data, ends=ends)

    return deed


def on_stream(kind: int, data: bytes) -> Deed:
    """These bytes on a unidirectional stream of this type, after the preface."""

    async def deed(client: Bare, _: argparse.Namespace) -> None:
        client.preface()
        client.open_uni(kind, data)

    return deed


def instead_of_settings(data: bytes) -> Deed:
    """These bytes at the beginning of the control stream."""

    async def deed(client: Bare, _: argparse.Namespace) -> None:
        client.open_uni(StreamType.CONTROL, data)

    return deed


def with_fields(*fields: tuple[bytes, bytes]) -> Deed:
    """A request with these fields in addition, for a route that reads its body."""
    return on_request(lambda client: client.request("/echo", fields), ends=True)


# Much of something, by --bytes and --count.


def poured(frame_type: int, length: int) -> Deed:
    """A frame on a request stream that claims this length, of which --bytes follow."""

    async def deed(client: Bare, options: argparse.Namespace) -> None:
        client.preface()
        await client.pour(client.open_request(declared(frame_type, length)), options.bytes)

    return deed


async def many_fields(client: Bare, options: argparse.Namespace) -> None:
    """A head of --bytes, in fields of 100."""
    client.preface()
    fields = [(b"x-%d" % number, b"v" * 90) for number in range(options.bytes // 100)]
    client.open_request(client.request(more=fields), ends=True)


async def empty_frames(client: Bare, options: argparse.Namespace) -> None:
    """DATA frames without data."""
    client.preface()
    stream = client.open_request(client.headers(client.head("POST", "/echo")))
    await client.repeat(stream, encode_frame(FrameType.DATA, b""), options.count)


async def rapid_reset(client: Bare, options: argparse.Namespace) -> None:
    """Requests that are cancelled as soon as they are sent."""
    client.preface()
    for _ in range(options.count):
        stream = client.open_request(client.request(options.path), ends=True)
        await client.has_begun(stream)
        client.transmit()
        client.quic.reset_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        client.quic.stop_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        client.transmit()


async def stream_flood(client: Bare, options: argparse.Namespace) -> None:
    """Unidirectional streams of an unknown type that end at once."""
    client.preface()
    for _ in range(options.count):
        await client.has_begun(client.open_uni(UNKNOWN, b"x", ends=True))


async def unfinished_heads(client: Bare, options: argparse.Namespace) -> None:
    """As many requests as the node allows, whose heads never end."""
    client.preface()
    for _ in range(min(options.count, client.allowed("initial_max_streams_bidi"))):
        await client.has_begun(client.open_request(client.request()[:5]))


async def qpack_inserts(client: Bare, options: argparse.Namespace) -> None:
    """Insertions into a table as large as aioquic and others allow: an error where none is allowed."""
    client.preface()
    # Set Dynamic Table Capacity 4096. Insert with Literal Name "x" and a value of 60 bytes.
    stream = client.open_uni(StreamType.QPACK_ENCODER, b"\x3f\xe1\x1f")
    await client.repeat(stream, b"\x41x\x3c" + b"v" * 60, options.count)


# Reading badly.


async def stall(client: Bare, options: argparse.Namespace) -> None:
    """A large answer, without ever a word of flow control."""
    client.quic.grants_credit = False
    client.preface()
    client.open_request(client.request(options.path), ends=True)


async def slow_reader(client: Bare, options: argparse.Namespace) -> None:
    """A large answer, of which the node may send a thousand bytes in a second."""
    await stall(client, options)
    limit = client.quic.configuration.max_stream_data
    while client.quic.end is None:
        await asyncio.sleep(0.1)
        limit += 100
        client.quic.grant(0, limit)
        client.transmit()


# QUIC.


async def stream_above_limit(client: Bare, _: argparse.Namespace) -> None:
    """A stream that was not allowed."""
    client.preface()
    first_refused = client.allowed("initial_max_streams_bidi")
    client.quic.send_stream_frame(4 * (first_refused + 1000), 0, b"x")
    await client.flush()


async def data_above_window(client: Bare, _: argparse.Namespace) -> None:
    """A byte far behind what flow control allows."""
    client.preface()
    window = client.allowed("initial_max_stream_data_bidi_remote")
    client.quic.send_stream_frame(0, 2 * window + 10_000_000, b"x")
    await client.flush()


def quic_frames(frame_type: int, *, random_bytes: int = 0) -> Deed:
    """Frames of this type, each with so many bytes of its own."""

    async def deed(client: Bare, options: argparse.Namespace) -> None:
        client.preface()
        for _ in range(options.count):
            client.quic.send_frame(frame_type, os.urandom(random_bytes))
        await client.flush()

    return deed


async def connection_ids(client: Bare, options: argparse.Namespace) -> None:
    """Connection ids, each of which retires all before."""
    client.preface()
    for _ in range(options.count):
        client.quic.send_connection_id()
    await client.flush()


REQUEST_DATA = encode_frame(FrameType.DATA, b"data")
SETTINGS = encode_frame(FrameType.SETTINGS, b"")
UNEXPECTED = (ErrorCode.H3_FRAME_UNEXPECTED,)
MALFORMED = (ErrorCode.H3_MESSAGE_ERROR,)

MISDEEDS = {
    # Frames where they do not belong.
    "data-before-headers": Misdeed(on_request(REQUEST_DATA), UNEXPECTED),
    "settings-on-request": Misdeed(on_request(SETTINGS), UNEXPECTED),
    "push-promise": Misdeed(on_request(encode_frame(FrameType.PUSH_PROMISE, b"\0\0\0\xd1")), UNEXPECTED),
    "reserved-frame": Misdeed(on_request(encode_frame(HTTP2_PING, bytes(8))), UNEXPECTED),
    "headers-on-control": Misdeed(on_control(encode_frame(FrameType.HEADERS, b"\0\0\xd1")), UNEXPECTED),
    "settings-twice": Misdeed(on_control(SETTINGS), UNEXPECTED),
    # Control streams.
    "settings-missing": Misdeed(
        instead_of_settings(encode_frame(FrameType.MAX_PUSH_ID, b"\x08")), (ErrorCode.H3_MISSING_SETTINGS,)
    ),
    "settings-reserved": Misdeed(
        instead_of_settings(encode_frame(FrameType.SETTINGS, encode_settings({HTTP2_ENABLE_PUSH: 1}))),
        (ErrorCode.H3_SETTINGS_ERROR,),
    ),
    "settings-cut": Misdeed(
        instead_of_settings(encode_frame(FrameType.SETTINGS, b"\x06")), (ErrorCode.H3_FRAME_ERROR,)
    ),
    "control-twice": Misdeed(on_stream(StreamType.CONTROL, SETTINGS), (ErrorCode.H3_STREAM_CREATION_ERROR,)),
    "control-ended": Misdeed(on_control(b"", ends=True), (ErrorCode.H3_CLOSED_CRITICAL_STREAM,)),
    "push-stream": Misdeed(on_stream(StreamType.PUSH, b"\0"), (ErrorCode.H3_STREAM_CREATION_ERROR,)),
    # Requests that are malformed.
    "head-cut": Misdeed(
        on_request(lambda client: client.request()[:5], ends=True),
        (ErrorCode.H3_FRAME_ERROR, ErrorCode.H3_REQUEST_INCOMPLETE),
    ),
    "no-head": Misdeed(on_request(b"", ends=True), (ErrorCode.H3_REQUEST_INCOMPLETE,)),
    "no-path": Misdeed(
        on_request(lambda client: client.headers(client.head("GET", "/")[:3]), ends=True), MALFORMED
    ),
    "name-upper": Misdeed(with_fields((b"X-Upper", b"v")), MALFORMED),
    "connection-field": Misdeed(with_fields((b"connection", b"close")), MALFORMED),
    "length-lies": Misdeed(with_fields((b"content-length", b"10")), MALFORMED),
    # Sizes.
    "head-huge": Misdeed(poured(FrameType.HEADERS, 1 << 30)),
    "head-many-fields": Misdeed(many_fields),
    "unknown-frame-huge": Misdeed(poured(UNKNOWN, 1 << 40)),
    "settings-huge": Misdeed(instead_of_settings(declared(FrameType.SETTINGS, 1 << 30) + bytes(100_000))),
    # Floods.
    "empty-frames": Misdeed(empty_frames),
    "rapid-reset": Misdeed(rapid_reset),
    "stream-flood": Misdeed(stream_flood),
    "unfinished-heads": Misdeed(unfinished_heads),
    "pings": Misdeed(quic_frames(PING)),
    "path-challenges": Misdeed(quic_frames(PATH_CHALLENGE, random_bytes=8)),
    "connection-ids": Misdeed(connection_ids),
    # QPACK: Set Dynamic Table Capacity 2^30; an indexed field of a table without entries.
    "qpack-capacity": Misdeed(
        on_stream(StreamType.QPACK_ENCODER, b"\x3f\xe1\xff\xff\xff\x03"),
        (ErrorCode.QPACK_ENCODER_STREAM_ERROR,),
    ),
    "qpack-inserts": Misdeed(qpack_inserts),
    "qpack-index": Misdeed(
        on_request(encode_frame(FrameType.HEADERS, b"\0\0\x80"), ends=True),
        (ErrorCode.QPACK_DECOMPRESSION_FAILED,),
    ),
    # Reading badly.
    "stall": Misdeed(stall),
    "slow-reader": Misdeed(slow_reader),
    # QUIC.
    "stream-above-limit": Misdeed(stream_above_limit, (QuicErrorCode.STREAM_LIMIT_ERROR,)),
    "data-above-window": Misdeed(data_above_window, (QuicErrorCode.FLOW_CONTROL_ERROR,)),
    "unknown-quic-frame": Misdeed(quic_frames(UNKNOWN_QUIC_FRAME), (QuicErrorCode.FRAME_ENCODING_ERROR,)),
}
