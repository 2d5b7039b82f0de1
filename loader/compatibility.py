"""Compatibility dates and flags of Cloudflare's runtime, as far as they say how a Python worker behaves.

Where the two ways of a flag do not contradict each other, both hold whatever the flag says: steps take dependencies by
name and by list, headers keep their commas, and workflows are there. It knows nothing of workers.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final, NamedTuple


class Flag(NamedTuple):
    """On from a date; before and after, one of two words turns it on or off."""

    since: str
    on: str
    off: str


FLAGS: Final = (
    Flag("2025-08-14", "python_no_global_handlers", "disable_python_no_global_handlers"),
    Flag("2025-09-20", "python_workflows", "disable_python_workflows"),
    Flag("2026-02-17", "python_request_headers_preserve_commas", "disable_python_request_headers_preserve_commas"),
    Flag("2026-02-25", "python_workflows_implicit_dependencies", "no_python_workflows_implicit_dependencies"),
    Flag("2026-04-21", "enable_python_external_sdk", "disable_python_external_sdk"),
)


def check(date: str, flags: Sequence[str]) -> None:
    """`ValueError` says what of it is none. Flags of which nothing is known are left alone: most are of JavaScript."""
    if date:
        try:
            known = datetime.date.fromisoformat(date).isoformat() == date
        except ValueError:
            known = False
        if not known:
            raise ValueError(f"compatibility_date {date!r:.40} is not a date, such as 2026-04-21")
    for flag in FLAGS if flags else ():
        if flag.on in flags and flag.off in flags:
            raise ValueError(f"compatibility_flags has both {flag.on!r} and {flag.off!r}")


def resolved(date: str, flags: Sequence[str]) -> list[str]:
    """The words that hold, of each flag one; without a date only what was said, since then both ways are served."""
    said = set(flags)
    for flag in FLAGS:
        if date and not said & {flag.on, flag.off}:
            said.add(flag.on if date >= flag.since else flag.off)
    return sorted(said)
