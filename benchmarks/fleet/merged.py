"""What the shards have found, each in a process of its own at the same time, as one finding."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, Final

from harness import percentile

Found = dict[str, Any]
_LONGEST: Final = frozenset({"seconds", "fill_seconds", "open_seconds", "recovered_seconds", "late_first_1000_p99_s"})
"""What all have come to when the last one has."""
_WEIGHTS: Final = {"cpu_ms_each": "boots", "kib_each": "inside", "hit_rate": "calls"}
"""What is a mean, and of how many."""
_PER_SECOND: Final = {"woken": "due", "completed": "completed"}
"""Whose rate is that of all, until the last one was done."""


def merged(parts: Sequence[Found]) -> Found:
    """One finding of several."""
    if len(parts) == 1:
        return parts[0]
    found = {key: _of(key)(parts, key) for key in parts[0]}
    for what, count in _PER_SECOND.items():
        if what in found:
            found["per_second"] = found[count] / found["seconds"]
    for kind in ("hit", "miss"):
        if shares := found.get(f"{kind}_s"):
            found.update({f"{kind}_p{percent}_ms": shares[percent] * 1000 for percent in (50, 99)})
    return found


def _of(key: str) -> Callable[[Sequence[Found], str], Any]:
    if key in _LONGEST:
        return _most
    if key in _WEIGHTS:
        return _mean
    if key in {"late_s", "hit_s", "miss_s"}:
        return _shares
    return {"boots_course": _course, "growth": _growth, "by": _same}.get(key, _sum)


def _same(parts: Sequence[Found], key: str) -> Any:
    return parts[0][key]


def _sum(parts: Sequence[Found], key: str) -> Any:
    return sum(part.get(key, 0) for part in parts)


def _most(parts: Sequence[Found], key: str) -> Any:
    return max((part[key] for part in parts if part[key] is not None), default=None)


def _mean(parts: Sequence[Found], key: str) -> Any:
    weights = [part[_WEIGHTS[key]] for part in parts]
    return sum(part[key] * weight for part, weight in zip(parts, weights, strict=True)) / max(sum(weights), 1)


def _shares(parts: Sequence[Found], key: str) -> list[float]:
    """Hundredths of all: each shard's stand for about as many."""
    samples = [each for part in parts for each in part[key]]
    return [round(percentile(samples, percent), 4) for percent in range(101)] if samples else []


def _course(parts: Sequence[Found], key: str) -> list[tuple[float, float]]:
    """A count against time: at each moment the last that was known of every one."""
    moments = heapq.merge(*([(at, number, count) for at, count in part[key]] for number, part in enumerate(parts)))
    last, course = [0.0] * len(parts), []
    for at, number, count in moments:
        last[number] = count
        course.append((at, sum(last)))
    return course


def _growth(parts: Sequence[Found], key: str) -> list[tuple[float, ...]]:
    """Tenants, bytes and memory, as far as all have come."""
    return [tuple(map(sum, zip(*points, strict=True))) for points in zip(*(part[key] for part in parts), strict=False)]
