"""The command `cloister`: look at what this machine can do, see it done, and look after a database."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from cloister.loader import doctor

from . import bundles, db, instances


def main() -> None:
    """Run a command; the exit code says how it went."""
    parser = argparse.ArgumentParser(prog="cloister", description="Other people's code, safely and durably.")
    commands = parser.add_subparsers(dest="command", required=True)
    examine = commands.add_parser(
        "doctor", help="which layers of confinement this machine gives, and how to get others"
    )
    examine.add_argument("--json", action="store_true", help="as JSON, for programs")
    commands.add_parser("demo", help="three repositories' pipelines survive an eviction and a kill -9")
    db.arguments(commands.add_parser("db", help="look at a database, make it small, copy it, take an instance out"))
    instances.arguments(commands.add_parser("instances", help="list, describe and steer the instances of a database"))
    bundles.arguments(commands)
    arguments = parser.parse_args()
    if arguments.command == "demo":
        from cloister.loader.demo.__main__ import main as demo

        demo()
    if arguments.command in {"bundle", "check"}:
        sys.exit(bundles.run(arguments))
    if arguments.command == "db":
        sys.exit(db.run(arguments))
    if arguments.command == "instances":
        sys.exit(instances.run(arguments))
    found = asyncio.run(doctor.examine())
    if arguments.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        doctor.show(found)
    sys.exit(0 if found["runs"] else 1)
