"""The command `cloister`: look at what this machine can do, and see it done."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from . import doctor


def main() -> None:
    """Run a command; the exit code says how it went."""
    parser = argparse.ArgumentParser(prog="cloister", description="Other people's code, safely and durably.")
    commands = parser.add_subparsers(dest="command", required=True)
    examine = commands.add_parser(
        "doctor", help="which layers of confinement this machine gives, and how to get others"
    )
    examine.add_argument("--json", action="store_true", help="as JSON, for programs")
    commands.add_parser("demo", help="three repositories' pipelines survive an eviction and a kill -9")
    arguments = parser.parse_args()
    if arguments.command == "demo":
        from .demo.__main__ import main as demo

        demo()
    found = asyncio.run(doctor.examine())
    if arguments.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        doctor.show(found)
    sys.exit(0 if found["runs"] else 1)
