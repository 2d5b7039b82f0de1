"""What a run of `million.py` is about: how many tenants, who of them is due when, and the folder that all of it is in.

Each phase is a process of its own, so that none carries what another one has left in memory; what it found is a file in
the folder. So a run that was broken off goes on from the phase that it was at, with `--folder`.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cloister.engine.clock import SystemClock

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

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The one whose folder that is."""
        return cls(**json.loads((folder / "site.json").read_text()))

    def save(self) -> None:
        """Write down what is to be run, for the processes of its phases and for who goes on with it."""
        Path(self.folder, "site.json").write_text(json.dumps(asdict(self)))

    @property
    def path(self) -> Path:
        """The database of the million."""
        return Path(self.folder, "million.db")

    def found(self, phase: str) -> dict[str, Any] | None:
        """What a phase has found; None if it is yet to be run."""
        file = Path(self.folder, f"{phase}.json")
        return json.loads(file.read_text()) if file.exists() else None

    def keep(self, phase: str, found: dict[str, Any]) -> None:
        """That is what it has found."""
        partial = Path(self.folder, f"{phase}.partial")
        partial.write_text(json.dumps(found))
        partial.rename(Path(self.folder, f"{phase}.json"))

    def group(self, number: int) -> str:
        """When a tenant is due: a key of `DAYS`."""
        place = number * _STRIDE % self.tenants
        for name in ("storm", "killed", "ending"):
            if place < (size := getattr(self, name)):
                return name
            place -= size
        return ""

    def members(self, group: str) -> list[int]:
        """The tenants of a group."""
        first = sum(getattr(self, name) for name in ("storm", "killed", "ending")[: list(DAYS).index(group)])
        back = pow(_STRIDE, -1, self.tenants) if self.tenants > 1 else 0
        return [place * back % self.tenants for place in range(first, first + getattr(self, group))]

    def due(self, group: str) -> int:
        """The moment at which a group is due, in milliseconds."""
        return self.began + DAYS[group] * DAY_MS

    def disk_bytes(self) -> int:
        """What the database takes, with what is in its log."""
        return sum(file.stat().st_size for file in Path(self.folder).glob("million.db*"))

    def most_disk_bytes(self) -> int:
        """More than it will ever take."""
        return self.tenants * _BYTES_EACH + _SPARE_BYTES

    def ask(self, query: str, *parameters: object) -> Any:
        """The first value that a query finds in the database, whoever has it open; 0 if there is none yet."""
        if not self.path.exists():
            return 0
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as base:
            return base.execute(query, parameters).fetchone()[0]


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


def rss_mib() -> float:
    """What this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
