"""The lockdown, as two lists in order. The order is the argument; a reviewer can check it with a finger.

`JAIL` is done once by the zygote, before it knows any tenant; each entry is tried, and what the machine cannot give is
reported by name. `confine` is done by each child after the fork and before it is told anything; an entry that fails
there ends the child.

A layer of `JAIL`, and what it stops:

    user        nothing by itself: without root it is the way to the others
    pids        the zygote's own process numbers, so that all children go when it goes
    mount       every file of the host: the root is an empty read-only directory
    net         every network interface, also loopback
    ipc         System V and POSIX queues and shared memory of the host
    uts         the host's name
    cgroup      the host's tree of control groups
    landlock    opening paths, TCP, abstract sockets and signals to others, should the filter miss a way
    capabilities   getting any back: the bounding set is empty, and uid 0 means nothing to execve
    limits      core files, growing files, locked memory, queues, descriptors beyond a few dozen
    seccomp     every system call but some seventy, so that the kernel offers less to attack
    processes   seeing or signalling any other process: each sandbox is process 1 of its own namespace
    identity    acting on what siblings own: a user id for each sandbox (root only)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from . import cgroups, identity, kernel, landlock, limits, namespaces, seccomp

FLOOR = ("landlock", "seccomp")
"""Without these nothing untrusted runs."""
COUNT_OF_TASKS = 64
_NOT_NEEDED = "root needs none"
_NOTHING_TO_DROP = "there are none to drop"
IN_ORDER = frozenset({"active", _NOT_NEEDED, _NOTHING_TO_DROP})
"""The states of a layer that leave nothing to be desired."""


@dataclass(slots=True)
class Jail:
    """What the zygote has, and hands down to each child."""

    layers: dict[str, str] = field(default_factory=dict)
    """Layer: "active", or why it is not."""
    pids: namespaces.PidNamespaces | None = None
    landlock: int = -1
    filter: seccomp.Filter | None = None
    own_ids: bool = False

    def active(self, layer: str) -> bool:
        """Whether the layer is in force."""
        return self.layers.get(layer) == "active"


def enter_jail(open_files: int) -> Jail:
    """Do the zygote's list. Afterwards nothing can be opened any more; everything needed must be imported by now."""
    jail = Jail()
    held, last = identity.capabilities_held(), identity.last_capability()
    may_mount = identity.SYS_ADMIN in held
    for layer, step in (
        ("user", lambda: _NOT_NEEDED if may_mount else namespaces.enter_user()),
        ("pids", lambda: _become_first_process(jail)),
        ("processes", lambda: _open_pid_namespaces(jail)),
        ("mount", lambda: namespaces.enter_shared("mount")),
        ("net", lambda: namespaces.enter_shared("net")),
        ("ipc", lambda: namespaces.enter_shared("ipc")),
        ("uts", lambda: namespaces.enter_shared("uts")),
        ("cgroup", lambda: namespaces.enter_shared("cgroup")),
        ("landlock", lambda: _open_landlock(jail)),
        ("identity", lambda: _own_ids(jail, held)),
        ("root", lambda: namespaces.empty_root() if jail.active("mount") else "needs the mount namespace"),
        ("capabilities", lambda: _empty_bounding_set(jail, held, last)),
        ("limits", lambda: limits.bound_all(open_files)),
        ("dumpable", identity.hide),
        ("no_new_privs", identity.renounce),
        ("seccomp", lambda: _open_filter(jail)),
    ):
        jail.layers[layer] = _attempt(step)
    return jail


class Slot(NamedTuple):
    """What distinguishes one child from its siblings."""

    number: int
    uid: int
    groups: tuple[int, ...]
    connection: int


def confine(jail: Jail, slot: Slot, parent: int) -> None:
    """Do the child's list. `parent` is the zygote's pidfd. Any failure here must end the child: it is half confined."""
    cgroups.attach_self(slot.groups)
    _keep_only(slot.connection, jail.landlock, parent)
    if jail.own_ids:
        limits.bound_tasks(COUNT_OF_TASKS)
        identity.become(slot.uid)
    identity.drop_capabilities()
    os.setsid()
    identity.die_with_parent(parent)
    identity.hide()
    landlock.restrict(jail.landlock)
    rules = jail.filter
    if jail.pids is None:
        rules = seccomp.Filter(seccomp.program(os.getpid(), empty_root=jail.active("root")))
    if rules is None:
        raise PermissionError("there is no filter")
    rules.install()


def _attempt(step: Callable[[], str | None]) -> str:
    try:
        return step() or "active"
    except (OSError, KeyError) as error:
        return f"not available: {error}"


def _become_first_process(jail: Jail) -> str | None:
    if not jail.active("user"):
        return _NOT_NEEDED if jail.layers["user"] == _NOT_NEEDED else "needs the user namespace"
    namespaces.become_first_process()
    return None


def _open_pid_namespaces(jail: Jail) -> None:
    spaces = namespaces.PidNamespaces()
    child = spaces.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    jail.pids = spaces


def _open_landlock(jail: Jail) -> None:
    jail.landlock = landlock.deny_everything()


def _own_ids(jail: Jail, held: frozenset[int]) -> str | None:
    if jail.active("user") or not {identity.SETUID, identity.SETGID} <= held:
        return "only root may give each sandbox a user id of its own"
    if not identity.has_ids_to_give():
        return "the user ids of this container end below those that sandboxes get"
    jail.own_ids = True
    return None


def _open_filter(jail: Jail) -> None:
    jail.filter = seccomp.Filter(seccomp.program(1, empty_root=jail.active("root")))


def _empty_bounding_set(jail: Jail, held: frozenset[int], last: int) -> str | None:
    if not held and not jail.active("user"):
        return _NOTHING_TO_DROP
    identity.empty_bounding_set(last)
    return None


def _keep_only(*descriptors: int) -> None:
    """Close everything but standard streams and these, whatever the zygote held and whatever its number."""
    after = 3
    for descriptor in sorted(descriptors):
        kernel.close_range(after, descriptor - 1)
        after = descriptor + 1
    kernel.close_range(after, kernel.LAST_DESCRIPTOR)
