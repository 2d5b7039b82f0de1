"""The catalogue: what a tenant could try, and with what precisely it is refused.

An attack is a function of a tenant's source, one for each thing that is tried. It gets bait, which is what there is to
steal, harm or reach, and returns a value when it has succeeded. This package is sent into real sandboxes as it lies
here, and runs once in a plain process that nothing confines, where every attack has to succeed: otherwise its refusal
would prove nothing.
"""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

THEMES = ("files", "network", "processes", "exhaustion", "kernel", "memory", "tricks", "wire")
KILLED = "SandboxDied: the sandbox was killed by SIGSYS: it made a system call that nothing needs"
CPU_MS, WALL_MS, BYTES = 100, 500, 8 << 20
SPENT = f"LimitExceeded: the sandbox exceeded {CPU_MS} ms of CPU"
LATE = f"LimitExceeded: the call exceeded {WALL_MS} ms of time"


class Bait(NamedTuple):
    """What the test has set up for attacks to go for. None of it is of any worth."""

    folder: str
    file: str  # in it, with a secret
    program: str  # in it, which anybody may execute
    port: int  # of a server on the loopback interface
    unix: str  # path of a server's socket
    abstract: str  # name of another's
    host: int  # number of the process that is the host
    victim: int  # number of a process of the same user
    sibling: int  # number of another tenant's process
    paths: list[str]  # folders of the host, which nobody inside needs to know
    marker: str  # what secrets begin with


class Attack(NamedTuple):
    """What is tried and what comes of it, as `told` says it: one of these, where there are namespaces and where not.

    `endless` says that it never returns by itself, and is to be ended from outside; `proof` what it takes to succeed
    where nothing confines it: anybody, root, the right to raise limits ("resource"), root in a control group that has
    real time ("realtime"), or that it holds its proof itself.
    """

    theme: str
    name: str
    function: Callable[[Bait], Any]
    refusals: tuple[str, ...]
    without_namespaces: tuple[str, ...]
    endless: bool
    proof: str


Function = Callable[[Bait], Any]


def attack(
    *refusals: str, without_namespaces: str = "", endless: bool = False, proof: str = "anybody"
) -> Callable[[Function], Function]:
    """Enter a function into the catalogue."""
    bare = (without_namespaces,) if without_namespaces else refusals

    def enter(function: Function) -> Function:
        theme = function.__module__.rpartition(".")[2]
        vars(function)["attack"] = Attack(theme, function.__name__, function, refusals, bare, endless, proof)
        return function

    return enter


def catalogue(module: Any) -> dict[str, Attack]:
    """The attacks of one theme, in order."""
    found = [vars(each)["attack"] for each in vars(module).values() if "attack" in getattr(each, "__dict__", {})]
    return {each.name: each for each in found}


async def told(function: Function, bait: Bait) -> str:
    """What came of it: `done` and the value, an errno by name, or an exception with its words."""
    try:
        result = function(bait)
        return f"done: {await result if inspect.isawaitable(result) else result!r}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        number = error.errno if isinstance(error, OSError) else None
        return errno.errorcode.get(number or 0) or f"{type(error).__name__}: {error}"
