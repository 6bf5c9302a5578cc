"""The commands of a client that behaves and stays where it is."""

import argparse
import asyncio
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from aioquic.h3.connection import ErrorCode
from websockets.frames import Frame
from websockets.protocol import Event, Protocol, Side

from client import Add, Answer, Client, Failure, Header, Report, connect

PIECE = 1 << 14
"""Bytes of one DATA frame of a request."""


def dial(options: argparse.Namespace, **more: Any) -> AbstractAsyncContextManager[Client]:
    """The connection that the command line describes."""
    return connect(Client, options.target, options.server_name, local=options.local, **more)


def body_of(size: int, seed: int = 1) -> Iterator[bytes]:
    """The pieces of a body that looks random, and is the same each time."""
    dice = random.Random(seed)
    while size > 0:
        yield dice.randbytes(min(size, PIECE))
        size -= PIECE


def tally(answers: list[Answer]) -> list[Report]:
    """The different answers, each with how often it came, the most frequent first."""
    kinds = Counter(tuple(answer.summary().items()) for answer in answers)
    return [{**dict(kind), "count": count} for kind, count in kinds.most_common()]


def must_be_whole(answers: list[Answer], report: Report) -> Report:
    """The report, if no stream was reset."""
    broken = sum(answer.reset is not None for answer in answers)
    if broken:
        raise Failure(f"{broken} of {len(answers)} streams were reset", report)
    return report


async def get(options: argparse.Namespace) -> Report:
    """Sends requests, and tells the different answers and what the handshake agreed on."""
    async with dial(options) as client:
        left = iter(range(options.count))
        answers: list[Answer] = []

        async def requests_one_by_one() -> None:
            for _ in left:
                pieces = None if options.body is None else [options.body.encode()]
                answers.append(await client.fetch(options.method, options.path, pieces, options.header))

        await asyncio.gather(*(requests_one_by_one() for _ in range(options.streams)))
        headers = {name.decode(): value.decode() for name, value in answers[0].headers}
        report = {
            "answers": tally(answers),
            "headers": headers,
            "trailers": {name.decode(): value.decode() for name, value in answers[0].trailers},
            "alt_svc": headers.get("alt-svc"),
            "connection": client.facts(),
        }
        return must_be_whole(answers, report)


async def hold(options: argparse.Namespace) -> Report:
    """Opens requests, and gives them up at the first line of standard input: each, or their connection.

    A connection that stays is closed at the end of standard input.
    """
    async with dial(options) as client:
        head = client.head("GET", options.path)
        answers = [client.open(head, ends=True) for _ in range(options.count)]
        await asyncio.to_thread(sys.stdin.readline)
        if options.how == "reset":
            for answer in answers:
                client.quic.stop_stream(answer.stream, ErrorCode.H3_REQUEST_CANCELLED)
            client.transmit()
            await asyncio.to_thread(sys.stdin.read)
        return {"answers": tally(answers), "connection": client.facts()}


async def echo(options: argparse.Namespace) -> Report:
    """Uploads a body that does not exist in memory, and compares what comes back."""
    sent = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for piece in body_of(options.bytes):
            sent.update(piece)
            yield piece

    async with dial(options) as client:
        answer = await client.fetch("POST", options.path, pieces())
        report = {
            "bytes": options.bytes,
            "sent_sha256": sent.hexdigest(),
            **answer.summary(),
            "connection": client.facts(),
        }
        must_be_whole([answer], report)
        if answer.hash.digest() != sent.digest():
            raise Failure("what came back is not what was sent", report)
        return report


class WebSocket:
    """The frames of `websockets` on an HTTP/3 stream; its handshake, which is HTTP/1.1, is left out."""

    def __init__(self, client: Client, answer: Answer) -> None:
        self.client = client
        self.answer = answer
        self.protocol = Protocol(Side.CLIENT)
        self.received: list[Event] = []
        answer.data = bytearray()

    def flush(self) -> None:
        """Sends what the protocol has to say."""
        self.client.send(self.answer, b"".join(self.protocol.data_to_send()))

    async def message(self) -> bytes:
        """The next message, whose frames may be many."""
        frames = [await self.frame()]
        while not frames[-1].fin:
            frames.append(await self.frame())
        return b"".join(frame.data for frame in frames)

    async def frame(self) -> Frame:
        """The next frame."""
        assert self.answer.data is not None, "it was put there at the beginning"
        while not self.received:
            await self.client.until(lambda: bool(self.answer.data) or self.answer.ended)
            if not self.answer.data:
                raise Failure("the node ended the stream of the WebSocket", self.answer.summary())
            self.protocol.receive_data(bytes(self.answer.data))
            self.answer.data.clear()
            self.received = self.protocol.events_received()
        frame = self.received.pop(0)
        assert isinstance(frame, Frame), "without a handshake, all events are frames"
        return frame


async def websocket(options: argparse.Namespace) -> Report:
    """Opens a WebSocket by extended CONNECT (RFC 9220), has messages echoed, and closes it."""
    messages = {"text": b"a text", "binary": bytes(range(256)) * (options.bytes // 256)}
    async with dial(options) as client:
        head = client.head("CONNECT", options.path)
        head += [(b":protocol", b"websocket"), (b"sec-websocket-version", b"13")]
        answer = client.open(head, ends=False)
        socket = WebSocket(client, answer)
        await client.until(lambda: answer.status is not None or answer.ended)
        report: Report = {"status": answer.status, "connection": client.facts()}
        if answer.status != 200:
            raise Failure("the node opens no WebSocket", report)
        socket.protocol.send_text(messages["text"])
        socket.protocol.send_binary(messages["binary"])
        socket.flush()
        report["echoed"] = [kind for kind, sent in messages.items() if await socket.message() == sent]
        socket.protocol.send_close(1000, "good bye")
        socket.flush()
        await socket.frame()
        close = socket.protocol.close_rcvd
        report["close_code"] = close.code if close else None
    if report["echoed"] != list(messages) or report["close_code"] != 1000:
        raise Failure("the WebSocket does not echo and close", report)
    return report


def field(text: str) -> Header:
    """`NAME:VALUE` as a header field."""
    name, _, value = text.partition(":")
    return name.encode(), value.encode()


def add_commands(add: Add) -> None:
    """The commands of this file with their options."""
    command = add("get", get)
    command.add_argument("--path", default="/")
    command.add_argument("--method", default="GET")
    command.add_argument("--body", help="the body of each request")
    command.add_argument("--header", action="append", default=[], type=field, metavar="NAME:VALUE")
    command.add_argument("--count", type=int, default=1, help="how many requests")
    command.add_argument("--streams", type=int, default=1, help="how many at a time")
    command = add("hold", hold)
    command.add_argument("--path", default="/")
    command.add_argument("--count", type=int, default=1, help="how many requests")
    command.add_argument("--how", choices=["reset", "close"], default="reset")
    command = add("echo", echo)
    command.add_argument("--path", default="/echo")
    command.add_argument("--bytes", type=int, default=1 << 20)
    command = add("websocket", websocket)
    command.add_argument("--path", default="/ws")
    command.add_argument("--bytes", type=int, default=25600, help="of the second message")
