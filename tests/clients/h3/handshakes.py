"""The commands that look at QUIC itself: sessions, keys, versions, extensions."""

import argparse
import asyncio
import os
import pickle
import socket
from collections import Counter
from pathlib import Path

from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicHeader, QuicPacketType, pull_quic_header

from client import Add, Client, ConnectionLost, End, Failure, Memory, Report, connect, parse_target
from fetching import dial

TICKET_PATIENCE = 5.0
"""Seconds to wait for a session ticket after the first answer. It comes with the handshake."""

UNKNOWN_VERSION = 0x1A2A3A4A
"""Reserved by RFC 9000 so that servers get to practise version negotiation."""


async def take_ticket(client: Client, memory: Memory) -> None:
    """Waits for a session ticket, which may not come."""
    try:
        async with asyncio.timeout(TICKET_PATIENCE):
            await client.until(lambda: memory.ticket is not None)
    except TimeoutError:
        pass


async def first_visit(options: argparse.Namespace, memory: Memory) -> Report:
    """A request on a fresh connection, which fills the memory."""
    async with dial(options, memory=memory) as client:
        answer = await client.fetch("GET", options.path)
        await take_ticket(client, memory)
        report = {"status": answer.status, "ticket": memory.ticket is not None, "token": len(memory.token)}
    if memory.ticket is None:
        raise Failure("no session ticket came", {"first": report})
    # None stands for a ticket that allows no early data.
    return {**report, "max_early_data_size": memory.ticket.max_early_data_size}


async def second_visit(options: argparse.Namespace, memory: Memory) -> Report:
    """A request on a connection that begins with what was remembered."""
    target = options.then or options.target
    async with connect(Client, target, options.server_name, local=options.local, memory=memory) as client:
        answer = await client.fetch("GET", options.path)
        return {"status": answer.status, "connection": client.facts()}


async def resume(options: argparse.Namespace) -> Report:
    """Takes a session ticket and an address token, and connects again with them.

    With --save or --use it does one half, so that something may happen to the node in between.
    """
    memory = Memory()
    report: Report = {}
    if options.use:
        memory = pickle.loads(Path(options.use).read_bytes())
    else:
        report["first"] = await first_visit(options, memory)
    if options.save:
        Path(options.save).write_bytes(pickle.dumps(memory))
        return report
    report["second"] = await second_visit(options, memory)
    report["resumed"] = report["second"]["connection"]["resumed"]
    return report


async def key_update(options: argparse.Namespace) -> Report:
    """Sends requests, each with the keys of the next phase."""
    async with dial(options) as client:
        first = await client.fetch("GET", options.path)
        statuses, phases = [first.status], [client.quic.key_phase]
        for _ in range(options.count):
            await client.until(lambda: client.quic.may_update_keys)
            client.request_key_update()
            answer = await client.fetch("GET", options.path)
            statuses.append(answer.status)
            phases.append(client.quic.key_phase)
        report = {"statuses": statuses, "key_phases": phases, "connection": client.facts()}
    if phases != [number % 2 for number in range(options.count + 1)]:
        raise Failure("the key phase does not alternate", report)
    return report


def initial_of_version(version: int, size: int) -> bytes:
    """A datagram that looks like an Initial of this version; all behind its ids is zero."""
    ids = b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    return (b"\xc0" + version.to_bytes(4, "big") + ids).ljust(size, b"\0")


def exchange_datagrams(target: str, datagram: bytes, patience: float) -> bytes | None:
    """The first answer to a datagram, if one comes in time."""
    family, kind, protocol, _, address = socket.getaddrinfo(*parse_target(target), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(patience)
        sock.sendto(datagram, address)
        try:
            return sock.recv(65535)
        except TimeoutError:
            return None


async def version_negotiation(options: argparse.Namespace) -> Report:
    """Sends an Initial of a version that does not exist, and tells the versions that are offered."""
    sent = initial_of_version(options.version, options.size)
    answer = await asyncio.to_thread(exchange_datagrams, options.target, sent, options.patience)
    if answer is None:
        raise Failure("no answer came", {"answered": False})
    header: QuicHeader = pull_quic_header(Buffer(data=answer))
    report = {
        "answered": True,
        "packet_type": header.packet_type.name.lower(),
        "versions": [f"0x{version:08x}" for version in header.supported_versions],
        "bytes": len(answer),
    }
    if header.packet_type is not QuicPacketType.VERSION_NEGOTIATION:
        raise Failure("the answer is no Version Negotiation packet", report)
    if (header.destination_cid, header.source_cid) != (sent[15:23], sent[6:14]):
        raise Failure("the answer does not return the connection ids", report)
    return report


async def datagram(options: argparse.Namespace) -> Report:
    """Tells whether the node takes DATAGRAM frames (RFC 9221), and HTTP's (RFC 9297)."""
    async with dial(options, max_datagram_frame_size=65535) as client:
        facts = client.facts()
    return {
        "max_datagram_frame_size": facts["transport_parameters"].get("max_datagram_frame_size"),
        "h3_datagram": facts["settings"].get("h3_datagram"),
    }


async def ping_forever(client: Client, pause: float) -> None:
    """Has the server hear of the client again and again."""
    while True:
        await asyncio.sleep(pause)
        client.quic.send_ping(0)
        client.transmit()


async def one_that_stays(options: argparse.Namespace) -> tuple[End, int | None]:
    """One connection from its first request to its end, and the GOAWAY before it."""
    client = pings = None
    try:
        async with dial(options) as client:
            if options.ping:
                pings = asyncio.create_task(ping_forever(client, options.ping))
            await client.fetch("GET", options.path)
            while True:
                await client.until(lambda: False)
    except ConnectionLost as lost:
        return lost.end, client.http.goaway if client and client.http else None
    finally:
        if pings is not None:
            pings.cancel()


async def stay(options: argparse.Namespace) -> Report:
    """Sends a request on each of --connections, stays, and tells how they ended."""
    ends = await asyncio.gather(*(one_that_stays(options) for _ in range(options.connections)))
    kinds = Counter((end.by.value, end.code, end.reason, goaway) for end, goaway in ends)
    names = ("by", "code", "reason", "goaway")
    return {"ends": [{**dict(zip(names, kind, strict=True)), "count": n} for kind, n in kinds.most_common()]}


def add_commands(add: Add) -> None:
    """The commands of this file with their options."""
    command = add("resume", resume)
    command.add_argument("--path", default="/")
    command.add_argument("--then", metavar="HOST:PORT", help="where the second connection goes")
    half = command.add_mutually_exclusive_group()
    half.add_argument("--save", metavar="FILE", help="only the first connection; keep what it got here")
    half.add_argument("--use", metavar="FILE", help="only the second connection, with what was kept")
    command = add("key-update", key_update)
    command.add_argument("--path", default="/")
    command.add_argument("--count", type=int, default=3, help="how many updates")
    command = add("version-negotiation", version_negotiation)
    command.add_argument("--version", type=lambda word: int(word, 0), default=UNKNOWN_VERSION)
    command.add_argument("--size", type=int, default=1200, help="of the datagram; below 1200 none answers")
    command.add_argument("--patience", type=float, default=3, metavar="SECONDS", help="for the answer")
    add("datagram", datagram)
    command = add("stay", stay)
    command.add_argument("--path", default="/")
    command.add_argument("--connections", type=int, default=1)
    command.add_argument(
        "--ping", type=float, metavar="SECONDS", help="between two PING frames; without, none"
    )
