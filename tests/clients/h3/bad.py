"""The command that does a node wrong, and tells what the node made of it."""

import argparse
import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from aioquic.h3.connection import ErrorCode
from aioquic.quic.packet import QuicErrorCode

from bare import Bare
from client import Add, ConnectionLost, End, Failure, Report, connect
from fetching import dial
from misdeeds import MISDEEDS, Misdeed
from wire import WIRE

WINDOW = 1 << 14
"""Bytes that the node may send on a stream at first: few, so that an answer can be held up."""

ANSWER_PATIENCE = 10.0
"""Seconds in which a node that lives answers a client that behaves."""


def code_name(code: int) -> str:
    """The name of a code of HTTP/3 or QUIC; those of HTTP/3 begin at 0x100."""
    for codes in (ErrorCode, QuicErrorCode):
        try:
            return codes(code).name
        except ValueError:
            pass
    return f"0x{code:x}"


def named(codes: Iterable[int]) -> dict[str, int]:
    """How often each code came, by name."""
    return {code_name(code): count for code, count in Counter(codes).items()}


async def misbehave(misdeed: Misdeed, options: argparse.Namespace) -> Report:
    """Does it, and waits for the end of the connection for --seconds."""
    end: End | None = None
    done = False
    async with connect(Bare, options.target, options.server_name, max_stream_data=WINDOW) as client:
        try:
            async with asyncio.timeout(options.seconds):
                await misdeed.deed(client, options)
                done = True
                await client.until(lambda: False)
        except TimeoutError:
            pass
        except ConnectionLost as lost:
            end = lost.end
    codes = {end.code} if end and end.by == "server" else set()
    codes |= {*client.resets.elements(), *client.stops.values()}
    return {
        "done": done,
        "end": {**asdict(end), "name": code_name(end.code)} if end else None,
        "resets": named(client.resets.elements()),
        "stops": named(client.stops.values()),
        "received_bytes": client.received.total(),
        "expected": [code.name for code in misdeed.expected],
        "as_expected": not misdeed.expected or not codes.isdisjoint(misdeed.expected),
    }


async def serves_others(options: argparse.Namespace) -> bool:
    """Whether a client that behaves gets an answer."""
    try:
        async with asyncio.timeout(ANSWER_PATIENCE), dial(options) as client:
            return (await client.fetch("GET", "/")).status == 200
    except (TimeoutError, ConnectionLost):
        return False


async def bad(options: argparse.Namespace) -> Report:
    """Does the named wrong to the node, tells how it ended, and whether the node still serves others."""
    if options.name in MISDEEDS:
        report = await misbehave(MISDEEDS[options.name], options)
    else:
        report = await WIRE[options.name](options)
    report = {"name": options.name, **report, "alive": await serves_others(options)}
    if not report["alive"]:
        raise Failure("the node serves nobody any more", report)
    return report


def add_commands(add: Add) -> None:
    """The command of this file with its options."""
    command = add("bad", bad)
    command.add_argument(
        "name", metavar="NAME", choices=[*MISDEEDS, *WIRE], help=", ".join([*MISDEEDS, *WIRE])
    )
    command.add_argument("--path", default="/stream/1MiB", help="of requests whose answers are large")
    command.add_argument("--seconds", type=float, default=3, help="to wait for the end of the connection")
    command.add_argument("--count", type=int, default=1000, help="how many, of what is repeated")
    command.add_argument("--bytes", type=int, default=1 << 20, help="how much, of what is long")
    command.add_argument("--seed", type=int, default=1)
