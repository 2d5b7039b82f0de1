"""Control groups: what one sandbox may use of memory and tasks, enforced by the kernel, and its rank among those that
want a core. This is the host's half.

A group is made once for each slot and used again by the next sandbox in it: making one costs a tenth of a millisecond,
attaching to one a fiftieth. The child attaches itself, through descriptors that it was handed, before it is confined.
Version 2 is used where its controllers are there, version 1 where that is what there is.

Where the kernel can tell, which version 1 can, it is not left to kill who has used up its memory: it writes a line
about each to the machine's console, which holds up a core for milliseconds, and a tenant can have it do so again and
again. Who is short of memory waits instead, and the host hears of it and ends it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import LayerMissing
from . import kernel, shares
from .bells import Bells
from .shares import Rank, Standing

_PREFIX: Final = "cloister-"
_ENTRANCE: Final = {1: "tasks", 2: "cgroup.procs"}
"""Where a process joins. A child has one thread, which version 1 moves alone and at once. The other file moves whole
processes: unless it was done a moment ago that takes some ten milliseconds, in which nobody on the machine forks."""
_MEMORY_LIMIT: Final = {1: "memory.limit_in_bytes", 2: "memory.max"}
_MEMORY_USAGE: Final = {1: "memory.usage_in_bytes", 2: "memory.current"}
_MEMORY_EVENTS: Final = {1: "memory.oom_control", 2: "memory.events"}
_SHORT: Final = b"under_oom 1"
_KILLS: Final = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_SHARES_CORES: Final = frozenset({os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE})
"""Policies of hosts whose processes a fresh group of the processor takes: of real time it has none to give."""
_numbers = itertools.count()  # one process may have several hosts


@dataclass(slots=True)
class Group:
    """The group of one slot, in one or, for version 1, in two or three hierarchies."""

    version: int
    folders: tuple[str, ...]  # the first is the one that counts memory, the last the one that counts tasks
    share: str = ""  # the folder in which it has its rank, if it can have one
    _limits: tuple[int, int] = (0, 0)
    _kills: int = 0
    _bells: Bells = field(default_factory=Bells)
    _bell: int | None = None  # rung by the kernel when somebody in the group is short of memory
    _on_short: Callable[[], None] = lambda: None
    _standing: Standing = field(init=False)

    def __post_init__(self) -> None:
        self._standing = Standing(self.share, self.version)

    def limit(self, memory_bytes: int, tasks: int) -> None:
        """Bound what all processes of the group use together, and how many threads they have. Costs nothing when that
        is what the slot's last sandbox had."""
        if self._limits[0] != memory_bytes:
            kernel.write(f"{self.folders[0]}/{_MEMORY_LIMIT[self.version]}", b"%d" % memory_bytes)
        if self._limits[1] != tasks:
            kernel.write(f"{self.folders[-1]}/pids.max", b"%d" % tasks)
        self._limits = memory_bytes, tasks

    def rank(self, rank: Rank) -> None:
        """Have it be of this rank, where it has a `share`. Costs nothing when it is."""
        if self.share:
            self._standing.change(rank)

    def watch(self, on_short: Callable[[], None]) -> None:
        """Have somebody hear when all of the memory is used and more is wanted. Where that is not to be had, the kernel
        kills, see `has_killed`. To be called within the event loop that hears of it."""
        self._on_short = on_short
        if self._bell is None and self.version == 1:
            with contextlib.suppress(OSError):
                self._bell = self._hang_bell()

    def unwatch(self) -> None:
        """Nobody hears any more. Harmless when repeated."""
        if self._bell is not None:
            self._bells.take_down(self._bell)
            self._bell = None

    def _hang_bell(self) -> int:
        bell = self._bells.hang(self._rung)
        try:
            control = os.open(f"{self.folders[0]}/{_MEMORY_EVENTS[1]}", os.O_RDWR | os.O_CLOEXEC)
            try:
                kernel.write(f"{self.folders[0]}/cgroup.event_control", b"%d %d" % (bell, control))
                os.write(control, b"1")
            finally:
                os.close(control)
        except OSError:
            self._bells.take_down(bell)
            raise
        return bell

    def _rung(self) -> None:
        assert self._bell is not None
        with contextlib.suppress(OSError):
            os.eventfd_read(self._bell)
            if _SHORT in kernel.read(f"{self.folders[0]}/{_MEMORY_EVENTS[1]}"):
                self._on_short()

    def entrances(self) -> tuple[int, ...]:
        """Descriptors through which a process joins, for the caller to close."""
        try:
            return self._open_all()
        except FileNotFoundError:
            self._make_anew()
            return self._open_all()

    def _open_all(self) -> tuple[int, ...]:
        opened: list[int] = []
        try:
            entrances = (f"{folder}/{_ENTRANCE[self.version]}" for folder in self.all)
            opened.extend(os.open(entrance, os.O_WRONLY | os.O_CLOEXEC) for entrance in entrances)
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return tuple(opened)

    def _make_anew(self) -> None:
        """Somebody else has removed it, or a part."""
        self.unwatch()
        for folder in self.all:
            Path(folder).mkdir(parents=True, exist_ok=True)
        limits, self._limits, self._kills = self._limits, (0, 0), 0
        self._standing.rank = None  # that part may be as it was
        self.limit(*limits)

    def close(self) -> None:
        """Remove the group. Harmless while a process is still in it: `Groups.close` removes what is left."""
        self.unwatch()
        for folder in self.all:
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106 - as the other calls here

    @property
    def all(self) -> tuple[str, ...]:
        """All its folders."""
        return self.folders if self.share in ("", *self.folders) else (*self.folders, self.share)

    def charged_bytes(self) -> int:
        """What all processes of the group use together, 0 if nobody can say."""
        try:
            return int(kernel.read(f"{self.folders[0]}/{_MEMORY_USAGE[self.version]}"))
        except (OSError, ValueError):
            return 0

    def has_killed(self) -> bool:
        """Whether the kernel has killed in this group for want of memory since it was last asked."""
        before = self._kills
        with contextlib.suppress(OSError):  # somebody else has removed the group: a death must be told of all the same
            found = _KILLS.search(kernel.read(f"{self.folders[0]}/{_MEMORY_EVENTS[self.version]}"))
            self._kills = int(found[1]) if found else 0
        return self._kills > before


class Groups:
    """The part of the tree that this host owns. `LayerMissing` says why there is none."""

    def __init__(self) -> None:
        places = _places()
        self.version, parents = _parents(places)
        self._name = f"{_PREFIX}{os.getpid()}-{_began(os.getpid())}-{next(_numbers)}"
        self._parent = parents[0]
        self._roots = tuple(parent / self._name for parent in parents) if self.version == 1 else ()
        self._beside = places.get("cpu") if self.version == 1 else self._parent  # version 2 has one tree for all
        if os.sched_getscheduler(0) not in _SHARES_CORES:
            self._beside = None
        self._made: list[Group] = []
        self._bells = Bells()
        try:
            for parent in {*parents, self._beside or self._parent}:
                _sweep(parent)
            for root in self._roots:
                root.mkdir()
            self.acquire("probe").close()
        except OSError as error:
            self.close()
            raise LayerMissing(
                f"control groups cannot be made: {error.strerror}; run as root, or delegate one"
            ) from error

    def acquire(self, name: str) -> Group:
        """A group for one slot."""
        folders = tuple(f"{root}/{name}" for root in self._roots) or (f"{self._parent}/{self._name}-{name}",)
        for folder in folders:
            _make(folder)
        self._made.append(Group(self.version, folders, self._share(name), _bells=self._bells))
        return self._made[-1]

    def _share(self, name: str) -> str:
        """The folder of its rank, and nothing once it was found that there is none to be had."""
        if self._beside is None:
            return ""
        folder = f"{self._beside}/{self._name}-{name}"
        with contextlib.suppress(OSError):
            _make(folder)
            if shares.known(folder):
                return folder
            if self.version == 1:
                os.rmdir(folder)  # noqa: PTH106 - as the other calls here
        self._beside = None
        return ""

    def close(self) -> bool:
        """Remove what is empty by now. Whether that is all; a group whose last process is still dying is not empty."""
        for group in self._made:
            group.close()
        for root in self._roots:
            for folder in (*root.glob("*/"), root):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        made = (Path(folder) for group in self._made for folder in group.all)
        return not any(folder.exists() for folder in (*self._roots, *made))


def cpu_counter() -> Callable[[], float]:
    """A function that gives the CPU time, in seconds, of everybody who is in this process's own group or below it, or
    with version 2 beside it: its sandboxes, wherever they are put, and others. `OSError` where nobody counts it."""
    places = _places()
    if "cpuacct" in places:
        nanoseconds = f"{places['cpuacct']}/cpuacct.usage"
        return lambda: int(kernel.read(nanoseconds)) / 1e9
    try:
        _, (group, *_) = _parents(places)
    except LayerMissing:
        group = places.get("", Path("/"))
    told = f"{group}/cpu.stat"
    return lambda: int(kernel.read(told).split()[1]) / 1e6  # which begins with `usage_usec`


def _make(folder: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)  # noqa: PTH102 - as the other calls here


def _places() -> dict[str, Path]:
    """Our own group in each hierarchy, by its controllers, and that of version 2 under no name."""
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2":
            mounts[""] = Path(place)
        elif kind == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), Path(place)))
    places: dict[str, Path] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name in mounts:
                places[name] = mounts[name] / path.lstrip("/")
    return places


def _parents(places: Mapping[str, Path]) -> tuple[int, tuple[Path, ...]]:
    """The version in use, and our own group in each hierarchy that is needed: memory first, tasks last."""
    if {"memory", "pids"} <= places.keys():
        return 1, (places["memory"], places["pids"])
    if "" in places:
        for group in (places[""], places[""].parent):  # who has processes may have no controllers: then it is a leaf
            with contextlib.suppress(OSError):
                if {"memory", "pids"} <= set((group / "cgroup.subtree_control").read_text().split()):
                    return 2, (group,)
        raise LayerMissing("the memory and pids controllers are not delegated to this service's control group")
    raise LayerMissing("no control group hierarchy with memory and pids is mounted")


def _began(pid: int) -> str:
    """When a process began, in ticks since the machine did: its number may be another's before, as in a container that
    is started again. Nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "gone"


def _sweep(parent: Path) -> None:
    """Remove the groups of hosts that are gone."""
    for root in parent.glob(f"{_PREFIX}*"):
        pid, began, *_ = (*root.name.removeprefix(_PREFIX).split("-"), "", "")
        if not pid.isdecimal() or _began(int(pid)) != began:
            for folder in (*root.glob("*/"), root):
                with contextlib.suppress(OSError):
                    folder.rmdir()
