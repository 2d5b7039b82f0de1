"""What this machine gives of the confinement, layer by layer: asked of a zygote and a few sandboxes of its own."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cloister.sandbox import LayerMissing, Sandbox, SandboxError, Spawner
from cloister.sandbox.lockdown import landlock
from cloister.sandbox.lockdown.cgroups import Groups
from cloister.sandbox.lockdown.levels import LEVELS, MEANWHILE, REMEDIES, level
from cloister.sandbox.lockdown.sequence import ACTIVE, IN_ORDER, LAYERS, Layer

_SAMPLES = 5
_WIDTH = 160
"""Columns where nobody says how wide a line may be, such as in a file."""


async def examine() -> dict[str, Any]:
    """Look at everything, as plain data. `runs` says whether tenants can be run here at all, `why_not` why not."""
    spawner = Spawner(spares=0)
    why_not, boot, joining, ranked = "", {}, [0.0, 0.0], False
    try:
        async with spawner:
            sandboxes = [await spawner.take() for _ in range(_SAMPLES)]
            boot = _boot(sandboxes)
            if spawner.layers["cgroups"] == ACTIVE:
                joining, ranked = await asyncio.to_thread(_join, [sandbox.pid for sandbox in sandboxes])
    except SandboxError as error:
        why_not = (
            str(error) if not isinstance(error, LayerMissing) else "a layer is missing that nothing can do without"
        )
    costs = {name: [cost / 1000 for cost in of_layer] for name, of_layer in spawner.costs.items()}
    costs["cgroups"] = joining
    reached = level(spawner.layers)
    return {
        "runs": not why_not,
        "why_not": why_not,
        "strict": reached == "a",
        "level": reached,
        "level_in_words": LEVELS[reached],
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "user": os.geteuid(),
        "landlock_abi": _landlock(),
        "cgroups": _cgroups(),
        "gives_way_by": "control group" if ranked else "nice value",
        "boot_us": boot,
        "layers": [_of_layer(layer, spawner.layers, costs.get(layer.name, [0.0])) for layer in LAYERS],
    }


def _of_layer(layer: Layer, states: Mapping[str, str], costs: Sequence[float]) -> dict[str, Any]:
    state = states.get(layer.name, "not reached")
    return {
        "name": layer.name,
        "available": state in IN_ORDER,
        "active": state == ACTIVE,
        "state": state,
        "once_us": round(costs[0], 1),
        "each_us": round(costs[-1], 1),
        "stops": layer.stops,
        "remedy": "" if state in IN_ORDER or not states else REMEDIES[layer.name],
    }


def show(found: dict[str, Any], console: Console | None = None) -> None:
    """Print what `examine` has found."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDTH)
    console.print(
        f"Linux {found['kernel']} on {found['machine']}, Python {found['python']}, user {found['user']}; "
        f"Landlock ABI {found['landlock_abi'] or 'none'}, control groups {found['cgroups'] or 'none'}",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layer", "available", "active"):
        table.add_column(name)
    table.add_column("µs once", justify="right")
    table.add_column("µs each", justify="right")
    table.add_column("stops")
    for layer in found["layers"]:
        no_need = layer["available"] and not layer["active"]
        table.add_row(
            layer["name"],
            "yes" if layer["available"] else "[red]no[/]",
            layer["state"] if no_need else "yes" if layer["active"] else "[red]no[/]",
            _figure(layer["once_us"]),
            _figure(layer["each_us"]),
            layer["stops"],
        )
    console.print(table)
    if found["boot_us"]:
        phases = ", ".join(f"{name} {took:,} µs" for name, took in found["boot_us"].items())
        console.print(f"A sandbox from the request on, nobody else at work: {phases}.", highlight=False)
    console.print(f"Whoever computes gives way to the others by its {found['gives_way_by']}.", highlight=False)
    level_of = f"Level {found['level']}" if found["level"] else "No level"
    console.print(f"{level_of} - {found['level_in_words']}.", highlight=False)
    _show_missing(found, console)
    if not found["runs"]:
        console.print(escape(f"Tenants cannot be run here: {found['why_not']}."), style="red", highlight=False)
    elif not found["strict"]:
        console.print("Tenants can be run here, but not with Policy(isolation='strict').", highlight=False)
    else:
        console.print("Tenants can be run here, with Policy(isolation='strict') too.", highlight=False)


def _show_missing(found: dict[str, Any], console: Console) -> None:
    """Layers that are got in one way are told of together."""
    remedies: dict[str, list[str]] = {}
    for layer in found["layers"]:
        if layer["remedy"]:
            remedies.setdefault(layer["remedy"], []).append(f"  {layer['name']}: {layer['state']}")
    for remedy, missing in remedies.items():
        told = ["Missing:", *missing, f"  What gets it: {remedy}"]
        if remedy in MEANWHILE:
            told.append(f"  Until then: {MEANWHILE[remedy]}")
        console.print(escape("\n".join(told)), highlight=False)


def _figure(us: float) -> str:
    return f"{us:,.0f}" if us >= 1 else "<1" if us else ""


def _boot(sandboxes: list[Sandbox]) -> dict[str, int]:
    """Medians of the phases of a start."""
    phases = [sandbox.phases for sandbox in sandboxes]
    return {name: round(statistics.median(getattr(of, name) for of in phases)) for name in ("fork", "confine", "ready")}


def _join(pids: list[int]) -> tuple[list[float], bool]:
    """Microseconds for making a group, and for a process to join one; and whether a group has a rank."""
    groups = Groups()
    took: list[list[float]] = []
    ranked = False
    try:
        for number, pid in enumerate(pids):
            began = time.perf_counter()
            group = groups.acquire(str(number))
            made = time.perf_counter()
            ranked = bool(group.share)
            for descriptor in group.entrances():
                os.write(descriptor, str(pid).encode())
                os.close(descriptor)
            took.append([made - began, time.perf_counter() - made])
            group.close()
    finally:
        groups.close()
    return [statistics.median(each) * 1e6 for each in zip(*took, strict=True)], ranked


def _landlock() -> int | None:
    try:
        return landlock.version()
    except OSError:
        return None


def _cgroups() -> str | None:
    """The versions that are mounted, whether or not they can be written to."""
    kinds = {line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
    mounted = [version for version, kind in (("1", "cgroup"), ("2", "cgroup2")) if kind in kinds]
    return " and ".join(f"v{version}" for version in mounted) or None
