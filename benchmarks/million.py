"""A million tenants on one machine, each with a program of its own and a workflow: registered, asleep, woken, called,
killed and run to the end.

Every one's workflow is: a step, a long sleep, a step that calls the host, a wait for an event, a step. See
`benchmarks/README.md` for what each phase does and for the folder that a run goes on from.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from fleet.bar import hide
from fleet.figures import paint_all, rows
from fleet.idle import idle
from fleet.killed import killed, wake
from fleet.merged import merged
from fleet.register import register, sleep
from fleet.running import running
from fleet.site import Site
from fleet.storm import ending, storm
from fleet.traffic import traffic
from harness import listing, machine, say

Phase = Callable[[Site], Coroutine[Any, Any, dict[str, Any]]]
PHASES: Final[dict[str, Phase]] = {
    "register": register,
    "sleep": sleep,
    "idle": idle,
    "storm": storm,
    "traffic": traffic,
    "killed": killed,
    "ending": ending,
    "running": running,
}
WHOLE: Final = frozenset({"register", "idle"})
"""Phases of all shards in one process, which has a front; in the others nobody asks from outside, and each shard is a
process of its own."""
FIRST: Final = {"sleep": "register", "idle": "sleep", "storm": "sleep", "traffic": "sleep", "killed": "storm",
                "ending": "killed"}  # fmt: skip
"""What each phase begins from, where it does not begin by itself."""
QUICK: Final = {
    "tenants": 20_000, "storm": 1_000, "killed": 300, "ending": 1_000, "running": 2_500, "running_tenants": 10,
    "idle_seconds": 4, "traffic_seconds": 4,
}  # fmt: skip
FULL: Final = {
    "tenants": 1_000_000, "storm": 10_000, "killed": 2_000, "ending": 20_000, "running": 50_000,
    "running_tenants": 200, "idle_seconds": 60, "traffic_seconds": 60,
}  # fmt: skip


def asked() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute, with 20,000 tenants")
    for name, number in FULL.items():
        words = f"[{number:,}; {QUICK[name]:,} with --quick]"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=words)
    parser.add_argument("--everybody", action="store_true", help="in the end all tenants run to completion, cold")
    words = "processes that the tenants are divided among, each with a database [one for each core]"
    parser.add_argument("--shards", type=int, metavar="N", default=len(os.sched_getaffinity(0)), help=words)
    parser.add_argument("--own-first-step", action="store_true", help="which the host else takes for each tenant")
    parser.add_argument(
        "--folder", type=Path, help="where the data is, and stays; a run that was broken off goes on there"
    )
    words = f"of {', '.join(PHASES)}; and those that it begins from, unless the folder has them"
    parser.add_argument("--only", nargs="+", choices=PHASES, metavar="PHASE", help=words)
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write the report there too")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw it too, with matplotlib")
    parser.add_argument("--phase", choices=[*PHASES, "wake"], help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def site_of(given: argparse.Namespace, folder: Path) -> Site:
    """What is to be run in a folder: what it says itself if it was begun before."""
    if (folder / "site.json").exists():
        return Site.open(folder)
    sizes = {name: getattr(given, name) or number for name, number in (QUICK if given.quick else FULL).items()}
    if given.everybody:
        sizes["ending"] = sizes["tenants"] - sizes["storm"] - sizes["killed"]
    site = Site(
        folder=str(folder), began=int(time.time() * 1000), own_first_step=given.own_first_step,
        everybody=given.everybody, shards=given.shards, **sizes,
    )  # fmt: skip
    if site.storm + site.killed + site.ending > site.tenants:
        raise SystemExit("the groups that wake up (--storm, --killed, --ending) have more tenants than there are")
    if site.most_disk_bytes() > shutil.disk_usage(folder).free:
        raise SystemExit(f"{folder} has less than the {site.most_disk_bytes() / 2**30:.1f} GiB free that this may take")
    site.save()
    return site


def wanted(only: Iterable[str]) -> list[str]:
    """The phases that are to be run for these, in their order."""
    found, more = set[str](), set(only)
    while more:
        found |= more
        more = {FIRST[name] for name in more if name in FIRST} - found
    return [name for name in PHASES if name in found]


def run(given: argparse.Namespace, folder: Path) -> None:
    """Each phase that has not been run yet, in a process of its own; then the report."""
    site = site_of(given, folder.resolve())
    for name in wanted(given.only or PHASES):
        if site.found(name) is None:
            site.keep(name, find(site, name))
    found = {name: figures for name in PHASES if (figures := site.found(name)) is not None}
    listing(f"{site.tenants:,} tenants", ["figure", "result", "bar"], rows(found))
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine(), "site": asdict(site), **found}, indent=1))
        say(f"{given.json} was written.")
    if given.plots is not None:
        given.plots.mkdir(parents=True, exist_ok=True)
        paint_all(given.plots, found)


def find(site: Site, name: str) -> dict[str, Any]:
    """What a phase finds: each shard in a process of its own, or all in one."""
    command = [sys.executable, __file__, "--phase", name, "--folder", site.folder]
    if name in WHOLE:
        subprocess.run(command, check=True)
        return site.found(name) or {}
    parts = [part for part in site.parts if part.found(name) is None]
    processes = [subprocess.Popen([*command, "--part", str(part.part)]) for part in parts]
    ended = [process.wait() for process in processes]
    if any(ended):
        raise SystemExit(f"{name}: a process has failed")
    return merged([part.found(name) or {} for part in site.parts])


def main() -> None:
    """One phase, as a process; or all of them."""
    given = asked()
    if given.phase is not None:
        site = replace(Site.open(given.folder), part=given.part)
        if given.part:
            hide()
        site.keep(given.phase, asyncio.run({**PHASES, "wake": wake}[given.phase](site)))
    elif given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
        run(given, given.folder)
    else:
        with tempfile.TemporaryDirectory() as name:
            run(given, Path(name))


if __name__ == "__main__":
    main()
