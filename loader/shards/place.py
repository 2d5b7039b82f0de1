"""Which shard a tenant lives in, where that is on disk, and that a folder has one front. It knows no process.

How many shards there are is decided once: a tenant's instances are in the file that its id points to. So the files say
it in their names, and another number is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.engine import EngineLocked

MOST: Final = 256
_NAME: Final = re.compile(r"\d+-of-([1-9]\d*)\.db")
_ALL_THERE: Final = b"all databases have been made\n"
"""What the file says that keeps other fronts out, once they have."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count`, for whoever makes its host: the file of its engine is `path`."""

    folder: Path
    number: int
    count: int

    @property
    def path(self) -> Path:
        """Its database."""
        return self.folder / f"{self.number}-of-{self.count}.db"

    def has(self, tenant_id: str) -> bool:
        """Whether the tenant lives here."""
        return number_of(tenant_id, self.count) == self.number


def number_of(tenant_id: str, count: int) -> int:
    """The shard of a tenant among so many: the same for ever, on any machine."""
    if not isinstance(tenant_id, str) or not tenant_id:
        raise ValueError(f"a tenant id is text that is not empty, not {tenant_id!r:.80}")
    digest = hashlib.blake2b(tenant_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def shards_in(folder: Path, count: int | None) -> list[Shard]:
    """As many as there are in the folder; in one that has none, `count`, or one for each core. `ValueError` where that
    is another number than there are, `FileNotFoundError` where one is gone that has been there."""
    if count is not None and (type(count) is not int or not 1 <= count <= MOST):
        raise ValueError(f"`count` is a whole number from 1 to {MOST}, not {count!r:.40}")
    found = {int(name[1]) for name in map(_NAME.fullmatch, (each.name for each in folder.iterdir())) if name}
    if len(found) > 1 or (found and count not in {None, *found}):
        there = " and of ".join(map(str, sorted(found)))
        asked = "" if count is None else f", and {count} are asked for"
        raise ValueError(
            f"{folder} holds databases of {there} shards{asked}: tenants are divided by that number when the folder is "
            "first opened, and would not be found with another; leave `count` out, or give another folder"
        )
    most = found.pop() if found else count or min(len(os.sched_getaffinity(0)), MOST)
    shards = [Shard(folder, number, most) for number in range(most)]
    gone = [shard.path.name for shard in shards if not shard.path.exists()]
    if 0 < len(gone) < most and (folder / "lock").exists() and (folder / "lock").read_bytes() == _ALL_THERE:
        raise FileNotFoundError(
            f"{folder} has had databases of {most} shards, and {', '.join(gone)} is not there: put it back, from a "
            "backup if need be; or remove the file `lock`, and the tenants of that shard begin without any instance"
        )
    return shards


def note_all_there(folder: Path) -> None:
    """All databases of the folder have been made: from now on none may be missing."""
    if (folder / "lock").read_bytes() != _ALL_THERE:
        (folder / "lock").write_bytes(_ALL_THERE)


def claim(folder: Path) -> int:
    """A descriptor that keeps every other front out of the folder until it is closed. `EngineLocked`.

    It is this and not the databases that says so at once: the process of a shard whose front was killed has its file
    for a moment longer.
    """
    descriptor = lock_file(folder / "lock")
    if not locked(descriptor):
        os.close(descriptor)
        raise EngineLocked(f"{folder} has its shards open elsewhere: one service has a folder at a time")
    return descriptor


def lock_file(file: Path) -> int:
    """A descriptor of a file that is there to be locked."""
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def locked(descriptor: int) -> bool:
    """Whether it is locked now, until the descriptor is closed; no other process has it then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
