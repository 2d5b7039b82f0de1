"""The wire to each sandbox: a socket that the guest listens on, in a folder that nobody else can enter, and a link."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cloister.ipc.arguments import Arguments
from cloister.ipc.link import Link, Transport

from .errors import SandboxUnavailable

_LONGEST_BASE: Final = 70
"""Bytes that the name of the folder for sockets may have: the system takes 107 for a socket's, and ours are added."""
_PREFIX: Final = "cloister-sockets-"


class Wire:
    """One that is being laid: `end` is the descriptor that the guest is to be given, `link` the host's own end.

    The host connects and greets before there is a guest, which so finds everything there when it looks, and need not
    wait for it.
    """

    def __init__(self, listener: socket.socket, path: str, transport: Transport) -> None:
        self._listener = listener
        self._early: list[Callable[[], None]] = []
        self.end = listener.fileno()
        self.link: Link = transport.connect(
            path,
            lambda frame: self._early.append(lambda: self.link.on_frame(frame)),
            lambda error: self._early.append(lambda: self.link.on_lost(error)),
        )

    def given(self) -> None:
        """The guest has its end."""
        self._listener.close()

    def listened_to(self) -> None:
        """Somebody listens to the link from now on, and is told what it has said before."""
        for tell in self._early:
            tell()


class Wires:
    """All wires of one host. `make` makes what moves the bytes; open it inside the event loop that serves them."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        self.folder, self._lock = _private_folder()
        self._transport = make()
        self.arguments = Arguments()
        """What the calls of all sandboxes at their ends hold."""
        self.granted = Arguments()
        """What is said to them of what they are granted, such as the bodies of responses, and held as long as it is."""

    @contextlib.contextmanager
    def lay(self) -> Iterator[Wire]:
        """A wire, which has a name in the folder until the guest has said hello, or has failed to."""
        name = secrets.token_hex(4)  # the guest can ask for it, and is told neither a place nor a number of ours
        path = f"{self.folder}/{name}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{self._lock}/{name}")
            try:
                listener.listen(1)
                yield Wire(listener, path, self._transport)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._lock)

    def close(self) -> None:
        """Close every link, and remove the folder."""
        self._transport.close()
        _remove_sockets(self._lock, Path(self.folder))
        os.close(self._lock)


def _private_folder() -> tuple[str, int]:
    """A folder that only this user can enter, and a lock on it that ends with this process; older ones are swept.

    Sweeping removes sockets and then the empty folder: whatever else may be there is not ours.
    """
    # In memory, where there is such a folder: a name on a disk costs each boot thrice as much.
    candidates = os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm", tempfile.gettempdir(), "/tmp"
    usable = [name for name in candidates if len(os.fsencode(name)) <= _LONGEST_BASE and os.access(name, os.W_OK)]
    if not usable:
        raise SandboxUnavailable("there is no folder for sockets: set XDG_RUNTIME_DIR to one with a short name")
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
