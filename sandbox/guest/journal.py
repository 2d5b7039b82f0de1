"""The host's record of a run, as the run's program knows it: what is there already, and how to add to it.

A step that has a record is answered from it without a word to the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from cloister.ipc import values
from cloister.ipc.errors import CodecError, RemoteError
from cloister.ipc.stubs import Stub

from . import scope
from .outcomes import NOBODY, Outcomes
from .values import JsDict

_ON_RECORD = {"InstanceAlreadyExists", "MomentTooFar", "QueueFull", "QuotaExceeded"}
"""What is refused once and for all, and comes in the order of records. Everything else is refused in each run anew."""
_TELL_AFTER = 0.02  # seconds: what a run goes on with that asks nothing is on record by then
_OVER = "this run was parked or ended; if it goes on, it does so from its records"
_DONE: list[Any] = ["done", None]
_DONE_SENT = values.dumps(_DONE)
_Encode = Callable[[Any], bytes]


class Journal:
    """The host's record of this run: what is there already, and how to add to it. All in encoded values."""

    def __init__(
        self, stub: Stub, history: list[Any], defaults: dict[str, Any], run: scope.Run, state: JsDict | None = None
    ) -> None:
        self.state = state or JsDict()
        self.undos: list[list[Any]] = []
        self._ask = stub._channel.questions.ask  # type: ignore[attr-defined]
        self._telling: set[asyncio.Future[Any]] = set()
        self._target = run.journal = stub._target
        self._configs: dict[bytes, dict[str, Any]] = {}
        self._outcomes = Outcomes(history, run)
        self.skipped, self.unvisited = self._outcomes.skipped, self._outcomes.unvisited
        """Steps in bodies that are not run again, and those with an outcome that the run has yet to come to."""
        self.supervised = bool(self.state.get("supervised"))
        self.records = {(kind, name, count): rest for kind, name, count, *rest in history}
        self.defaults = defaults
        self.run = run
        self.mail: list[list[Any]] = self.state.get("mail") or []
        self._taken: list[list[Any]] = []
        """Of the mail, of which the host is told with the next question."""

    def ask(self, method: str, *arguments: object) -> Coroutine[Any, Any, Any]:
        """One round trip."""
        return self._asked(method, values.dumps, arguments)

    def record(self, method: str, given: tuple[Any, ...], encode: _Encode = values.dumps) -> Coroutine[Any, Any, Any]:
        """A round trip whose answer is an outcome, which waits its turn among the others."""
        return self._asked(method, encode, (*given, scope.inside.get()), outcome=True)

    async def _asked(self, method: str, encode: _Encode, given: tuple[Any, ...], *, outcome: bool = False) -> Any:
        run = self.run
        if run.over:
            raise scope.Suspended(_OVER)
        run.asking += 1
        final = outcome and method != "settle"
        taken = refusal = None
        try:
            if self._taken:
                taken, self._taken = self._taken, []
                method, encode, given = "after", values.dumps, (taken, method, encode(given))
            answer = await self._ask(self._target, method, encode, given)
            taken = None
        except RemoteError as error:
            if error.name == "RunOver":
                run.over = True
                raise scope.Suspended(_OVER) from None
            if not final or error.name not in _ON_RECORD:
                raise
            refusal = [error.name, error.message]
        finally:
            if taken:
                self._taken = taken + self._taken  # it may not have got there; to hear it twice does no harm
            run.asking -= 1
        if outcome and not self._outcomes.next:
            await self._outcomes.arrived()
        if refusal is not None:
            raise exception(refusal)
        return _DONE if answer == _DONE_SENT else values.loads(answer, hook=JsDict, trusted=True)

    def take(self, name: str, count: int, kind: str, timeout: Any) -> bytes | None:
        """An event that came along with the run, for a wait that is told to the host with whatever is asked next.

        Only for a program that does nothing else meanwhile, and asks for nothing that the host would refuse. Once the
        host has to be asked for a wait it is for all of them: what came along is within the number that a run may have.
        """
        letter = next((letter for letter in self.mail if letter[0] == kind), None)
        alone = not self.run.asking and self._outcomes.next and scope.inside.get() is None
        if letter is None or not alone or not _plain(name, timeout):
            self.mail = []
            return None
        self.mail.remove(letter)
        if not self._taken:
            asyncio.get_running_loop().call_later(_TELL_AFTER, self._tell_of_taken, context=NOBODY)
        self._taken.append([name, count, kind, timeout, None])
        return bytes(letter[1])

    def _tell_of_taken(self) -> None:
        if self._taken and not self.run.over:
            self._tell("")

    async def conclude(self) -> None:
        """The run is about to end: nothing is left that the host has yet to be told."""
        if self._taken and not self.run.over:
            await self.ask("")

    def started(self, name: str, count: int, attempt: int) -> None:
        """Tell the host what is being worked on, and do not wait for what it says."""
        self._tell("started", name, count, attempt)

    def stopped(self, name: str, count: int, *, told: bool) -> None:
        """An attempt was given up: nobody will settle it, nor ask for what was recorded in its body."""
        self._outcomes.skip(name, count)
        if told and not self.run.over:
            self._tell("stopped", name, count)

    def _tell(self, method: str, *arguments: object) -> None:
        task = asyncio.ensure_future(self.ask(method, *arguments))
        self._telling.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Future[Any]) -> None:
        self._telling.discard(task)
        if not task.cancelled():
            task.exception()  # a host that does not want to hear it says so where it matters

    def begin(self, name: str, count: int, attempt: int) -> str:
        """An attempt of a step begins: what its body does is marked with what is returned."""
        self._outcomes.skip(name, count, before=attempt)
        return f"{attempt} {count} {name}"

    async def visit(self, kind: str, name: str, count: int) -> list[Any] | None:
        """The record of a step, if there is one: state, attempts, value, error, config. An outcome waits its turn."""
        key = (kind, name, count)
        record: list[Any] | None = self.records.get(key)
        if record is None or key not in self.unvisited:
            return record
        if kind == "do":
            self._outcomes.skip(name, count)
        await self._outcomes.recorded(key)
        if isinstance(record[2], int):  # too large to have come along
            self.run.busy += 1
            try:
                record[2], record[3] = await self.ask("recall", kind, name, count)
            finally:
                self.run.busy -= 1
        return record

    async def configure(self, config: Any) -> tuple[dict[str, Any], Any]:
        """A config as the host understands it, and as it can be sent. The same one is asked for once in a run."""
        try:
            key = values.dumps(config)
        except CodecError:
            from . import moments

            config = moments.in_milliseconds(config)
            key = values.dumps(config)
        if key not in self._configs:
            self.run.busy += 1  # who only waits is not waiting for this
            try:
                self._configs[key] = await self.ask("configure", config)
            finally:
                self.run.busy -= 1
        return self._configs[key], config


def _plain(name: Any, timeout: Any) -> bool:
    """Whether a wait is called and bounded as they are every day, which the host does not refuse."""
    if not isinstance(name, str) or not (0 < len(name) <= 200 and name.isprintable()):
        return False
    if type(timeout) is int:
        return 1000 <= timeout <= _YEAR * 1000
    amount, _, unit = timeout.partition(" ") if isinstance(timeout, str) else ("", "", "")
    number = int(amount) if amount.isascii() and amount.isdecimal() and len(amount) < 9 else 0
    return 0 < number <= _MOST.get(unit.removesuffix("s"), 0)


_YEAR = 365 * 24 * 3600
_MOST = {"second": _YEAR, "minute": _YEAR // 60, "hour": _YEAR // 3600, "day": 365, "week": 52}


def exception(error: list[str]) -> Exception:
    """A recorded error, as an exception to raise in the tenant's `run`."""
    from . import revival

    return revival.exception(error)
