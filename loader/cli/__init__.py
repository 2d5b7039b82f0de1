"""The command `cloister`: look at what this machine can do, see it done, and look after a database."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import sys

from cloister.loader import doctor

from . import bundles, db, instances, output


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"cloister {importlib.metadata.version('cloister')}")
        parser.exit()


def main() -> None:
    """Run a command; the exit code says how it went."""
    parser = argparse.ArgumentParser(prog="cloister", description="Other people's code, safely and durably.")
    parser.add_argument("--version", action=_Version, nargs=0, help="say which version this is")
    commands = parser.add_subparsers(dest="command", required=True)
    examine = commands.add_parser(
        "doctor", help="which layers of confinement this machine gives, and how to get others"
    )
    examine.add_argument("--json", action="store_true", help="as JSON, for programs")
    commands.add_parser("demo", help="three repositories' pipelines survive an eviction and a kill -9")
    db.arguments(commands.add_parser("db", help="look at a database, make it small, copy it, take an instance out"))
    instances.arguments(commands.add_parser("instances", help="list, describe and steer the instances of a database"))
    bundles.arguments(commands)
    given = parser.parse_args()
    output.show_what_can_be_shown()
    match given.command:
        case "demo":
            from cloister.loader.demo.__main__ import main as demo

            sys.exit(demo())
        case "bundle" | "check":
            sys.exit(bundles.run(given))
        case "db":
            sys.exit(db.run(given))
        case "instances":
            sys.exit(instances.run(given))
    sys.exit(_doctor(as_json=given.json))


def _doctor(*, as_json: bool) -> int:
    found = asyncio.run(doctor.examine())
    try:
        if as_json:
            output.print_json(found)
        else:
            doctor.show(found)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # whoever reads has enough; a console of rich's says so by an exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if found["runs"] else 1
