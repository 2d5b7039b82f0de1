"""The lockdown: one table, `LAYERS`, read twice from top to bottom.

The zygote reads it once, before it knows any tenant, and does what stands under `once`; what the machine cannot give is
reported by name. Each child reads it after the fork, before it is told anything, and does what stands under `each`; an
entry that fails there ends the child. The order is the argument: what needs the host's files, its process numbers or
its capabilities comes before the entry that takes them away, and the filter, which would refuse all the rest, is last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from . import identity, kernel, landlock, limits, namespaces, seccomp

COUNT_OF_TASKS: Final = 64
CONNECTION, RULES, ZYGOTE = 3, 4, 5
"""The descriptors that a child has beside the standard streams: its connection, and until it has used them Landlock's
rules and the zygote's process, by which it sees whether that is still there. The bootstrap sets them aside."""
ACTIVE: Final = "active"
NOT_AVAILABLE: Final = "not available: "
_NOT_NEEDED: Final = "root needs none"
_NOTHING_TO_DROP: Final = "there are none to drop"
IN_ORDER: Final = frozenset({ACTIVE, _NOT_NEEDED, _NOTHING_TO_DROP})
"""The states of a layer that leave nothing to be desired."""


@dataclass(slots=True)
class Jail:
    """What the zygote has, and hands down to each child."""

    open_files: int
    layers: dict[str, str] = field(default_factory=dict)
    """Layer: "active", or why it is not."""
    costs: dict[str, list[int]] = field(default_factory=dict)
    """Layer: nanoseconds that it took the zygote, and that it takes each child."""
    held: frozenset[int] = field(default_factory=identity.capabilities_held)
    last_capability: int = field(default_factory=identity.last_capability)
    has_ids_to_give: bool = field(default_factory=identity.has_ids_to_give)
    pids: namespaces.PidNamespaces | None = None
    filter: seccomp.Rest | None = None
    own_ids: bool = False

    def active(self, layer: str) -> bool:
        """Whether the layer is in force."""
        return self.layers.get(layer) == ACTIVE


class Slot(NamedTuple):
    """What distinguishes one child from its siblings."""

    number: int
    uid: int
    groups: tuple[int, ...]
    connection: int


# What the zygote does once. A reason that is returned means that it was not done, and an error that it cannot be.


def _enter_user_namespace(jail: Jail) -> str | None:
    if identity.SYS_ADMIN in jail.held:
        return _NOT_NEEDED
    namespaces.enter_user()
    return None


def _become_first_process(jail: Jail) -> str | None:
    rooted = jail.layers["user"] == _NOT_NEEDED
    if jail.active("user") or (rooted and not namespaces.may_return()):
        namespaces.become_first_process()
        return None
    return _NOT_NEEDED if rooted else "needs the user namespace"


def _try_pid_namespaces(jail: Jail) -> None:
    jail.pids = namespaces.PidNamespaces()


def _empty_root(jail: Jail) -> str | None:
    if not jail.active("mount"):
        return "needs the mount namespace"
    namespaces.empty_root()
    return None


def _leave_to_the_host(_: Jail) -> str:
    return "made by the host"


def _watch_zygote(_: Jail) -> None:
    _move(os.pidfd_open(os.getpid()), ZYGOTE)


def _move(descriptor: int, place: int) -> None:
    os.dup2(descriptor, place, False)
    os.close(descriptor)


def _bound_resources(jail: Jail) -> None:
    limits.bound_all(jail.open_files)


def _has_ids(jail: Jail) -> str | None:
    if jail.active("user") or not {identity.SETUID, identity.SETGID} <= jail.held:
        return "only root may give each sandbox a user id of its own"
    if not jail.has_ids_to_give:
        return "the user ids of this container end below those that sandboxes get"
    jail.own_ids = True
    return None


def _empty_bounding_set(jail: Jail) -> str | None:
    if not jail.held and not jail.active("user"):
        return _NOTHING_TO_DROP
    identity.empty_bounding_set(jail.last_capability)
    return None


def _hide(_: Jail) -> None:
    identity.hide()


def _renounce(_: Jail) -> None:
    identity.renounce()


def _make_rules(_: Jail) -> None:
    _move(landlock.deny_everything(), RULES)


def _enter_filter(jail: Jail) -> None:
    seccomp.Filter(seccomp.common()).install()
    jail.filter = seccomp.Rest(jail.active("root"))


def _share(kind: str) -> Callable[[Jail], None]:
    return lambda _: namespaces.enter_shared(kind)


# What each child does. An error ends it.


def _join_groups(_: Jail, slot: Slot) -> None:
    for entrance in slot.groups:
        os.write(entrance, b"0")


def _close_all_but(_: Jail, slot: Slot) -> None:
    """Close everything but standard streams and what is needed, whatever the zygote held and whatever its number."""
    os.dup2(slot.connection, CONNECTION, False)
    kernel.close_from(ZYGOTE + 1)


def _bound_tasks(jail: Jail, _: Slot) -> None:
    if jail.own_ids:
        limits.bound_tasks(COUNT_OF_TASKS)


def _become_nobody_else(jail: Jail, slot: Slot) -> None:
    if jail.own_ids:
        identity.become(slot.uid)


def _drop_capabilities(_: Jail, __: Slot) -> None:
    identity.drop_capabilities()


def _leave_session(_: Jail, __: Slot) -> None:
    os.setsid()


def _die_with_zygote(_: Jail, __: Slot) -> None:
    identity.die_with_parent(ZYGOTE)


def _hide_again(_: Jail, __: Slot) -> None:
    identity.hide()


def _enter_rules(_: Jail, __: Slot) -> None:
    landlock.restrict(RULES)


def _complete_filter(jail: Jail, _: Slot) -> None:
    if jail.filter is None:
        raise PermissionError("there is no filter")
    jail.filter.of_process(os.getpid()).install()


class Layer(NamedTuple):
    """One line of the table."""

    name: str
    stops: str
    once: Callable[[Jail], str | None] | None
    each: Callable[[Jail, Slot], None] | None


# fmt: off
LAYERS: Final = (
    Layer("user", "nothing by itself: without root it is the way to the namespaces below",
          _enter_user_namespace, None),
    Layer("pids", "outliving the zygote: it is process 1, and its children go when it goes",
          _become_first_process, None),
    Layer("processes", "seeing or signalling any other process: each sandbox is process 1 of its own namespace",
          _try_pid_namespaces, None),  # for each: by the zygote, beside the fork
    Layer("mount", "mounts of the host, and changing them",
          _share("mount"), None),
    Layer("net", "every network interface, loopback included, and the host's abstract sockets",
          _share("net"), None),
    Layer("ipc", "System V and POSIX queues and shared memory of the host",
          _share("ipc"), None),
    Layer("uts", "the host's name",
          _share("uts"), None),
    Layer("cgroup", "the host's tree of control groups",
          _share("cgroup"), None),
    Layer("root", "every file of the host: the root is an empty read-only folder",
          _empty_root, None),
    Layer("cgroups", "memory and threads beyond the limit, counted by the kernel for the sandbox as a whole",
          _leave_to_the_host, _join_groups),
    Layer("descriptors", "what the zygote and its other children have open",
          None, _close_all_but),
    Layer("limits", "core files, growing files, locked memory, queues, descriptors and threads beyond a few dozen",
          _bound_resources, _bound_tasks),
    Layer("identity", "acting on what siblings own: a user id for each sandbox",
          _has_ids, _become_nobody_else),
    Layer("capabilities", "whatever needs one: all five sets are empty, and locked bits keep them so",
          _empty_bounding_set, _drop_capabilities),
    Layer("session", "the host's terminal, and signals to the host's group of processes",
          None, _leave_session),
    Layer("parent", "living on when the zygote has gone",
          _watch_zygote, _die_with_zygote),
    Layer("dumpable", "core files, debuggers, and /proc for others of the same user",
          _hide, _hide_again),  # again, because a change of ids undoes it
    Layer("no_new_privs", "gaining rights by executing a program",
          _renounce, None),
    Layer("landlock", "opening paths, sockets and signals to others, as far as the kernel knows how, past the filter",
          _make_rules, _enter_rules),
    Layer("seccomp", "every system call but some seventy, so that the kernel offers less to attack",
          _enter_filter, _complete_filter),
)
# fmt: on

FLOOR: Final = ("descriptors", "limits", "parent", "dumpable", "no_new_privs", "landlock", "seccomp")
"""Without these nothing untrusted runs."""
IN_EACH: Final = tuple(layer.each for layer in LAYERS if layer.each is not None)


def confine(jail: Jail, slot: Slot) -> None:
    """Do the child's part. Any failure here must end the child: it is half confined."""
    for step in IN_EACH:
        step(jail, slot)
