"""A guest's whole life, played once in the zygote before anybody is forked; and its beginning once more in each spare.

The interpreter adapts code as it runs, and writes that into the code's pages. What is written before the fork is shared
by all children; what is written after it costs each of them the page, and the time of copying it. So `perform` plays
the real thing in the zygote: the real event loop and the real protocol, with a host whose every word is known
beforehand. And `Opening` has a child copy the pages of its first minutes before it says hello, when nobody waits for it
yet.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import logging
import socket
import sys
import types
from collections.abc import Callable
from typing import Any, Final

from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Call, Failure, Hello, Message, Note, Result

from ..lockdown import limits
from . import disguise, failure, heap, importer, main, scope, workers
from . import moments as moments  # so that each guest has it: most runs that are long wait for something
from .workers import workflows

_PROGRAM: Final = """
from workers import WorkerEntrypoint, WorkflowEntrypoint, env
class Default(WorkerEntrypoint):
    def greet(self, name):
        print("hello", name)
        return {"hello": name, "n": [1, 2.5, None, True]}
    async def fail(self):
        raise ValueError(await self.env.KV.get("key"))
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        @step.do("one")
        async def one():
            return 1
        found = [await one(), await step.do("two", lambda: 2), event.payload]
        await step.sleep_until("night", 1000)
        found.append(await step.do("three", lambda: self.env.KV.get("key")))
        paid = await step.wait_for_event("paid", type="paid", timeout="1 day")
        return await step.do("four", lambda: [*found, paid.payload])
"""
_SMALL_PROGRAM: Final = """
from workers import WorkerEntrypoint, WorkflowEntrypoint
class Default(WorkerEntrypoint):
    async def greet(self, name):
        return f"Hello {name}"
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        for number in range(event.payload.steps):
            await step.do(f"step {number}", lambda: number)
"""
_FEW_LINES: Final = "class Some:\n    async def thing(self, name):\n        return f'{name}'\n"
_DEFAULTS: Final = {"retries": {"limit": 0, "delay": 0, "backoff": "constant"}, "timeout": 1000}
_LONGEST: Final = 10.0
"""Seconds after which the play is broken off: a zygote that skipped a line is slower, one that hangs is none."""
_ROUNDS: Final = 10
_YOUNG: Final = 1  # generations that are looked at: not the last, with which whatever is kept at hand would be given up
_NO_LIMIT: Final = 2**63 - 1
_NAME: Final = "rehearsal_of_a_tenant"


def prepare() -> list[types.CodeType]:
    """Play it for the first time: the code that has a part in it, in the order of appearance."""
    sys.modules["workers"], sys.modules["workers.workflows"] = workers, workflows
    workers.__name__ = "workers"
    workers.__path__.append(disguise.folder("workers"))  # where those of its modules are that few programs use
    played: dict[types.CodeType, None] = {}
    sys.setprofile(lambda frame, _event, _argument: played.setdefault(frame.f_code))
    try:
        _play()
    finally:
        sys.setprofile(None)
    return list(played)


def perform() -> None:
    """Play it as often as it takes until the interpreter has nothing left to adapt."""
    for _ in range(_ROUNDS):
        stretch()
        _play()


def _play() -> None:
    streams, handlers = (sys.stdout, sys.stderr), logging.root.handlers[:]
    guest, host = socket.socketpair()
    stage = main.Stage()
    stage.loop.call_later(_LONGEST, stage.loop.stop)
    stage.loop.call_soon(lambda: stage.loop.add_reader(host, _Prompter(host).readable))
    host.sendall(zmtp.OPENING)
    try:
        stage.converse(guest, {})
    finally:
        sys.stdout, sys.stderr = streams
        logging.root.handlers[:] = handlers
        stage.loop.close()
        asyncio.set_event_loop(None)
        guest.close()
        _forget()


class Opening:
    """The first two calls of a guest's life, to nobody's ears. Give it to `Stage.warm_up`."""

    def __init__(self, stage: main.Stage) -> None:
        self._stage = stage
        self._calls = [codec.encode(call) for call in _calls(_SMALL_PROGRAM)[:2]]

    def __call__(self, then: Callable[[], None]) -> None:
        """Play it, and go on."""
        answers: list[bytes] = []
        peer = self._stage.peer(answers.append)
        for call in self._calls:
            peer.deliver(call)
        self._stage.loop.call_soon(self._wait, answers, then)

    def _wait(self, answers: list[bytes], then: Callable[[], None]) -> None:
        if len(answers) < len(self._calls):
            self._stage.loop.call_soon(self._wait, answers, then)
        else:
            _forget()
            self._stage.loop.call_soon(self._tidy, then)

    def _tidy(self, then: Callable[[], None]) -> None:
        """Only now nobody is in the midst of what was played: where it lay the tenant's program can lie."""
        gc.collect(_YOUNG)
        heap.make_room()
        self._stage.loop.call_later(0, then).cancel()  # as will be done when the tenant's code is imported
        then()


ITS_OWN: Final = (Opening.__call__, Opening._wait, Opening._tidy, heap.give_back)
"""What runs in each child and has no part in the play."""


def stretch() -> None:
    """Compile something: what a processor has to have at hand for that takes longer to come by than the work itself.
    It is done before the code is there, or else whoever sent that would wait for it."""
    compile(_FEW_LINES, _NAME, "exec", dont_inherit=True)


def _forget() -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, importer.Tenant)]
    sys.modules.pop(_NAME, None)
    linecache.cache.pop(f"{_NAME}.py", None)
    scope.set_env({})
    failure.tenant_paths = ()


def _calls(program: str) -> list[Call]:
    bounds = [_NO_LIMIT, limits.OPEN_FILES, 1024]
    return [
        Call(1, 0, "boot", _encode([f"{_NAME}.py", {f"{_NAME}.py": ["py", program]}, {"KV": _KV}, bounds])),
        Call(2, 0, "invoke", _encode([None, "greet", ["you"], {}, None])),
        Call(3, 0, "invoke", _encode([None, "fail", [], {}, None])),
        *(_run(number, _HISTORY[:known]) for number, known in enumerate(_KNOWN, 4)),
    ]


def _run(number: int, history: list[Any]) -> Call:
    about = {"instanceId": "one"}
    state = {"claims": number, "mail": [["paid", values.dumps(_EVENT)]] if number % 2 else []}
    told = ["TenantWorkflow", about, values.dumps({}), history, _DEFAULTS, _JOURNAL, number, state]
    return Call(number, 0, "run", _encode(told))


class _Prompter:
    """The host's part: each answer of the guest is met with the next call, each call with what it hoped for."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._reader = zmtp.Reader()
        self._calls = _calls(_PROGRAM)

    def readable(self) -> None:
        data = self._end.recv(65536)
        for frame in self._reader.feed(data)[0]:
            match codec.decode(frame):
                case Call(number, _, method):
                    self._say(Result(number, _encode(_ANSWERS.get(method, "value"))))
                case Hello():
                    self._say(Note("soon", b""))
                    self._say(self._calls.pop(0))
                case Result() | Failure() if self._calls:
                    self._say(self._calls.pop(0))
                case Result() | Failure():
                    asyncio.get_running_loop().remove_reader(self._end)
                    self._end.close()

    def _say(self, message: Message) -> None:
        self._end.sendall(zmtp.message(codec.encode(message)))


class _Reference:
    def __init__(self, number: int) -> None:
        self.data = values.dumps([0, number, {}])


_KV, _JOURNAL = _Reference(1), _Reference(2)
_EVENT: Final = {"payload": 1, "timestamp": 1000, "type": "paid"}
_SETTLED: Final = ["done", None]
_ANSWERS: Final[dict[str, Any]] = {
    "settle": _SETTLED, "after": _SETTLED, "wait_for_event": _EVENT, "sleep": None,
}  # fmt: skip
_HISTORY: Final[list[Any]] = [
    [kind, name, 1, state, 1, value, None, None, None]
    for kind, name, state, value in (
        ("do", "one", "done", values.dumps(1)),
        ("do", "two", "done", values.dumps(2)),
        ("sleep", "night", "done", None),
        ("do", "three", "done", values.dumps("value")),
        ("wait", "paid", "done", values.dumps(_EVENT)),
    )
]
_KNOWN: Final = (0, 2, 4, 5)
"""How much of its history each of the runs begins with: it is woken from its sleep, by its event, and once more."""


def _encode(value: object) -> bytes:
    return values.dumps(value, export=lambda subject: subject.data if isinstance(subject, _Reference) else None)
