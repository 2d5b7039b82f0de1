"""What the layers that a machine gives amount to, and what gets those that it lacks. Only the host asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from . import identity
from .sequence import FLOOR, IN_ORDER, LAYERS, NOT_AVAILABLE

LEVELS: Final = {
    "a": "everything: namespaces, empty root, Landlock, filter, limits, control groups, a user id for each sandbox",
    "b": "namespaces, empty root, Landlock, filter and limits; not all that root has to give",
    "c": "Landlock, a stricter filter and limits, and no wall behind them: weaker",
    "": "less than Landlock, filter and limits: nothing untrusted runs here",
}
_NAMESPACES: Final = (
    "run as root, or allow user namespaces: sysctl -w user.max_user_namespaces=15000, on Debian also "
    "kernel.unprivileged_userns_clone=1, on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0; in a container "
    "--cap-add SYS_ADMIN --security-opt apparmor=unconfined, and a seccomp profile that lets unshare, setns, mount and "
    "pivot_root through, as Docker's and Podman's own do with that capability"
)
_GROUPS: Final = (
    "run as root; or have memory and pids delegated, as by Delegate=memory pids in the unit of systemd, and keep the "
    "host in a sub-group of its own; in a container --cgroupns=private with /sys/fs/cgroup mounted to be written to"
)
_IDS: Final = (
    "run as root with CAP_SETUID and CAP_SETGID; in a container: without a user namespace of its own (--userns=host), "
    f"or with one that maps the ids from {identity.FIRST_ID:,} to {identity.LAST_ID:,}"
)
_CAPABILITIES: Final = "run as root with CAP_SETPCAP (in a container --cap-add SETPCAP), or as an ordinary user"
_LANDLOCK: Final = (
    "a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK=y, and landlock in the list of lsm= on its command line "
    "(/sys/kernel/security/lsm has what is on); in a container a seccomp profile that lets landlock_create_ruleset and "
    "landlock_restrict_self through, as Docker's and Podman's own do today"
)
_SECCOMP: Final = (
    "a kernel with CONFIG_SECCOMP_FILTER=y, on x86-64 or arm64, and no emulator or kernel in user space, such as gVisor"
)
_PLAIN: Final = "a kernel of 5.9 or newer, and a container's profile that refuses neither close_range nor pidfd_open"
REMEDIES: Final = {
    **dict.fromkeys("user pids processes mount net ipc uts cgroup root".split(), _NAMESPACES),
    "cgroups": _GROUPS,
    **dict.fromkeys("descriptors limits session parent dumpable no_new_privs".split(), _PLAIN),
    "identity": _IDS,
    "capabilities": _CAPABILITIES,
    "landlock": _LANDLOCK,
    "seccomp": _SECCOMP,
}
"""Layer: what gets it, where it is missing."""
MEANWHILE: Final = {
    _NAMESPACES: "sandboxes have the host's process numbers, and the filter and Landlock alone keep them from its "
    "files, its network and its processes",
    _GROUPS: "each process's address space is bounded instead of its memory, and its threads are counted by the host, "
    "which looks again and again, and not by the kernel; who computes gives way by a nice value",
    _IDS: "sandboxes are processes of the host's own user: what the kernel counts for a user (pipes, signals that "
    "wait, processes) it counts for them and the host together",
}
"""Remedy: what holds as long as it was not applied."""
_HIDING: Final = ("processes", "mount", "net", "ipc", "root")


def missing(layers: Mapping[str, str], needed: Collection[str]) -> list[str]:
    """What this machine does not give of what is needed: the layers, each with the reason, and what gets them."""
    found: dict[str, list[str]] = {}
    for layer in LAYERS:
        state = layers.get(layer.name, "unknown")
        if layer.name in needed and state not in IN_ORDER:
            found.setdefault(REMEDIES[layer.name], []).append(f"{layer.name} ({state.removeprefix(NOT_AVAILABLE)})")
    return [f"{', '.join(names)}. What gets it: {remedy}" for remedy, names in found.items()]


def level(layers: Mapping[str, str]) -> str:
    """Which of `LEVELS` is reached."""
    if missing(layers, FLOOR):
        return ""
    if missing(layers, _HIDING):
        return "c"
    return "b" if missing(layers, [layer.name for layer in LAYERS]) else "a"
