"""What was found, as a table beside what it must reach, and as pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import draw

Found = dict[str, dict[str, Any]]


def rows(found: Found) -> list[list[str]]:
    """Those of the phases that were run: figure, result, bar."""
    return [row for phase, tell in _TELLERS.items() if phase in found for row in tell(found[phase])]


def _register(of: dict[str, Any]) -> list[list[str]]:
    return [[f"registered with code and instance, a second (shards: {of['shards']})",
             f"{of['per_second']:,.0f}", "≥ 20,000"],
            ["  CPU time of all processes for each, µs", f"{of['cpu_us_each']:,.0f}", ""]]  # fmt: skip


def _sleep(of: dict[str, Any]) -> list[list[str]]:
    return [[f"asleep, a second (first step by {of['by']})", f"{of['per_second']:,.0f}", ""],
            ["  asleep; bytes on disk for each, code included",
             f"{of['asleep']:,}; {of['disk_bytes'] / max(of['asleep'], 1):,.0f}", "≤ 1,024"]]  # fmt: skip


def _idle(of: dict[str, Any]) -> list[list[str]]:
    empty = of["empty"]
    return [[f"idle: memory of {of['processes']} processes, MiB (without tenants)",
             f"{of['rss_mib']:.0f} ({empty['rss_mib']:.0f})", "≤ 150"],
            ["  descriptors, threads (without tenants)",
             f"{of['descriptors']}, {of['threads']} ({empty['descriptors']}, {empty['threads']})", "0 for each"],
            ["  CPU, of a core (without tenants)", f"{of['cpu_share']:.2%} ({empty['cpu_share']:.2%})", "0 for each"],
            ["  reopened, seconds", f"{of['open_seconds']:.2f}", "≤ 3"],
            ["  then at work in the background, seconds; closed, seconds",
             f"{of['settled_seconds']:.1f}; {of['close_seconds']:.2f}", ""]]  # fmt: skip


def _storm(of: dict[str, Any]) -> list[list[str]]:
    return [[f"{of['due']:,} due at once: all done, seconds", f"{of['seconds']:.1f}", "≤ 45 for 10,000"],
            ["  woken a second, cold", f"{of['per_second']:,.0f}", ""],
            ["  CPU time of host and sandboxes for each, ms", f"{of['cpu_ms_each']:.2f}", ""],
            ["  late by, first 1,000 p99, seconds", f"{of['late_first_1000_p99_s']:.2f}", ""],
            ["  late by, p50 and most, seconds", f"{of['late_s'][50]:.1f}, {of['late_s'][100]:.1f}", ""],
            ["  early; runs lost", f"{of['early']}; {of['lost']}", "0; 0"]]  # fmt: skip


def _traffic(of: dict[str, Any]) -> list[list[str]]:
    return [["calls by Zipf, a second; failed", f"{of['calls_per_second']:,.0f}; {of['failed']}", "; 0"],
            ["  that met a warm sandbox; boots a second", f"{of['hit_rate']:.1%}; {of['boots_per_second']:,.0f}", ""],
            *([f"  {kind}, p50 and p99, ms", f"{of[f'{kind}_p50_ms']:.1f}, {of[f'{kind}_p99_ms']:.1f}", ""]
              for kind in ("hit", "miss"))]  # fmt: skip


def _killed(of: dict[str, Any]) -> list[list[str]]:
    flight = of["begun_when_killed"] - of["recorded_when_killed"]
    return [["killed in the middle: the next host is open, seconds", f"{of['open_seconds']:.2f}", "≤ 3"],
            ["  and has woken the others, seconds", f"{of['recovered_seconds']:.1f}", ""],
            ["  lost", f"{of['lost']}", "0"],
            ["  steps that ran twice (in flight then)", f"{of['bodies_twice']} ({flight})", "≤ in flight"]]  # fmt: skip


def _ending(of: dict[str, Any]) -> list[list[str]]:
    return [[f"{of['completed']:,} cold to completion, a second", f"{of['per_second']:,.0f}", "≥ 300"],
            ["  CPU time of host and sandboxes for each, ms", f"{of['cpu_ms_each']:.2f}", ""],
            ["  with a wrong output; runs lost", f"{of['wrong']}; {of['lost']}", "0; 0"],
            ["  events sent before, a second", f"{of['events_per_second']:,.0f}", ""]]  # fmt: skip


def _running(of: dict[str, Any]) -> list[list[str]]:
    return [[f"{of['inside']:,} inside a step, of {of['tenants']} tenants: memory, MiB",
             f"{of['rss_mib']:,.0f}", "≤ 1,024"],
            ["  KiB for each; their sandboxes, MiB", f"{of['kib_each']:.1f}; {of['sandboxes_mib']:,.0f}", ""],
            ["  begun a second; ended a second", f"{of['begun_per_second']:,.0f}; {of['ended_per_second']:,.0f}", ""],
            ["  single creates beside them, a second", f"{of['creates_beside_per_second']:,.0f}", "≥ 3,000"],
            ["  runs lost, sandboxes that died", f"{of['lost']}, {of['deaths']}", "0, 0"]]  # fmt: skip


_TELLERS: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
    "register": _register, "sleep": _sleep, "idle": _idle, "storm": _storm, "traffic": _traffic, "killed": _killed,
    "ending": _ending, "running": _running,
}  # fmt: skip


def paint_all(folder: Path, found: Found) -> None:
    """A picture each: latencies, what grows with the number of tenants, boots."""
    pictures = {"latencies": _latencies, "growth": _growth, "boots": _boots}
    for name, paint in pictures.items():
        draw(str(folder / f"{name}.png"), partial(paint, found), title=name, size=(9, 4))


def _latencies(found: Found, axes: Any) -> None:
    traffic, storm = found.get("traffic", {}), found.get("storm", {})
    for name, samples in (("a call, warm", traffic.get("hit_s")), ("a call, not warm", traffic.get("miss_s")),
                          ("woken in the storm", storm.get("late_s"))):  # fmt: skip
        if samples:
            axes.plot([max(sample, 1e-4) * 1000 for sample in samples], range(len(samples)), label=name)
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.set_ylabel("per cent answered, or awake")
    axes.legend()


def _growth(found: Found, axes: Any) -> None:
    second = axes.twinx()
    for phase, colour in (("register", "tab:blue"), ("sleep", "tab:green")):
        growth = found.get(phase, {}).get("growth", [])
        counts = [count for count, _, _ in growth]
        axes.plot(counts, [size / 2**20 for _, size, _ in growth], color=colour, label=f"{phase}: disk, MiB")
        second.plot(counts, [rss for _, _, rss in growth], color=colour, linestyle=":", label=f"{phase}: memory, MiB")
    axes.set_xlabel("tenants registered, or asleep")
    axes.set_ylabel("MiB on disk")
    second.set_ylabel("MiB of the host's memory (dotted)")
    second.set_ylim(bottom=0)
    axes.legend(loc="upper left")


def _boots(found: Found, axes: Any) -> None:
    for phase in ("storm", "traffic", "ending"):
        course = found.get(phase, {}).get("boots_course", [])
        axes.plot([moment for moment, _ in course], [count for _, count in course], label=phase)
    axes.set_xlabel("seconds")
    axes.set_ylabel("boots")
    axes.legend()
