"""An HTTP/3 client for the stories, on aioquic: one subcommand for each thing that it can do.

Called as `python3 h3 COMMAND HOST:PORT [options]`; `--help` tells them. It prints one line of JSON
with what it observed. It ends with 0 if the protocol did what was asked; else with 1, and says on
standard error what went wrong. Certificates are not verified. Needs Python 3.11.
"""

import argparse
import asyncio
import json
import sys

import bad
import fetching
import handshakes
import roaming
from client import Failure, Report, Run


def parse() -> argparse.Namespace:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("target", metavar="HOST:PORT", help="where the node listens")
    common.add_argument("--server-name", default="localhost", help="for SNI and :authority")
    common.add_argument("--local", metavar="ADDRESS", help="the first address to come from")
    common.add_argument("--timeout", type=float, default=100, metavar="SECONDS", help="for everything")
    parser = argparse.ArgumentParser(prog="h3", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Run) -> argparse.ArgumentParser:
        """Adds a subcommand, which is described by the docstring of what runs it."""
        command = commands.add_parser(name, parents=[common], help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        return command

    fetching.add_commands(add)
    handshakes.add_commands(add)
    roaming.add_commands(add)
    bad.add_commands(add)
    return parser.parse_args()


async def run(options: argparse.Namespace) -> Report:
    """The report of the subcommand."""
    try:
        async with asyncio.timeout(options.timeout):
            report: Report = await options.run(options)
            return report
    except TimeoutError:
        raise Failure(f"not done after {options.timeout} seconds") from None


def main() -> int:
    """Runs the program, and returns its exit code."""
    try:
        report, complaint = asyncio.run(run(parse())), None
    except Failure as failure:
        report, complaint = failure.report, failure
    print(json.dumps(report))
    if complaint is None:
        return 0
    print(f"h3: {complaint}", file=sys.stderr)
    return 1


sys.exit(main())
