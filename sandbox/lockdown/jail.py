"""The zygote's way into its jail: once through the table of the lockdown, and then a look at whether it holds.

A few throw-away children go the whole way of a child: that tells what each step costs, and whether this machine lets it
be done. What the steps are is the table's affair.
"""

from __future__ import annotations

import errno
import os
import statistics
import time
from typing import Final

from . import identity, namespaces
from .sequence import ACTIVE, CONNECTION, FLOOR, IN_ORDER, LAYERS, NOT_AVAILABLE, Jail, Slot

_TRIALS: Final = 3
SHORTAGES: Final = frozenset({errno.EAGAIN, errno.ENOMEM})
"""What a machine says that gives a layer at another moment."""


def enter_jail(open_files: int) -> Jail:
    """Do the zygote's part. Afterwards nothing can be opened any more; everything needed must be imported by now.

    A few throw-away children then go the whole way of a child: that tells what each step costs, and whether this
    machine lets it be done. An `OSError` says that processes or memory are short, which is not for a layer to pay for.
    """
    jail = Jail(open_files)
    for layer in LAYERS:
        began = time.monotonic_ns()
        try:
            state = layer.once(jail) if layer.once is not None else None
        except (OSError, KeyError) as error:
            if isinstance(error, OSError) and error.errno in SHORTAGES:
                raise
            state = f"{NOT_AVAILABLE}{_words(error)}"
        jail.layers[layer.name] = state or ACTIVE
        jail.costs[layer.name] = [time.monotonic_ns() - began if layer.once is not None and state is None else 0]
    trials = [_send_ahead(jail) for _ in range(_TRIALS) if all(jail.layers[name] in IN_ORDER for name in FLOOR)]
    for layer in LAYERS:
        jail.costs[layer.name].append(round(statistics.median([trial.get(layer.name, 0) for trial in trials] or [0])))
    return jail


def _send_ahead(jail: Jail) -> dict[str, int]:
    """Send a throw-away child the way of a child: nanoseconds for each step. What fails is no longer called active."""
    ours, theirs = os.pipe()
    child = namespaces.fork(jail.pids)
    if not child:
        os.dup2(theirs, CONNECTION, False)
        _go_ahead(jail, Slot(-1, identity.LAST_ID, (), theirs))
    os.close(theirs)
    with os.fdopen(ours, "rb") as said:
        told = dict(line.split(" ", 1) for line in said.read().decode().splitlines())
    os.waitpid(child, 0)
    for layer in LAYERS:
        if layer.each is not None and not told.get(layer.name, "").isdecimal():
            why = told.get(layer.name, "a child does not survive it")
            jail.layers[layer.name] = f"{NOT_AVAILABLE}{why}"
            if layer.name == "identity":
                jail.own_ids = False
            break  # those after it were not tried
    costs = {name: int(took) for name, took in told.items() if took.isdecimal()}
    if jail.pids is not None:  # made for a child before it is there
        began = time.monotonic_ns()
        jail.pids.leave()
        jail.pids.return_home()
        costs["processes"] = time.monotonic_ns() - began
    return costs


def _go_ahead(jail: Jail, slot: Slot) -> None:
    try:
        for layer in LAYERS:
            if layer.each is not None:
                began = time.monotonic_ns()
                try:
                    layer.each(jail, slot)
                    result = str(time.monotonic_ns() - began)
                except OSError as error:
                    result = _words(error)
                os.write(CONNECTION, f"{layer.name} {result}\n".encode())
                if not result.isdecimal():
                    break
    finally:
        os._exit(0)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"nothing is known of {error}" if isinstance(error, KeyError) else str(error)
