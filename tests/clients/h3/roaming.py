"""The commands of a client whose address changes while it downloads.

Moves happen at offsets of the body, not at times, so that they fall into the transfer however fast
the machine is. All that is random comes from `--seed`.
"""

import argparse
import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from client import Add, Answer, Client, Failure, Move, Report
from fetching import dial


@dataclass(frozen=True)
class Plan:
    """One move: when, and how."""

    offset: int
    how: Move
    local: str | None


async def download(client: Client, path: str, plans: Iterable[Plan]) -> tuple[Answer, Counter[Move]]:
    """Fetches a body, moving on the way; the plans are in the order of their offsets."""
    moves: Counter[Move] = Counter()
    answer = client.open(client.head("GET", path), ends=True)
    for plan in plans:
        await client.until(lambda: answer.ended or answer.length >= plan.offset)
        if answer.ended:
            break
        await client.move(plan.how, plan.local)
        moves[plan.how] += 1
    await client.until(lambda: answer.ended)
    return answer, moves


async def reference(options: argparse.Namespace) -> Report:
    """The body as a client gets it that stays where it is, or as the command line knows it."""
    async with dial(options) as client:
        answer, _ = await download(client, options.path, [])
    summary = answer.summary()
    if answer.status != 200 or "sha256" not in summary:
        raise Failure(f"{options.path} cannot be had without moves", summary)
    if options.sha256 not in (None, summary["sha256"]):
        raise Failure(f"{options.path} has another hash without moves", summary)
    return summary


async def roam(options: argparse.Namespace, how: Move) -> Report:
    """One download with a move every so many bytes."""
    whole = await reference(options)
    places = options.places or [None]
    async with dial(options) as client:
        plans = (Plan(nth * options.every, how, places[nth % len(places)]) for nth in itertools.count(1))
        answer, moves = await download(client, options.path, plans)
        # The connection is still good for more.
        again = await client.fetch("GET", "/")
        report = {
            "moves": moves[how],
            **answer.summary(),
            "next_status": again.status,
            "connection": client.facts(),
        }
    if answer.summary() != whole:
        raise Failure(f"the body is not the one that comes without moves: {whole}", report)
    if not moves[how]:
        raise Failure(f"the body ended before the first {how}; ask for a longer one", report)
    return report


async def rebind(options: argparse.Namespace) -> Report:
    """Downloads while the port changes under an unknowing client, as behind a NAT."""
    return await roam(options, Move.REBIND)


async def migrate(options: argparse.Namespace) -> Report:
    """Downloads while the client migrates to other sockets, each with a fresh connection id."""
    return await roam(options, Move.MIGRATE)


@dataclass
class Crowd:
    """What many connections did together."""

    whole: Report
    """Status, length and hash of the body that each of them must get."""
    completed: int = 0
    bodies: int = 0
    bytes: int = 0
    path_challenges: int = 0
    moves: Counter[Move] = field(default_factory=Counter)
    errors: list[Report] = field(default_factory=list)


def random_plans(options: argparse.Namespace, dice: random.Random, length: int) -> list[Plan]:
    """Moves at random offsets of a body of this length."""
    offsets = sorted(dice.randrange(1, max(length, 2)) for _ in range(options.moves))
    places = options.places or [None]
    return [Plan(offset, Move(dice.choice(options.kinds)), dice.choice(places)) for offset in offsets]


async def visit(client: Client, options: argparse.Namespace, dice: random.Random, crowd: Crowd) -> None:
    """The downloads of one connection of the crowd."""
    for _ in range(options.bodies):
        plans = random_plans(options, dice, crowd.whole["length"])
        answer, moves = await download(client, options.path, plans)
        crowd.moves += moves
        crowd.bytes += answer.length
        if answer.summary() != crowd.whole:
            raise Failure(f"the body is wrong: {answer.summary()}")
        crowd.bodies += 1


async def one_of_many(options: argparse.Namespace, number: int, crowd: Crowd, deadline: float) -> None:
    """One connection of the crowd, from its handshake to its end; what goes wrong is noted."""
    client = None
    try:
        async with asyncio.timeout_at(deadline), dial(options) as client:
            await visit(client, options, random.Random(f"{options.seed}/{number}"), crowd)
            crowd.completed += 1
    except (Failure, TimeoutError) as failure:
        lengths = [answer.length for answer in client.answers.values()] if client else []
        error = str(failure) or "not done in time"
        crowd.errors.append({"connection": number, "error": error, "bytes_of_bodies": lengths})
    if client is not None:
        crowd.path_challenges += client.quic.path_challenges


async def many(options: argparse.Namespace) -> Report:
    """Downloads on many connections that move at random moments; all must complete."""
    start = asyncio.get_running_loop().time()
    # Before the whole program's time is over, so that the report can tell who was late.
    deadline = start + options.timeout * 0.9
    crowd = Crowd(await reference(options))
    numbers = range(options.connections)
    await asyncio.gather(*(one_of_many(options, number, crowd, deadline) for number in numbers))
    seconds = round(asyncio.get_running_loop().time() - start, 3)
    report = {"seed": options.seed, "connections": options.connections, **vars(crowd), "seconds": seconds}
    if crowd.errors:
        raise Failure(f"{len(crowd.errors)} of {options.connections} connections failed", report)
    return report


def add_roaming(command: argparse.ArgumentParser) -> None:
    """The options that all commands of this file have."""
    command.add_argument("--path", default="/stream/1MiB")
    command.add_argument("--sha256", help="of the body; without it, the body without moves is the measure")
    command.add_argument("--places", nargs="+", metavar="ADDRESS", help="local addresses to move between")


def add_commands(add: Add) -> None:
    """The commands of this file with their options."""
    for name, run in (("rebind", rebind), ("migrate", migrate)):
        command = add(name, run)
        add_roaming(command)
        command.add_argument("--every", type=int, default=1 << 17, metavar="BYTES", help="between two moves")
    command = add("many", many)
    add_roaming(command)
    command.add_argument("--connections", type=int, default=64)
    command.add_argument("--bodies", type=int, default=3, help="for each connection, one after the other")
    command.add_argument("--moves", type=int, default=3, help="for each body")
    command.add_argument("--kinds", nargs="+", default=["rebind", "migrate"], choices=list(Move))
    command.add_argument("--seed", type=int, default=1)
