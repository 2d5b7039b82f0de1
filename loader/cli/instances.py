"""`cloister instances`: an operator's face on the instances of a file. It knows no statement and no table.

Looking goes beside the host that has the file. What steers an instance wants the file alone: a live host does that
itself.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from cloister.engine import EngineError, InstanceNotFound, Status
from cloister.engine.listing import DEFAULT_PAGE, MAX_PAGE, Query, page_size
from cloister.engine.records import Address
from cloister.engine.rules import step_key
from cloister.engine.store.archive import search
from cloister.engine.store.export import export
from cloister.engine.store.steering import Steering, steering
from cloister.ipc import CodecError, values

from ..timeline import duration, plain, table
from .describe import describe, moment
from .output import print_json, print_whole

_STEERS: Final[dict[str, tuple[str, Callable[[Steering, Address, argparse.Namespace], Status | None]]]] = {
    "pause": ("hold them, when the steps in flight have ended", lambda s, address, _: s.pause(address)),
    "resume": ("let them go on", lambda s, address, _: s.resume(address)),
    "terminate": ("end them for good", lambda s, address, given: s.terminate(address, rollback=given.rollback)),
    "restart": ("begin them anew", lambda s, address, given: s.restart(address, _step(given))),
    "send-event": ("give them an event", lambda s, address, given: s.send_event(
        address, given.type, given.payload, given.event_id)),
    "delete": ("forget them", lambda s, address, _: s.delete(address)),
}  # fmt: skip
"""Verb: what it does, and how."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be asked."""
    verbs = parser.add_subparsers(dest="verb", required=True)
    many = _verb(verbs, "list", "which there are, newest first; beside a live host too")
    _filters(many)
    many.add_argument("--limit", type=int, default=DEFAULT_PAGE, help="how many, at most 1,000")
    many.add_argument("--cursor", help="where the page before has ended")
    many.add_argument("--json", action="store_true", help="as JSON, for programs")
    shown = _verb(verbs, "describe", "where one stands, and what happened when; beside a live host too")
    shown.add_argument("--outputs", action="store_true", help="what each step has come to as well")
    told = _verb(verbs, "export", "one with all that is recorded of it, as JSON; beside a live host too")
    for one in (shown, told):
        one.add_argument("id", nargs="?", help="the newest if none is given")
    for name, (help_, _) in _STEERS.items():
        steered = _verb(verbs, name, f"{help_}; not while a host has the file")
        steered.add_argument("ids", nargs="*", metavar="id", help="or those that a filter fits")
        _filters(steered)
        if name == "terminate":
            steered.add_argument("--rollback", action="store_true", help="have the next host take their steps back")
        elif name == "restart":
            steered.add_argument("--from-step", metavar="NAME", help="keep what is recorded of the steps before it")
            steered.add_argument("--from-step-count", type=int, default=1, metavar="N", help="the n-th of its name")
            steered.add_argument("--from-step-type", default="do", choices=("do", "sleep", "wait"))
        elif name == "send-event":
            steered.add_argument("--type", required=True)
            steered.add_argument("--payload", type=_payload, metavar="JSON", help="null by default")
            steered.add_argument("--id", dest="event_id", help="by which a repeated event is recognised and ignored")


def _verb(verbs: Any, name: str, help_: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help_)
    parser.add_argument("path", type=Path)
    parser.add_argument("workflow")
    parser.add_argument("--scope", help="whose: with a Host, the tenant's id")
    return parser


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--status", action="append", help="only those that stand there; may be repeated")
    parser.add_argument(
        "--label", action="append", default=[], type=_label, metavar="NAME=VALUE", help="only those that have it"
    )
    parser.add_argument("--created-from", type=_moment, metavar="TIME", help="as in 2026-02-28T12:00; in UTC")
    parser.add_argument("--created-before", type=_moment, metavar="TIME")


def run(given: argparse.Namespace) -> int:
    """Do it; the exit code."""
    try:
        match given.verb:
            case "list":
                _list(given)
            case "describe":
                described = export(given.path, _one(given))
                describe(Console(), described, _now(), outputs=given.outputs)
            case "export":
                print_json(export(given.path, _one(given)))
            case _:
                return _steer(given)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (EngineError, OSError, ValueError) as error:
        return _refused(given, error)
    return 0


def _list(given: argparse.Namespace) -> None:
    page = search(given.path, given.workflow, _query(given, given.cursor), page_size(given.limit))
    if given.json:
        told = [{"scope": each.scope, **each.plain()} for each in page.instances]
        print_json({"instances": told, "cursor": page.cursor})
        return
    lines = table(given.workflow, "scope", "id", "status", "run>", "created", "took>", "labels")
    for each in page.instances:
        took = "" if each.ended is None else duration((each.ended - each.created) / 1000)
        labels_ = " ".join(f"{plain(name)}={plain(value)}" for name, value in each.labels.items())
        lines.add_row(Text(plain(each.scope)), Text(plain(each.id, 320)), each.status.value, str(each.run),
                      moment(each.created), took, Text(labels_))  # fmt: skip
    print_whole(lines)
    if page.cursor is not None:
        print(f"there are more: --cursor {page.cursor}")


def _query(given: argparse.Namespace, cursor: str | None = None) -> Query:
    labels = dict(given.label)
    moments = {"created_from": given.created_from, "created_before": given.created_before}
    return Query.read(given.scope, status=given.status, labels=labels or None, cursor=cursor, **moments)


def _one(given: argparse.Namespace) -> Address:
    """The instance that is meant: without an id the newest."""
    if given.id is not None:
        return Address(given.workflow, given.scope or "", given.id)
    for newest in search(given.path, given.workflow, Query(given.scope), 1).instances:
        return Address(given.workflow, newest.scope, newest.id)
    raise InstanceNotFound(f"workflow {given.workflow!r} has no instance")


def _steer(given: argparse.Namespace) -> int:
    """Each instance by itself: what one refuses keeps nobody else from it."""
    failed, (_, steer) = 0, _STEERS[given.verb]
    with steering(given.path) as hand:
        for address in _many(given):
            try:
                status = steer(hand, address, given)
            except (EngineError, ValueError) as error:
                failed = _refused(given, error)
            else:
                print(f"{address.id}: {'deleted' if status is None else status.value}")
    return failed


def _many(given: argparse.Namespace) -> list[Address]:
    """The instances that are meant: those that are named, or all that the filters fit now."""
    filtered = bool(given.status or given.label or given.created_from or given.created_before)
    if filtered == bool(given.ids):
        raise ValueError("name the instances, or say by --status, --label, --created-from or --created-before which")
    if given.ids:
        return [Address(given.workflow, given.scope or "", name) for name in given.ids]
    found: list[Address] = []
    cursor: str | None = None
    while True:
        page = search(given.path, given.workflow, _query(given, cursor), MAX_PAGE)
        found += (Address(given.workflow, each.scope, each.id) for each in page.instances)
        if (cursor := page.cursor) is None:
            return found


def _step(given: argparse.Namespace) -> Any:
    if given.from_step is None:
        return None
    return step_key({"name": given.from_step, "count": given.from_step_count, "type": given.from_step_type})


def _refused(given: argparse.Namespace, error: Exception) -> int:
    where = ""
    if isinstance(error, InstanceNotFound) and given.verb != "list" and "has no instance '" in str(error):
        where = f" in scope {given.scope or ''!r}; --scope names another"
    with contextlib.suppress(BrokenPipeError):
        print(f"cloister instances {given.verb}: {error}{where}", file=sys.stderr)
    return 1


def _moment(words: str) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(words)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{words!r} is no time, as 2026-02-28T12:00 is one") from None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _label(words: str) -> tuple[str, str]:
    name, equals, value = words.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{words!r} is no label, as plan=pro is one")
    return name, value


def _payload(words: str) -> Any:
    """What an event may carry: whatever JSON can say and a tenant's program can be given."""
    try:
        payload = json.loads(words, parse_constant=_no_number)
        values.dumps(payload)
    except (ValueError, CodecError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{words!r:.60} is no payload: {error}") from None
    return payload


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _now() -> int:
    return time.time_ns() // 1_000_000
