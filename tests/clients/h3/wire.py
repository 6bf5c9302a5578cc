"""Misdeeds below connections: datagrams that were damaged, made up, or never followed by others."""

import argparse
import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from client import Failure, Report, parse_target
from fetching import body_of, dial, tally

QUIET = 2.0
"""Seconds in which answers to the last datagrams may still come."""


def damaged(datagram: bytes, dice: random.Random) -> bytes:
    """A copy with a few flipped bits, or cut, or with more at its end."""
    copy = bytearray(datagram)
    for _ in range(dice.randint(1, 8)):
        copy[dice.randrange(len(copy))] ^= 1 << dice.randrange(8)
    match dice.randrange(4):
        case 0:
            del copy[dice.randrange(1, len(copy) + 1) :]
        case 1:
            copy += dice.randbytes(dice.randint(1, 100))
    return bytes(copy)


class Damager:
    """A socket that sends a damaged copy ahead of each datagram."""

    def __init__(self, transport: asyncio.DatagramTransport, dice: random.Random) -> None:
        self.transport = transport
        self.dice = dice
        self.sent = 0

    def sendto(self, data: bytes, address: Any) -> None:
        """As of a transport."""
        self.transport.sendto(damaged(data, self.dice), address)
        self.transport.sendto(data, address)
        self.sent += 1

    def close(self) -> None:
        """As of a transport."""
        self.transport.close()


async def mutations(options: argparse.Namespace) -> Report:
    """Requests and an upload, where a damaged copy goes ahead of each datagram: all must succeed."""
    async with dial(options) as client:
        damager = Damager(client._transport, random.Random(options.seed))
        client._transport = damager  # type: ignore[assignment]
        answers = [await client.fetch("GET", "/") for _ in range(options.count)]
        echo = await client.fetch("POST", "/echo", body_of(options.bytes))
        report = {"damaged": damager.sent, "answers": tally([*answers, echo])}
    if any(answer.status != 200 for answer in [*answers, echo]) or echo.length != options.bytes:
        raise Failure("damaged datagrams did harm", report)
    return report


class Counting(asyncio.DatagramProtocol):
    """Counts what comes back."""

    def __init__(self) -> None:
        self.datagrams = 0
        self.bytes = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams += 1
        self.bytes += len(data)


async def throw(options: argparse.Namespace, datagrams: Iterator[bytes]) -> Report:
    """Sends datagrams from one socket, and counts what comes back."""
    loop = asyncio.get_running_loop()
    where = parse_target(options.target)
    transport, counting = await loop.create_datagram_endpoint(Counting, remote_addr=where)
    sent = sent_bytes = 0
    for datagram in datagrams:
        transport.sendto(datagram)
        sent += 1
        sent_bytes += len(datagram)
        await asyncio.sleep(0)
    await asyncio.sleep(QUIET)
    transport.close()
    received = {"received": counting.datagrams, "received_bytes": counting.bytes}
    return {"sent": sent, "sent_bytes": sent_bytes, **received}


def first_flights(options: argparse.Namespace) -> Iterator[bytes]:
    """The first datagrams of --count clients."""
    for _ in range(options.count):
        quic = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=H3_ALPN, server_name=options.server_name, verify_mode=ssl.CERT_NONE
            )
        )
        quic.connect(parse_target(options.target), now=0)
        for datagram, _ in quic.datagrams_to_send(now=0):
            yield datagram


async def half_open(options: argparse.Namespace) -> Report:
    """Clients that begin and are never heard again. At most three times their bytes may come back."""
    report = await throw(options, first_flights(options))
    if report["received_bytes"] > 3 * report["sent_bytes"]:
        raise Failure("the node sends more than three times what it got", report)
    return report


async def damaged_initials(options: argparse.Namespace) -> Report:
    """First datagrams of clients, all damaged."""
    dice = random.Random(options.seed)
    return await throw(options, (damaged(datagram, dice) for datagram in first_flights(options)))


async def garbage(options: argparse.Namespace) -> Report:
    """Datagrams of random bytes and sizes."""
    dice = random.Random(options.seed)
    return await throw(options, (dice.randbytes(dice.randint(0, 1472)) for _ in range(options.count)))


WIRE: dict[str, Callable[[argparse.Namespace], Awaitable[Report]]] = {
    "mutations": mutations,
    "half-open": half_open,
    "damaged-initials": damaged_initials,
    "garbage": garbage,
}
