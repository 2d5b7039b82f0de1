"""What a run of `million.py` is about: how many tenants, who of them is due when, in which shard each lives, and the
folder that all of it is in.

Each phase is a process of its own, so that none carries what another one has left in memory; what it found is a file in
the folder. So a run that was broken off goes on from the phase that it was at, with `--folder`.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from cloister.engine.clock import SystemClock
from cloister.loader import Shard

DAY_MS = 86_400_000
DAYS = {"storm": 30, "killed": 60, "ending": 90, "": 365}
"""After how many days each group is due; the last one never is, in a run."""
WORKFLOW = "dynamic-workflow"
_STRIDE = 2_654_435_761  # a prime: what is due together lies far apart on disk
_BYTES_EACH = 1_500
_SPARE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Sizes, and where. `storm`, `killed` and `ending` are tenants of the groups that are due together."""

    folder: str
    began: int
    tenants: int
    storm: int
    killed: int
    ending: int
    running: int
    running_tenants: int
    idle_seconds: int
    traffic_seconds: int
    own_first_step: bool
    """Whether each tenant's own code runs the first step; else the host does, and records what that would have."""
    everybody: bool = False
    """Whether those of the other groups come to their end in the last phase, too."""
    shards: int = 1
    """Processes that the tenants are divided among, each with a database of its own."""
    part: int | None = None
    """The shard that this is about; None for all of them."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The one whose folder that is."""
        return cls(**json.loads((folder / "site.json").read_text()))

    def save(self) -> None:
        """Write down what is to be run, for the processes of its phases and for who goes on with it."""
        Path(self.folder, "site.json").write_text(json.dumps(asdict(self)))

    @property
    def parts(self) -> list[Self]:
        """Of each shard."""
        return [replace(self, part=number) for number in range(self.shards)] if self.part is None else [self]

    @property
    def folder_of_shards(self) -> Path:
        """Where the databases are."""
        return Path(self.folder, "tenants")

    @property
    def path(self) -> Path:
        """The database of a shard."""
        assert self.part is not None
        return Shard(self.folder_of_shards, self.part, self.shards).path

    def beside(self, name: str) -> Path:
        """A file of this shard's own."""
        return Path(self.folder, name if self.part is None else f"{name}-{self.part}")

    def has(self, number: int) -> bool:
        """Whether a tenant lives here."""
        return self.part is None or Shard(self.folder_of_shards, self.part, self.shards).has(name(number))

    def share(self, number: int) -> int:
        """Of so many altogether, this shard's; of fewer than there are shards, one."""
        return number if self.part is None else max(number // self.shards, 1)

    def found(self, phase: str) -> dict[str, Any] | None:
        """What a phase has found; None if it is yet to be run."""
        file = self.beside(f"{phase}.json")
        return json.loads(file.read_text()) if file.exists() else None

    def keep(self, phase: str, found: dict[str, Any]) -> None:
        """That is what it has found."""
        partial = self.beside(f"{phase}.partial")
        partial.write_text(json.dumps(found))
        partial.rename(self.beside(f"{phase}.json"))

    def group(self, number: int) -> str:
        """When a tenant is due: a key of `DAYS`."""
        place = number * _STRIDE % self.tenants
        for name in ("storm", "killed", "ending"):
            if place < (size := getattr(self, name)):
                return name
            place -= size
        return ""

    def members(self, group: str) -> list[int]:
        """The tenants of a group, and of this shard."""
        first = sum(getattr(self, name) for name in ("storm", "killed", "ending")[: list(DAYS).index(group)])
        back = pow(_STRIDE, -1, self.tenants) if self.tenants > 1 else 0
        numbers = (place * back % self.tenants for place in range(first, first + getattr(self, group)))
        return [number for number in numbers if self.has(number)]

    def due(self, group: str) -> int:
        """The moment at which a group is due, in milliseconds."""
        return self.began + DAYS[group] * DAY_MS

    def disk_bytes(self) -> int:
        """What the databases take, with what is in their logs."""
        return sum(file.stat().st_size for part in self.parts for file in part.path.parent.glob(f"{part.path.name}*"))

    def most_disk_bytes(self) -> int:
        """More than it will ever take."""
        return self.tenants * _BYTES_EACH + _SPARE_BYTES

    def ask(self, query: str, *parameters: object) -> Any:
        """The first value that a query finds in the databases, all added up, whoever has them open; 0 where there is
        none yet."""
        found = 0
        for part in self.parts:
            if part.path.exists():
                with closing(sqlite3.connect(f"file:{part.path}?mode=ro", uri=True)) as base:
                    found += base.execute(query, parameters).fetchone()[0]
        return found


class Ahead(SystemClock):
    """Real time, and so far ahead that a group is due in a moment."""

    def __init__(self, site: Site, group: str, seconds: float = 0) -> None:
        self._site = site
        self._ahead = site.due(group) - int(seconds * 1000) - super().now() if group else 0

    def now(self) -> int:
        """Wall time in milliseconds."""
        return super().now() + self._ahead

    def since(self, group: str) -> float:
        """Seconds since the group was due; until it will be, as less than nothing."""
        return (self.now() - self._site.due(group)) / 1000


def name(number: int) -> str:
    """A tenant's id."""
    return f"t-{number}"


def cpu_seconds(pids: Sequence[int]) -> float:
    """What these processes have used by now."""
    words = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in words) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int | str = "self") -> float:
    """What a process holds, this one without a number."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
