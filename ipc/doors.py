"""Sockets that have a name for a moment, in a folder that nobody else can enter: for who can connect to nothing else.

It knows no protocol and no guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

_LONGEST_BASE: Final = 70
"""Bytes that the name of the folder for sockets may have: the system takes 107 for a socket's, and ours are added."""
_PREFIX: Final = "cloister-sockets-"
_PATIENCE: Final = 10.0
"""Seconds that whoever is to connect is waited for."""


class Doors:
    """A folder of this process's own, and a lock on it that ends with it. `OSError` if there is none to be had."""

    def __init__(self) -> None:
        self.folder, self._lock = _private_folder()

    async def connected(self, connect: Callable[[str], None]) -> socket.socket:
        """Have somebody connect to a path, now or from a thread of theirs: the other end of that. `OSError`."""
        name = secrets.token_hex(4)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
            listener.bind(f"/proc/self/fd/{self._lock}/{name}")
            try:
                listener.listen(1)
                connect(f"{self.folder}/{name}")
                async with asyncio.timeout(_PATIENCE):
                    await _somebody_at(listener)
                end, _ = listener.accept()
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._lock)
        end.setblocking(False)
        return end

    def close(self) -> None:
        """Remove the folder."""
        _remove_sockets(self._lock, Path(self.folder))
        os.close(self._lock)


async def _somebody_at(listener: socket.socket) -> None:
    """Until there is. Whoever no longer waits has accepted nobody: what `sock_accept` has by then would be lost."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(listener, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(listener)


def _private_folder() -> tuple[str, int]:
    """A folder that only this user can enter, and a lock on it that ends with this process; older ones are swept.

    Sweeping removes sockets and then the empty folder: whatever else may be there is not ours.
    """
    # In memory, where there is such a folder: a name on a disk costs each boot thrice as much.
    candidates = os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm", tempfile.gettempdir(), "/tmp"
    usable = [name for name in candidates if len(os.fsencode(name)) <= _LONGEST_BASE and os.access(name, os.W_OK)]
    if not usable:
        raise FileNotFoundError("there is no folder for sockets: set XDG_RUNTIME_DIR to one with a short name")
    base = Path(usable[0])
    for left in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    _remove_sockets(lock, left)
            finally:
                os.close(lock)
    fresh = Path(tempfile.mkdtemp(prefix=f"new-{_PREFIX}", dir=base))
    lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = fresh.rename(base / fresh.name.removeprefix("new-"))  # only now may another host look at it
    return str(folder), lock


def _remove_sockets(opened: int, folder: Path) -> None:
    """By way of the folder that was opened: its name may be another's by now."""
    for name in os.listdir(opened):
        if stat.S_ISSOCK(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=opened)
    folder.rmdir()  # refuses if anything else is in it
