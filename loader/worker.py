"""One warm worker: a tenant's code in a sandbox, from its boot to its death."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from cloister.ipc import CapabilityError, CodecError, PayloadError, RemoteError, values
from cloister.ipc.stubs import Link, flat
from cloister.sandbox import LimitExceeded, Sandbox, SandboxClosed, SandboxError

from .audit import Audit, observer
from .code import WorkerCode
from .compatibility import resolved
from .errors import CodeError, EntrypointNotFound, LoaderError, LoadFailed, TenantError
from .tails import Tails
from .tickets import Held

if TYPE_CHECKING:
    from .pool import Pool


class _Invocation(values.Named):
    names = ("entrypoint", "method", "args", "kwargs", "props", "chain")


class _Handling(values.Named):
    names = ("entrypoint", "event", "subject", "props")


class _Object(values.Named):
    names = ("object", "storage", "method", "args", "kwargs")


class Worker:
    """What the loader keeps for a tenant. `ready` is done when its code has been sent; the import may still go on.

    Calls follow the code down the same wire and are answered after it, so the first one costs no round trip more.
    """

    # A host has one for each of thousands of tenants: a dictionary of its own would take as much again as all of this.
    __slots__ = (
        "_audit", "_cpu_seen", "_digest", "_on_gone", "_on_idle", "_stored", "_up", "announced", "began", "boot_ms",
        "code", "end_noted", "evicted", "held", "held_until", "idle_since", "imported", "measured_bytes", "over",
        "pool", "ready", "retired", "sandbox", "tails", "tenant_id", "users",
    )  # fmt: skip
    code: WorkerCode
    sandbox: Sandbox
    tails: Tails
    imported: asyncio.Task[None]

    def __init__(
        self,
        pool: Pool,
        on_idle: Callable[[Worker], None],
        on_gone: Callable[[Worker], None],
        audit: Audit | None = None,
    ) -> None:
        self.pool = pool
        self.tenant_id = pool.key.tenant_id
        self.users = 0
        """Calls and runs that hold it."""
        self.idle_since = 0.0
        self.retired = ""
        """Why it takes no new calls and ends with the last that it has, if so."""
        self.measured_bytes = 0
        self.held = Held()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it has left."""
        self._up = False
        self._cpu_seen = 0.0
        self.boot_ms = self.began = 0.0
        self.announced = self.end_noted = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.evicted = ""
        self.held_until = 0.0
        """Until when work that goes on after its last answer keeps it, 0 if there is none; a stream does for longer."""
        self._on_idle = on_idle
        self._on_gone = on_gone
        self._audit = audit
        self._digest = self._stored = b""

    @property
    def digest(self) -> bytes:
        """The digest of its code, which direct calls have no use for."""
        self._digest = self._digest or self.code.digest
        return self._digest

    @property
    def stored(self) -> bytes:
        """Its code as it is kept beside the runs that need it."""
        self._stored = self._stored or self.code.stored()
        return self._stored

    @property
    def open(self) -> bool:
        """Whether it has its code, and a call can be expected to be answered."""
        return self._up and self.sandbox.open

    @property
    def computing(self) -> bool:
        """Whether a call would have to wait in it, since it has a core for itself. While it imports, another one of its
        kind would do no more than the same."""
        return self._up and self.sandbox.computing and self.imported.done()

    @property
    def idle(self) -> bool:
        """Whether nobody holds it."""
        return not self.users and not self.held_until

    def newly_used(self) -> float:
        """Seconds of CPU time since this was last asked."""
        if not self._up:
            return 0.0
        ended = self.sandbox.usage.cpu_ms / 1000
        used = max(ended or self.sandbox.cpu_seconds(), self._cpu_seen)
        new, self._cpu_seen = used - self._cpu_seen, used
        return new

    @property
    def busy(self) -> bool:
        """Whether something goes on in it beside its calls: work of its own, or a stream that is open."""
        return self._up and self.sandbox.unfinished and not self.gone

    @property
    def doubtful(self) -> bool:
        """Whether it may be about to be ended, so that new calls had better wait a moment."""
        return self.ready.done() and not self.gone and self.sandbox.doubtful

    @property
    def gone(self) -> bool:
        """Whether it can no longer be called."""
        return self.ready.done() and (self.ready.exception() is not None or not self.sandbox.alive)

    @property
    def ended_by(self) -> SandboxError | None:
        """What its sandbox was ended by, once that is known; nothing while its code has not been imported, which fails
        then, nor where somebody on the machine has ended it."""
        if not self.gone or self.ready.exception() is not None or self.sandbox.ended_from_outside:
            return None
        imported = self.imported.done() and not self.imported.cancelled() and self.imported.exception() is None
        return self.sandbox.ended_by if imported else None

    def start(self, code: WorkerCode, sandbox: Sandbox, *, unhurried: bool = False) -> None:
        """Send the code. What its import raises is raised by every call until the worker is thrown away. For
        `unhurried` see `Sandbox.boot`."""
        self.began = time.perf_counter()
        self.code, self.sandbox = code, sandbox
        self.tails = Tails(self.tenant_id, sandbox.number, code.tails, code.streaming_tails, sandbox.cpu_seconds)
        sandbox.tail.listener = self.tails.hear
        sandbox.raise_as(TenantError)
        if self._audit is not None:
            sandbox.observe(observer(self._audit, self))
        sandbox.on_background = self._worked
        # In a context that has nothing: a copy of a request's own would last as long as the worker. And one of its own,
        # which the loop of another thread may not be in just then.
        sandbox.died.add_done_callback(self._died, context=contextvars.Context())
        modules = {name: (kind, content) for name, (kind, content) in code.portable().items()}
        flags = resolved(code.compatibility_date, code.compatibility_flags)
        asyncio.get_running_loop().call_soon(self._sent)  # by then the code is on its way
        boot = sandbox.boot(
            code.main_module, modules, code.env, code.limits, code.global_outbound, flags, unhurried=unhurried
        )
        self.imported = _begun(self._boot(boot))
        self.imported.add_done_callback(lambda _: self._ended_import())

    def _sent(self) -> None:
        self.ready.set_result(None)
        self._up = True
        if self.evicted:
            self.end(self.evicted)

    def invoke(self, entrypoint: str | None, links: list[Link], props: Any, limits: Any) -> Awaitable[Any]:
        """Call a method of an entrypoint, and in the same breath what the chain has after it. To be awaited at once."""
        method, args, kwargs = links[0]
        arguments = _Invocation((entrypoint, method, args, kwargs or None, props))
        if len(links) > 1:
            arguments[1], (_, _, *rest) = flat(links)
            arguments.append(rest)
        call = self.sandbox.call("invoke", arguments, limits)
        return self._answered(self.tails.follow(entrypoint, arguments[1], call), self.sandbox.decode)

    def handle(self, entrypoint: str | None, event: str, subject: Any, props: Any, limits: Any) -> Awaitable[Any]:
        """Hand it an event: a request, a batch of messages, what other workers did. To be awaited at once."""
        call = self.sandbox.call("handle", _Handling((entrypoint, event, subject, props)), limits)
        followed = self.tails.follow(entrypoint, event, call, tailing=event == "tail")
        return self._answered(followed, self.sandbox.decode)

    def object(self, about: dict[str, Any], method: str, arguments: list[Any], limits: Any) -> Awaitable[Any]:
        """Call a method of a durable object. `arguments`: its storage, and those of the call. To be awaited at once."""
        storage, *rest = arguments
        call = self.sandbox.call("object", _Object((about, storage, method, *rest)), limits)
        return self._answered(self.tails.follow(about["class"], method, call), self.sandbox.decode)

    def part(self, about: dict[str, Any], storage: Any, seconds: float) -> Awaitable[Any]:
        """Have a durable object tell what it has said, of which no tail hears. To be awaited at once."""
        limits = self.code.limits.without_wall()  # what a client takes its time for is no call of the tenant's
        call = self.sandbox.call("object", _Object((about, storage, "_part", [seconds], {})), limits)
        return self._answered(call, self.sandbox.decode)

    def run(self, arguments: list[Any], limits: Any) -> tuple[Callable[[], None], Awaitable[bytes]]:
        """Begin a durable run: a function that forgives the CPU time used so far, and the encoded result to await."""
        restart, call = self.sandbox.watched_call("run", arguments, limits)
        return restart, self._answered(self.tails.follow(arguments[0], "run", call), _as_it_is)

    def fail(self, error: Exception) -> None:
        """It will never be ready: whoever waits for it is told why. Harmless when it is."""
        if not self.ready.done():
            self.ready.set_exception(error)

    def end(self, reason: str) -> None:
        """End it at once."""
        self.evicted = reason
        if self.ready.done() and self.ready.exception() is None:
            self.sandbox.kill(SandboxClosed(f"the sandbox was {reason}"))

    def exceed(self, words: str) -> None:
        """End it for what its tenant did."""
        self.sandbox.kill(LimitExceeded(words))

    async def _boot(self, boot: Awaitable[None]) -> None:
        try:
            await boot
        except RemoteError as error:
            raise error.recast(CodeError) from error.__cause__
        except LimitExceeded as error:
            raise CodeError("LimitExceeded", f"while the code was imported, {error}") from error
        except CodecError as error:
            raise LoadFailed(f"the env or the modules of {self.tenant_id!r} cannot be sent: {error}") from error
        finally:
            self.boot_ms = (time.perf_counter() - self.began) * 1000
            if (failure := sys.exception()) is not None:
                fault = isinstance(failure, CodeError)
                why = "its code does not load" if fault else f"it could not be booted: {failure}"
                self.sandbox.kill(SandboxClosed(f"the sandbox was ended because {why}"))

    def _worked(self) -> None:
        self._on_idle(self)

    def _died(self, _: asyncio.Future[str]) -> None:
        self._on_gone(self)

    async def _answered(self, call: Awaitable[bytes], read: Callable[[bytes], Any]) -> Any:
        """The answer to a call, which is the import's failure if the code did not load. If it cannot be read, that is
        the tenant's error."""
        try:
            payload = await call
        except TenantError as error:
            if self.imported.done():
                self.imported.result()
            if error.name == "NoSuchEntrypoint":
                raise error.recast(EntrypointNotFound) from error.__cause__
            raise
        except SandboxError:
            await asyncio.wait({self.imported})  # the sandbox was ended, perhaps for not loading: that is told first
            if isinstance(failure := self.imported.exception(), LoaderError):
                raise failure from None
            raise
        try:
            return read(payload)
        except (PayloadError, CapabilityError) as error:
            raise TenantError(type(error).__name__, f"the result cannot be read: {error}") from error

    def _ended_import(self) -> None:
        if not self.imported.cancelled() and self.imported.exception() is not None:
            self._on_gone(self)


def _as_it_is(payload: bytes) -> bytes:
    """What a run returned, which is stored as it is if whoever asks for it can read it."""
    values.loads(payload)
    return payload


if sys.version_info >= (3, 12):

    def _begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that has already got as far as its first wait."""
        return asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)
else:

    def _begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that gets there soon: this interpreter has no way to ask for it now."""
        return asyncio.ensure_future(work)
