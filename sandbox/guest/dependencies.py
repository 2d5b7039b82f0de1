"""Steps that depend on others, by the names of their parameters or by a list: how their arguments are found.

Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from .steps import _CONTEXT, Step


def by_place(name: Any, rest: tuple[Any, ...], *named: Any) -> list[Any]:
    """The older form: do(name, depends, concurrent, config). What of it was not given by its place has its name."""
    older = [*rest, *named[len(rest) :]]
    if isinstance(older[0], str | bytes | dict) or not isinstance(older[0], Iterable | None):
        raise TypeError(
            f"step.do({name!r}) got {type(older[0])} where its function belongs: pass the function itself, not what it"
            " returns; a config goes by its name"
        )
    return older


async def arguments(step: Step) -> list[Any]:
    """The results of the steps that this one depends on, by its parameters; `ctx` is filled in later."""
    declared = step._owner._declared
    parameters = inspect.signature(step._body).parameters
    names = list(parameters)
    if step._depends is None:  # from the first default on, they are the author's own
        names = list(itertools.takewhile(lambda name: _is_ours(parameters[name], declared), names))
    wanted = [name for name in names if name != "ctx" or "ctx" in declared]
    if step._depends is None:
        for name in wanted:
            if name not in declared:
                raise TypeError(f"Received unexpected parameter {name}")
        sources = [declared[name] for name in wanted]
    else:
        sources = list(step._depends)
        if len(sources) != len(wanted):
            raise TypeError(
                f"Step declares {len(wanted)} non-ctx parameter(s) but 'depends' has {len(sources)} item(s)"
            )
        for name, source in zip(wanted, sources, strict=True):
            if not isinstance(source, Step):
                raise TypeError(f"'depends' entry for parameter {name!r} is not a function decorated with step.do")
    if step._concurrent:
        results = await asyncio.gather(*(_result(source) for source in sources))
    else:
        results = [await _result(source) for source in sources]
    found = dict(zip(wanted, results, strict=True))
    return [found.get(name, _CONTEXT) for name in names]


async def _result(step: Step) -> Any:
    """Of a call that is over, or under way, or made for it."""
    if step._result:
        return step._result[0]
    if step._memo is None or step._memo.done():
        step._memo = asyncio.get_running_loop().create_future()
        if not step._calls:
            return await step()
    return await step._memo


def failed(step: Step, error: BaseException) -> None:
    """What steps wait for that depend on this one has failed; whoever asks later has it tried anew."""
    memo, step._memo = step._memo, None
    if memo is not None and not memo.done():
        if isinstance(error, asyncio.CancelledError):
            memo.cancel()
        else:
            memo.set_exception(error)
            memo.exception()  # if nobody waits for it, nobody has to be told


def _is_ours(parameter: inspect.Parameter, declared: Mapping[str, Step]) -> bool:
    """Whether a body's parameter is for us to fill in: it names a step, or must be given something."""
    return parameter.default is parameter.empty or parameter.name == "ctx" or parameter.name in declared
