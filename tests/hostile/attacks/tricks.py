"""Python-level tricks: what the interpreter holds, and what the host would have to believe."""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import sys
import sysconfig
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from . import Bait, attack


@attack("done: []")
def read_the_environment(bait: Bait) -> list[str]:
    """Where services keep what they should not."""
    return sorted(set(os.environ) - {"LC_CTYPE"})


@attack("done: []")
def read_the_arguments(bait: Bait) -> list[str]:
    """As the process was started."""
    return [each for each in (*sys.argv, *sys.orig_argv) if each != "sandbox"]


@attack("done: []")
def learn_the_hosts_paths(bait: Bait) -> list[str]:
    """From any attribute of any module."""
    gc.unfreeze()
    found: set[str] = set()

    def look(each: object) -> None:
        if isinstance(each, str) and each.startswith(tuple(bait.paths)):
            found.add(each)

    for module in list(sys.modules.values()):
        for value in list(vars(module).values()) if module is not None else ():
            look(value)
            for part in value if isinstance(value, list | tuple) else ():
                look(part)
            look(getattr(getattr(value, "__code__", None), "co_filename", None))
    look(sysconfig.get_paths().get("stdlib"))
    return sorted(found)[:5]


@attack("ModuleNotFoundError: No module named '_ssl' in a sandbox: there is no network; call what the host has granted")
def import_encryption_for_networks(bait: Bait) -> str:
    """Two megabytes of code that have nobody to talk to."""
    return importlib.import_module("_ssl").__name__


@attack("EACCES")
def share_memory_with_the_librarys_means(bait: Bait) -> str:
    """By name."""
    shared = SharedMemory(create=True, size=4096)
    shared.unlink()
    return shared.name


@attack("RemoteError: RuntimeError: the worker called sys.exit(3); only the host ends a sandbox")
def end_the_process(bait: Bait) -> None:
    """By an exception that is none of the usual."""
    sys.exit(3)


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; os.environ['EXPLODED'] = 'yes'",)


@attack("RemoteError: CodecError: <class 'attacks.tricks.Bomb'> cannot be sent; send plain values")
def return_what_explodes(bait: Bait) -> Any:
    """Where it is read: in the host. In the proof it is read by what many use for such."""
    if "workers" in sys.modules:
        return Bomb()
    pickle.loads(pickle.dumps(Bomb()))
    return os.environ["EXPLODED"]


def _odd(name: str, second: BaseException) -> BaseException:
    """An exception that raises another one where it is asked for something that every exception has."""

    def raises(_: object) -> None:
        raise second

    odd: type[Exception] = type("Odd", (Exception,), {name: property(raises)})
    return odd("words")


@attack("RemoteError: Odd: it cannot be told: ZeroDivisionError", proof="itself")
def raise_what_is_of_no_class(bait: Bait) -> None:
    """So that whoever waits for the answer gets none."""
    raise _odd("__class__", ZeroDivisionError())


@attack("RemoteError: Odd: words", proof="itself")
def raise_what_has_no_traceback(bait: Bait) -> None:
    """Likewise, where it would be written down."""
    raise _odd("__traceback__", ZeroDivisionError())


@attack("RemoteError: Odd: it cannot be told: SystemExit", proof="itself")
def raise_what_ends_who_asks_for_its_cause(bait: Bait) -> None:
    """With an exception that is meant for the process."""
    raise _odd("__notes__", SystemExit(0))


@attack("RemoteError: ValueError: the last of them", proof="itself")
def raise_a_chain_without_end(bait: Bait) -> None:
    """Each the cause of the next: who follows it goes as deep."""
    error = None
    for number in range(20_000):
        following = ValueError("the last of them" if number == 19_999 else "one")
        following.__cause__, error = error, following
    assert error is not None
    raise error
