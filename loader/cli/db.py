"""`cloister db`: an operator's face on the engine's archive. It knows no statement and no table."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from cloister.engine import EngineError, InstanceNotFound
from cloister.engine.records import Address
from cloister.engine.store import archive
from cloister.engine.store.export import export

from .output import print_json, print_whole


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be asked."""
    verbs = parser.add_subparsers(dest="verb", required=True)
    info = verbs.add_parser("info", help="version, size, and how many instances stand where; beside a live engine too")
    info.add_argument("path", type=Path)
    info.add_argument("--json", action="store_true", help="as JSON, for programs")
    vacuum = verbs.add_parser("vacuum", help="give back the space of what was deleted; not while it is in use")
    vacuum.add_argument("path", type=Path)
    backup = verbs.add_parser("backup", help="copy it to a new file, as it is now; beside a live engine too")
    backup.add_argument("path", type=Path)
    backup.add_argument("target", type=Path)
    one = verbs.add_parser("export", help="one instance, with all that is recorded of it, as JSON")
    one.add_argument("path", type=Path)
    one.add_argument("workflow")
    one.add_argument("id")
    one.add_argument("--scope", default="", help="whose it is: with a Host, the tenant's id")


def run(given: argparse.Namespace) -> int:
    """Do it; the exit code."""
    try:
        match given.verb:
            case "info":
                _show(archive.information(given.path), as_json=given.json)
            case "vacuum":
                before, after = archive.vacuum(given.path)
                print(f"{given.path}: {before:,} bytes before, {after:,} after")
            case "backup":
                print(f"{given.target}: {archive.backup(given.path, given.target):,} bytes")
            case "export":
                print_json(export(given.path, Address(given.workflow, given.scope, given.id)))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InstanceNotFound as error:
        print(f"cloister db {given.verb}: {error} in scope {given.scope!r}; --scope names another", file=sys.stderr)
        return 1
    except (EngineError, OSError) as error:
        print(f"cloister db {given.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print(
        f"{found['path']}: version {found['version']} (newest: {found['newest_version']}), {found['bytes']:,} bytes,"
        f" {found['free_bytes']:,} of them free, log {found['log_bytes']:,} bytes"
    )
    table = Table("workflow", "status", "instances")
    for workflow, counts in found["workflows"].items():
        for status, count in counts.items():
            table.add_row(workflow, status, f"{count:,}")
    print_whole(table)
