"""The host's end of the zygote: start it, ask it for children, hear of their deaths.

The host itself never forks: it has threads, sockets and a database. The zygote is a fresh interpreter with an
empty environment, given no more than the folders of the few packages that a guest needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from cloister import ipc

from .errors import SandboxUnavailable
from .process import require_handles
from .sandbox import Usage

START_TIMEOUT = 30.0
FORK_TIMEOUT = 10.0
Died = Callable[[int, int, Usage], None]
"""Slot, exit code or minus the signal, and what it used."""


class Nursery:
    """One zygote. `Nursery.open` starts it; `lost` is done when it is gone, and every child with it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, on_died: Died) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._reaped: asyncio.Future[None] = self._loop.create_future()
        self._control = control
        self._on_died = on_died
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._ready: asyncio.Future[tuple[dict[str, str], int, dict[str, list[int]]]] = self._loop.create_future()
        self._failed = ""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.layers: dict[str, str] = {}
        self.address_space = 0
        self.costs: dict[str, list[int]] = {}
        """Layer: nanoseconds that it took the zygote, and that it takes each child."""
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._readable)
        self._loop.add_reader(self._pidfd, self._reap)

    @classmethod
    async def open(cls, on_died: Died, preload: tuple[str, ...] = ()) -> Nursery:
        """Start a zygote that has imported some packages, and wait until it is locked in. `SandboxUnavailable` says why
        it did not come up."""
        require_handles()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        bootstrap = (Path(__file__).parent / "bootstrap.py").read_text()
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220 - a spawn of a fresh program, and the loop has nothing to do yet
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", bootstrap, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={}, cwd="/", close_fds=True,
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        ours.send(json.dumps({**_packages(), "preload": preload, "folders": _folders()}).encode())
        nursery = cls(process, ours, on_died)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                either: set[asyncio.Future[Any]] = {nursery._ready, nursery.lost}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            await nursery.close()
            raise SandboxUnavailable(f"the zygote was not ready within {START_TIMEOUT:.0f} s") from None
        if not nursery._ready.done():
            await nursery.close()
            raise SandboxUnavailable(
                nursery._failed or "the zygote ended while it was starting; its standard error says why"
            )
        nursery.layers, nursery.address_space, nursery.costs = nursery._ready.result()
        return nursery

    async def fork(self, slot: int, uid: int, descriptors: list[int], *, urgent: bool = False) -> int:
        """Ask for a child in a slot, which gets the descriptors: its pidfd. `SandboxUnavailable` if there is none.

        One that is `urgent` does nothing that could wait until it is used.
        """
        answer: asyncio.Future[int] = self._loop.create_future()
        self._asked[slot] = answer
        try:
            socket.send_fds(self._control, [struct.pack("=qq?", slot, uid, urgent)], descriptors)
            async with asyncio.timeout(FORK_TIMEOUT):
                return await answer
        except TimeoutError:
            self.kill()  # it was stopped, or worse, and so are all that it would have to tell of
            raise SandboxUnavailable(f"the zygote did not answer within {FORK_TIMEOUT:.0f} s") from None
        except OSError as error:
            if answer.done():
                raise
            if isinstance(error, ConnectionError):  # it is dead, and the loop has not come to read that yet
                del self._asked[slot]
                self._end()
            raise SandboxUnavailable(f"the zygote cannot be asked for a sandbox: {error}") from error
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                discard(answer.result())
            raise
        finally:
            self._asked.pop(slot, None)

    async def close(self) -> None:
        """End the zygote, and with it whatever is left of its children."""
        self._lose()
        self.kill()
        await asyncio.shield(self._reaped)

    def kill(self) -> None:
        """End the zygote as an accident would. Harmless when it has ended."""
        if not self._reaped.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The process number, for looking at it."""
        return self._process.pid

    def _readable(self) -> None:
        while not self.lost.done():
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, 16384, 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._end()
                return
            self._hear(msgpack.unpackb(data), descriptors)

    def _reap(self) -> None:
        """It has ended, and is not to stay as a zombie."""
        self._process.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._reaped.set_result(None)

    def _hear(self, message: list[Any], descriptors: list[int]) -> None:
        match message:
            case ["ready", dict(layers), int(address_space), dict(costs)]:
                self._ready.set_result((layers, address_space, costs))
            case ["failed", str(reason)]:
                self._failed = reason
            case ["spawned", int(slot)] if slot in self._asked and not self._asked[slot].done():
                if descriptors:
                    self._asked[slot].set_result(descriptors.pop())
                else:  # the system drops what there is no number for; nobody will greet the child, and it ends
                    self._asked[slot].set_exception(OSError(errno.EMFILE, "the host has no descriptor left"))
            case ["refused", int(slot), str(reason)] if slot in self._asked and not self._asked[slot].done():
                self._asked[slot].set_exception(SandboxUnavailable(f"the zygote cannot fork: {reason}"))
            case ["refused", int(slot), _]:  # whoever asked has gone: there is no child, and so no death to come
                self._on_died(slot, -signal.SIGKILL, Usage(0, 0))
            case ["died", int(slot), int(status), int(cpu_ms), int(memory_bytes)]:
                self._on_died(slot, status, Usage(cpu_ms, memory_bytes))
        for descriptor in descriptors:
            discard(descriptor)

    def _end(self) -> None:
        self._lose()
        self.kill()

    def _lose(self) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(SandboxUnavailable("the zygote died"))


def discard(pidfd: int) -> None:
    """End a child that nobody waits for any longer, and let go of it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def _packages() -> dict[str, dict[str, Any]]:
    """Where the packages are that a guest may import: the real folders, however the host was installed."""
    layers = {
        "cloister.ipc": Path(ipc.__path__[0]).resolve(),
        "cloister.sandbox": Path(__file__).resolve().parent,
    }
    found = importlib.util.find_spec("msgpack")
    if found is None or found.origin is None:
        raise SandboxUnavailable("msgpack is not installed where the zygote could take it from")
    whole = {"msgpack": str(Path(found.origin).parent)}
    zones = importlib.util.find_spec("tzdata")
    if zones is not None and zones.origin is not None:  # for a system that has no time zones of its own
        whole["tzdata"] = str(Path(zones.origin).parent)
    return {
        "bare": {"cloister": [], **{name: [_source(folder)] for name, folder in layers.items()}},
        "whole": whole,
    }


def _folders() -> list[str]:
    """Where the host finds packages that are not part of Python."""
    library = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")}
    found = [Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_dir()]
    return [str(folder) for folder in found if folder not in library and folder.name != "lib-dynload"]


def _source(folder: Path) -> str:
    """An editable install is a tree of links; the files they lead to are together in one folder."""
    return str((folder / "errors.py").resolve().parent)
