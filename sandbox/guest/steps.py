"""`step`, as a workflow's author sees it: runs bodies, and asks the host's journal for everything that must last.

Specification: Cloudflare's Python SDK (`do` as a decorator, dependencies by parameter name or by `depends`), and beside
it the plain form `await step.do("name", function)`. A step that has a record is answered from it without a word to the
host. What a body returned always comes back as it would be read from the record.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from cloister.ipc import values
from cloister.ipc.errors import IpcError

from . import scope
from .journal import Journal, exception
from .patience import WHOLE, Patience, begin
from .values import JsDict

Body = Callable[..., Any]
Attempted = tuple[bytes, list[str] | None, bool, dict[str, Any] | None, Any]
"""Of an attempt: the encoded value, or the error and whether to try again; what is rarely said; what was returned."""


class WorkflowStep:
    """One run's steps."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._counts: dict[tuple[str, str], int] = {}
        self._declared: dict[str, Step] = {}
        self._sleeps: dict[asyncio.Task[None], str] = {}  # those that nobody has awaited yet, as they were called

    def do(
        self, name: Any = None, *rest: Any, depends: Any = None, concurrent: bool = False, config: Any = None,
        **undo: Any,
    ) -> Any:  # fmt: skip
        """Declare a step (decorator), or run one: `await step.do("name", [config], function)`."""
        if callable(name):
            raise TypeError("step.do is used with parentheses: @step.do() or @step.do('name')")
        if rest and callable(body := rest[-1]):
            settings = rest[0] if len(rest) > 1 else config
            return Step(self, str(name or getattr(body, "__name__", "step")), body, None, False, settings, **undo)()
        if rest:
            from . import dependencies

            depends, concurrent, config = dependencies.by_place(name, rest, depends, concurrent, config)

        def declare(function: Body) -> Step:
            step = Step(self, name or function.__name__, function, depends, concurrent, config, **undo)
            self._declared[step._step_name] = step
            if self._declared.setdefault(function.__name__, step)._step_name != function.__name__:
                self._declared[function.__name__] = step  # a step that has this for its own name goes before it
            return step

        return _Declaring(declare)

    def sleep(self, name: str, duration: Any) -> Awaitable[None]:
        """Sleep for a number of milliseconds, a text such as "2 hours", or a timedelta. It starts when called."""
        return self._start("sleep", name, _span(duration), None)

    def __getattr__(self, name: str) -> Any:
        from . import moments

        return moments.method(self, name)

    def _count(self, kind: str, name: str) -> int:
        count, skipped = self._counts.get((kind, name), 0) + 1, self._journal.skipped
        while skipped and (kind, name, count) in skipped:  # nobody else's may have the number of such a one
            count += 1
        self._counts[kind, name] = count
        return count

    def _start(self, method: str, name: str, duration: Any, until: Any) -> Awaitable[None]:
        sleep = Sleep(self._sleep(name, self._count("sleep", name), duration, until))
        sleep.unasked = self._sleeps
        self._sleeps[sleep] = f"step.{method}({name!r}, ...)"
        return sleep

    def neglected(self) -> bool:
        """Whether the run has not awaited a sleep, or not called a step."""
        return bool(self._sleeps) or any(("do", s._step_name) not in self._counts for s in self._declared.values())

    async def _sleep(self, name: str, count: int, duration: Any, until: Any) -> None:
        match await self._journal.visit("sleep", name, count):
            case ["done", *_]:
                pass
            case ["failed", _, _, error, *_]:
                raise exception(error)
            case _:
                await self._journal.record("sleep", (name, count, duration, until))


class Sleep(asyncio.Task[None]):
    """It has started. Who asks for its end does so in one of these ways."""

    unasked: dict[asyncio.Task[None], str]

    def __await__(self) -> Any:
        self.unasked.pop(self, None)
        return super().__await__()

    def add_done_callback(self, *args: Any, **options: Any) -> None:
        """As of any task."""
        self.unasked.pop(self, None)
        super().add_done_callback(*args, **options)


class _Declaring(functools.partial[Any]):
    def __await__(self) -> NoReturn:
        raise TypeError("step.do has no function to run: await step.do('name', function), or decorate one and call it")


class Step:
    """A declared step. Calling it runs it, or answers from its record."""

    def __init__(
        self, owner: WorkflowStep, name: str, body: Body, depends: list[Step] | None, concurrent: bool, config: Any,
        rollback: Body | None = None, rollback_config: Any = None,
    ) -> None:  # fmt: skip
        self._owner = owner
        self._step_name = name
        self._body = body
        self._depends = depends
        self._concurrent = concurrent
        self._config = config
        self._undo = rollback, rollback_config
        self._calls = 0
        """Those that are under way."""
        self._memo: asyncio.Future[Any] | None = None
        """What steps that depend on this one wait for, if one does."""
        self._result: list[Any] = []  # none as long as there is none

    def __call__(self) -> Any:
        """Run the step."""
        call: Any = self._run()
        call.__qualname__ = f"step {self._step_name}"  # which is warned of if it is not awaited
        return call

    def __await__(self) -> NoReturn:
        raise TypeError(f"step {self._step_name!r} is awaited without being called: put () behind it")

    async def _run(self) -> Any:
        self._calls += 1
        try:
            if (arguments := self._plain_arguments()) is None:
                from . import dependencies

                arguments = await dependencies.arguments(self)
            count = self._owner._count("do", self._step_name)
            perform = self._perform if self._undo[0] is None else self._perform_and_note
            result = await perform(count, arguments)
        except BaseException as error:
            if self._memo is not None:
                from . import dependencies

                dependencies.failed(self, error)
            raise
        finally:
            self._calls -= 1
        self._result = [result]
        if self._memo is not None and not self._memo.done():
            self._memo.set_result(result)
        return result

    async def _perform_and_note(self, count: int, arguments: list[Any]) -> Any:
        """The same for one that can be taken back."""
        from . import rollback

        undo = rollback.noted(self._owner._journal, self._step_name, count, *self._undo)
        undo[-1] = result = await self._perform(count, arguments)
        return result

    def _plain_arguments(self) -> list[Any] | None:
        """What the body is called with. For most that is soon said; for the others see `dependencies`."""
        code = getattr(self._body, "__code__", None)
        if self._depends is None and code is not None and not code.co_flags & _STARS | code.co_kwonlyargcount:
            if not code.co_argcount:
                return []
            ours = code.co_argcount - len(self._body.__defaults__ or ())
            if not ours and {*code.co_varnames[:1]}.isdisjoint({"ctx", *self._owner._declared}):
                return []
            if code.co_varnames[: code.co_argcount] == ("ctx",) and "ctx" not in self._owner._declared:
                return [_CONTEXT]
        return None

    async def _perform(self, count: int, arguments: list[Any]) -> Any:
        journal, name = self._owner._journal, self._step_name
        record = await journal.visit("do", name, count) if journal.records else None
        attempt, resolved, details, settings = 1, journal.defaults, None, None
        match record:
            case None if self._config is None:
                pass
            case ["done", _, value, *_]:
                return _read(journal, name, count, value)
            case ["failed", _, _, error, *_]:
                raise exception(error)
            case ["retrying", made, details, _, config, *_]:  # whose recorded configuration holds
                resolved = config or resolved
                journal.begin(name, count, made + 1)  # now: nobody waits until then for what is not asked for again
                attempt = await journal.ask("attempt", name, count)
            case _ if self._config is not None:
                resolved, settings = await journal.configure(self._config)
        said = [details]
        while True:
            known = await journal.ask("begin", name, count) if journal.supervised else None
            about = count, attempt, resolved, said
            value, error, retryable, more, result = (*known, ...) if known else await self._attempt(about, arguments)
            outcome = name, count, attempt, settings, value, error, retryable, more
            encode = _as_it_is if settings is error is more is None else values.dumps
            try:
                verdict = await journal.record("settle", outcome, encode)
            except IpcError as refusal:  # such as a result that is too large, and will be next time
                if error is not None and not retryable:
                    raise
                from . import attempts

                error = attempts.refused(refusal)
                verdict = await journal.record("settle", (name, count, attempt, settings, b"", error, False, None))
            if verdict[0] == "done":
                if type(result) in _SAME:
                    return result
                return _read(journal, name, count, [more["size"]] if more else value)
            if verdict[0] == "failed":
                raise exception(verdict[1])
            attempt = await journal.ask("attempt", name, count)

    def _context(self, count: int, attempt: int, resolved: dict[str, Any], said: list[Any]) -> Context:
        """What the body is told, with which the author may do what he likes, and what is asked by way of it."""
        shown = JsDict(resolved, retries=JsDict(resolved["retries"]))
        context = Context(step=JsDict(name=self._step_name, count=count), attempt=attempt, config=shown)
        hidden = {"journal": self._owner._journal, "said": said, "given": self._config, "resolved": resolved}
        context.__dict__ = {**hidden, "earlier": said[0]}
        return context

    async def _attempt(self, about: tuple[int, int, dict[str, Any], list[Any]], arguments: list[Any]) -> Attempted:
        """One run of the body. `about`: what its context is made from."""
        journal, (count, attempt, resolved, _) = self._owner._journal, about
        beats = "heartbeatTimeout" in resolved
        context = self._context(*about) if arguments or beats else None
        patience = None
        run = journal.run
        mark = scope.inside.set(journal.begin(self._step_name, count, attempt))
        run.busy += 1
        try:
            waits, result, began = False, None, asyncio.get_running_loop().time()
            if not beats:
                waits, result = begin(self._call(context, arguments))
                if not waits and type(result) in WHOLE:
                    return values.dumps(result), None, True, None, result
            patience = Patience(journal, (self._step_name, count, attempt), began, resolved["timeout"], beats)
            async with patience as timer:
                if beats and context is not None:
                    from . import attempts

                    await attempts.watched(context, timer)
                    waits, result = begin(self._call(context, arguments))
                if waits:
                    result = await result  # type: ignore[misc] # as `begin` says
                if type(result) not in WHOLE and (hasattr(result, "__aiter__") or inspect.isgenerator(result)):
                    from . import streams

                    context = context or self._context(*about)
                    return b"", None, True, {"size": await streams.record(context, result)}, result
            return values.dumps(result), None, True, None, result
        except Exception as error:
            from . import attempts

            late = patience is not None and patience.timer.expired()
            return *await attempts.failed(context or self._context(*about), error, late), ...
        except BaseException:
            journal.stopped(self._step_name, count, told=attempt > 1 if patience is None else patience.noted)
            raise
        finally:
            run.busy -= 1
            scope.inside.reset(mark)

    def _call(self, context: Context | None, arguments: list[Any]) -> Any:
        filled = arguments and [context if argument is _CONTEXT else argument for argument in arguments]
        return self._body(*filled)


class Context(JsDict):
    """What the body of a step is told; what it may ask for beside is looked up when it does."""

    def __getattr__(self, name: str) -> Any:
        if name in {"heartbeat", "details", "token"}:
            from . import attempts

            return attempts.attribute(self, name)
        return super().__getattr__(name)


def _read(journal: Journal, name: str, count: int, value: Any) -> Any:
    """A result from its record: the encoded value, or of a stream how many bytes it has."""
    if isinstance(value, bytes):
        return values.loads(value, hook=JsDict, trusted=True)
    from . import streams

    return streams.ByteStream(journal, name, count, *value)


_CONTEXT = object()
_SAME = frozenset({type(None), bool, int, float, str, bytes})  # what comes back from the record as it was
_as_it_is = functools.partial(values.dumps, exact=True)  # what is of plain types alone
_STARS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def _span(duration: Any) -> Any:
    return duration / datetime.timedelta(milliseconds=1) if isinstance(duration, datetime.timedelta) else duration
