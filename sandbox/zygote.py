"""The zygote: a single-threaded process that has imported everything a guest needs, and forks when it is asked to.

It is exec'd fresh with an empty environment and knows no tenant and no secret, because a child inherits everything its
parent ever held. It talks with the host over one SEQPACKET socket: a request to spawn comes with the descriptors for
the child, an answer carries a pidfd, and a message tells of each death, with the status that only a parent may ask for.
When the socket closes it ends, and all its children with it.

What the loop does for each spawn is kept to a few calls: every page that the zygote writes to between two forks is a
page that it no longer shares with the children it has.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import random
import select
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

import msgpack

from . import exits, lockdown
from .guest import archive, heap, layout, library, mappings, rehearsal
from .guest import main as guest
from .lockdown import kernel, limits
from .lockdown.jail import SHORTAGES, enter_jail
from .lockdown.sequence import CONNECTION, IN_EACH, Jail, Slot, confine

if TYPE_CHECKING:
    from .guest.profile import Package

_OWN: Final = (__name__, lockdown.__name__, guest.__name__, heap.__name__)
_TURN_NS: Final = 100_000  # the least that the kernel takes: who only answers waits so long for who computes
_NO_PROCESS: Final = (
    "the zygote can make no process: raise the limit of processes (ulimit -u, pids.max of the control group, "
    "--pids-limit of the container) or of memory"
)
_REQUEST: Final = struct.Struct("=qq?")  # slot, user id, whether somebody waits for it
_signal: Final = importlib.import_module("_signal")  # what `signal` wraps in enumerations, which a child need not touch
_SIGCHLD, _DEFAULT = int(signal.SIGCHLD), int(signal.SIG_DFL)
_SOCKET, _RIGHTS = socket.SOL_SOCKET, socket.SCM_RIGHTS


def main(control: socket.socket, preload: list[str], folders: list[str]) -> NoReturn:
    """Prepare, lock the zygote in, tell the host what was reached, and serve until the host goes."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # the socket tells it too, but only once it is being read
    kernel.take_turns_of(_TURN_NS)
    library.preload()
    packages = _load(control, preload, folders) if preload else []
    mappings.merge()
    mappings.enlarge_code()
    library.install(archive.build(packages))
    del folders, packages  # which say how the host is installed
    gc.collect()
    code = [*_own_code(), *rehearsal.prepare()]
    gc.collect()
    filler = layout.fill_holes()  # so that what the rehearsal makes, and every child then writes to, lies together
    layout.fill_chunks()
    layout.gather(code)
    rehearsal.perform()
    kernel.set_malloc_arenas(1)
    address_space = limits.address_space()
    parts = mappings.large_parts()
    try:
        jail = enter_jail(limits.OPEN_FILES)
    except OSError as error:
        if error.errno not in SHORTAGES:
            raise
        control.send(msgpack.packb(["failed", f"{_NO_PROCESS} ({error.strerror})"]))
        os._exit(1)
    stage = guest.Stage()
    stage.warm_up, stage.stretch = rehearsal.Opening(stage), rehearsal.stretch
    gc.collect()
    if sys.version_info >= (3, 12):
        layout.make_immortal()
    del sys.modules[layout.__name__]  # which a guest need not find
    filler += layout.fill_holes()
    layout.fill_chunks()
    gc.freeze()
    gc.disable()
    mappings.collapse(parts)
    try:
        control.send(msgpack.packb(["ready", jail.layers, address_space, jail.costs]))
        Zygote(control, jail, stage).serve()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the host has gone
    del filler
    os._exit(0)


def _load(control: socket.socket, preload: list[str], folders: list[str]) -> list[Package]:
    """The packages of the profile, or the end."""
    from .guest import profile

    try:
        return profile.load(preload, folders)
    except profile.PreloadFailed as error:
        control.send(msgpack.packb(["failed", str(error)]))
        os._exit(1)


def _seeds() -> list[Callable[[], None]]:
    """What gives generators of random numbers a state that no sibling has. To be called after each fork."""
    random.seed()  # forgets a number that it had in store
    found: list[Callable[[], None]] = [functools.partial(random.Random.__base__.seed, random._inst)]  # type: ignore[union-attr]
    if (numpy := sys.modules.get("numpy.random")) is not None:
        found.append(numpy.seed)
    return found


def _own_code() -> list[types.CodeType]:
    """What a child runs between the fork and its first word, which cannot be rehearsed: found by the names in it."""
    found = [subject for subject in gc.get_objects() if type(subject) is types.FunctionType]
    code = [function.__code__ for function in found if (function.__module__ or "").startswith(_OWN)]
    run = [function.__code__ for function in (Zygote._spawn, Zygote._be_child, *IN_EACH, *rehearsal.ITS_OWN)]
    for piece in run:  # which grows meanwhile
        run += [each for each in code if each.co_name in piece.co_names and each not in run]
    return run


class Zygote:
    """The loop, and which child is in which slot."""

    def __init__(self, control: socket.socket, jail: Jail, stage: guest.Stage) -> None:
        self._stage = stage
        self._control = control
        self._jail = jail
        self._slots: dict[int, int] = {}
        self._seeds = _seeds()
        self._wake, wake = socket.socketpair()
        self._wake.setblocking(False)
        wake.setblocking(False)
        self._wake_sender = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Spawn and reap until the host closes the socket."""
        poll = select.poll()
        wake, control = self._wake.fileno(), self._control.fileno()
        poll.register(wake, select.POLLIN)
        poll.register(control, select.POLLIN)
        wait = poll.poll
        while True:
            for descriptor, _ in wait():
                if descriptor == wake:
                    self._wake.recv(4096)
                    self._reap()
                elif not self._spawn():
                    return

    def _spawn(self) -> bool:
        asked = time.monotonic_ns()
        request, ancillary, _, _ = self._control.recvmsg(_REQUEST.size, 256)
        if not request:
            return False
        number, uid, urgent = _REQUEST.unpack(request)
        passed = ancillary[0][2]
        descriptors = struct.unpack(f"{len(passed) // 4}i", passed)
        slot = Slot(number, uid, descriptors[2:], descriptors[0])
        try:
            pid = self._jail.pids.fork() if self._jail.pids is not None else os.fork()
        except OSError as error:
            self._control.send(msgpack.packb(["refused", number, str(error)]))
        else:
            if pid == 0:
                self._be_child(slot, descriptors[1], asked, urgent)
            self._slots[pid] = number
            pidfd = os.pidfd_open(pid)
            self._control.sendmsg(
                [msgpack.packb(["spawned", number])], [(_SOCKET, _RIGHTS, pidfd.to_bytes(4, "little"))]
            )
            os.close(pidfd)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _be_child(self, slot: Slot, null: int, asked: int, urgent: bool) -> NoReturn:
        status = exits.NOT_CONFINED
        try:
            forked = time.monotonic_ns()
            _signal.set_wakeup_fd(-1)
            _signal.signal(_SIGCHLD, _DEFAULT)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            for seed in self._seeds:
                seed()
            confine(self._jail, slot)
            confined = time.monotonic_ns()
            status = 1
            gc.enable()
            if urgent:
                self._stage.warm_up = lambda then: then()
            status = self._stage.serve(CONNECTION, {"asked": asked, "forked": forked, "confined": confined})
        except SystemExit as end:  # from a task of the tenant's own
            status = end.code if isinstance(end.code, int) else 1
        except MemoryError:
            status = exits.OUT_OF_MEMORY
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self._slots.pop(pid, None)
            if number is not None:
                cpu_ms = round((usage.ru_utime + usage.ru_stime) * 1000)
                ended = os.waitstatus_to_exitcode(status)
                self._control.send(msgpack.packb(["died", number, ended, cpu_ms, usage.ru_maxrss << 10]))
