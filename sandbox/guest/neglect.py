"""What the author of a run has most likely forgotten: to await a sleep, or to call a step.

Either is a legal program, so it is a line in the log, at the end of a run that has come to a result. A step that is
called under a condition was not forgotten: only one that no code speaks of after it was declared. Kept with the
standard library, for those who ask.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import logging
import types
from collections.abc import Iterator
from typing import Any

from .steps import Step, WorkflowStep

_WAYS_TO_ALL = frozenset({"eval", "exec", "locals", "vars"})


def tell(step: WorkflowStep, run: Any) -> None:
    """Warn of what was neglected by the function that has just ended, which has come to its result, whatever a filter
    of the program's raises, or a wrapper of its functions leads to."""
    with contextlib.suppress(Exception):
        _tell(step, run)


def _tell(step: WorkflowStep, run: Any) -> None:
    log = logging.getLogger("workers")
    for call in [call for sleep, call in step._sleeps.items() if not sleep.cancelling()]:
        log.warning("%s was called and never awaited, so the run did not wait for it: write `await %s`", call, call)
    code = getattr(inspect.unwrap(getattr(run, "__func__", run)), "__code__", None)
    if not isinstance(code, types.CodeType):
        return
    for name, function in dict(_forgotten(step, code)).items():
        log.warning("step %r is declared and never called, so it did not run: write `await %s()`", name, function)


def _forgotten(step: WorkflowStep, code: types.CodeType) -> Iterator[tuple[str, str]]:
    """Steps that were declared in this code, and of which it says nothing afterwards: their names and functions."""
    declared = step._declared.values()
    wanted = {name for each in declared for name in _parameters(each)}
    for each in declared:
        name = getattr(each._body, "__name__", "")
        here = getattr(each._body, "__qualname__", "") == f"{code.co_qualname}.<locals>.{name}"
        uncalled = ("do", each._step_name) not in step._counts
        if uncalled and here and wanted.isdisjoint({name, each._step_name}) and not _speaks_of(code, name):
            yield each._step_name, name


def _parameters(step: Step) -> tuple[str, ...]:
    code = getattr(step._body, "__code__", None)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code is not None else ()


@functools.cache
def _speaks_of(code: types.CodeType, name: str) -> bool:
    """Whether it reads the variable, or has a way to read all of them."""
    if not _WAYS_TO_ALL.isdisjoint(code.co_names):
        return True
    return any(name in _read(each) for each in dis.get_instructions(code))


def _read(instruction: dis.Instruction) -> tuple[Any, ...]:
    """The variables that an instruction reads, of which some read two, and some write the first."""
    if "LOAD" not in instruction.opname:
        return ()
    found = instruction.argval
    names = found if isinstance(found, tuple) else (found,)
    return names[1:] if instruction.opname.startswith("STORE") else names
