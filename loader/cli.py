"""The command `cloister`: look at what this machine can do, and see it done."""

from __future__ import annotations

import argparse
import asyncio
import sys

from rich.console import Console
from rich.table import Table

from cloister.sandbox import SandboxError

from .loader import Loader


def main() -> None:
    """Run a command; the exit code says how it went."""
    parser = argparse.ArgumentParser(prog="cloister", description="Other people's code, safely and durably.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="which layers of confinement this machine gives")
    commands.add_parser("demo", help="three repositories' pipelines survive an eviction and a kill -9")
    if parser.parse_args().command == "demo":
        from .demo.__main__ import main as demo

        demo()
    sys.exit(asyncio.run(doctor()))


async def doctor() -> int:
    """Print the layers. 0 if tenants can be run here at all."""
    console = Console()
    try:
        async with Loader(max_sandboxes=1, spares=0) as loader:
            layers = loader.statistics().layers
    except SandboxError as error:
        console.print(f"Tenants cannot be confined here: {error}")
        return 1
    table = Table("layer", "state", title="confinement on this machine", title_justify="left")
    for layer, state in layers.items():
        table.add_row(layer, state)
    console.print(table)
    return 0
