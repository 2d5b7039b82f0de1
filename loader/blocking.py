"""The host for code that does not await, such as Flask's and Django's: it lives in a thread of its own.

Every thread may call it. What it hands out stands for the host's own objects, and each call waits for its answer; what
is done there is the host's business, and nothing of it is done again here.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import inspect
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from cloister.ipc import Stub

from .entrypoint import Entrypoint
from .errors import LoaderClosed
from .host import FetchCode, Host
from .http.messages import Response
from .instance import DynamicInstance
from .loader import check_callable

Result = TypeVar("Result")


_at_exit: Callable[[Callable[[], object]], object] = getattr(threading, "_register_atexit", atexit.register)
"""Where to say what is to be done when the process exits: ahead of what ends the pools of threads, without which an
engine cannot be closed any more. What `atexit` calls comes after that."""


class Blocking:
    """An object of the host's: its methods wait for their answers, and asynchronous iterators are plain ones.

    A context manager where that is one, and where it can be disposed of.
    """

    def __init__(self, host: BlockingHost, target: Any) -> None:
        self._host = host
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        return Blocking(self._host, found) if callable(found) else found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = [_unwrapped(each) for each in args], {name: _unwrapped(each) for name, each in kwargs.items()}
        return self._host._wrapped(self._host.run(_settled(self._target, *given)))

    def __iter__(self) -> Iterator[Any]:
        return self._host._iterated(aiter(self._target))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._host.run(_ended(self._target))

    def __repr__(self) -> str:
        return f"<Blocking {self._target!r}>"


class BlockingHost:
    """`with BlockingHost("app.db", get_code=fetch) as host: host.tenant("t-42").greet("Alice")`.

    Takes what `Host` takes. `get_code` may block: it is called in a thread. What tenants are granted is called in the
    host's own thread and must not. Open it after a server has forked its workers (`open` is what `with` does); it is
    closed when the process exits, and lets what runs come to its end, for `config.drain_s`.
    """

    def __init__(self, path: str | os.PathLike[str], *, get_code: FetchCode, **options: Any) -> None:
        check_callable("get_code", get_code, "from a tenant's id to its WorkerCode")
        self._make: Callable[[], Host] = lambda: Host(path, get_code=_in_a_thread(get_code), **options)
        self._host: Host | None = None
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self._process = 0
        self._lock = threading.Lock()

    def open(self) -> Self:
        """Start it, unless it is open. Raises what `Host` raises."""
        with self._lock:
            if self._host is not None and self._process == os.getpid():
                return self
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="cloister", daemon=True)
            self._thread.start()
            self._process = os.getpid()
            try:
                self._host = self._wait(self._enter())
            except BaseException:
                self._end()
                raise
            _at_exit(_closing(weakref.ref(self)))
        return self

    def close(self) -> None:
        """Drain, and end it. Harmless when repeated, and in a process that did not open it."""
        with self._lock:
            host, self._host = self._host, None
            if host is None or self._process != os.getpid():
                return
            try:
                self._wait(_leave(host))
            finally:
                self._end()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tenant(self, tenant_id: str) -> Any:
        """The tenant's default entrypoint: attribute access is a method of the tenant's, which returns its answer."""
        return Blocking(self, self._opened().tenant(tenant_id))

    def worker(self, tenant_id: str) -> Any:
        """The tenant's worker; `get_entrypoint` gives an entrypoint as `tenant` does."""
        return Blocking(self, self._opened().worker(tenant_id))

    def workflows(self, tenant_id: str) -> Any:
        """The tenant's workflow binding; what it gives for an instance waits as well."""
        return Blocking(self, self._opened().workflows(tenant_id))

    def evict(self, tenant_id: str) -> bool:
        """See `Host.evict`."""
        return bool(self.run(_settled(self._opened().evict, (tenant_id,), {})))

    def redeploy(self, tenant_id: str) -> bool:
        """See `Host.redeploy`."""
        return self.run(self._opened().redeploy(tenant_id))

    def drain(self, tenant_id: str | None = None, *, timeout: float | None = None) -> bool:
        """See `Host.drain`."""
        return self.run(self._opened().drain(tenant_id, timeout=timeout))

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Have something done in the host's thread, and wait for it: for all that has no method here."""
        try:
            self._opened()
            if threading.current_thread() is self._thread:
                raise LoaderClosed("this is the host's own thread, which cannot wait for itself: await instead")
        except LoaderClosed:
            work.close()
            raise
        return self._wait(work)

    def _opened(self) -> Host:
        if self._host is None:
            raise LoaderClosed("use the host inside `with BlockingHost(...) as host`, or after `open()`")
        if self._process != os.getpid():
            raise LoaderClosed("this host was opened in the process that this one was forked from; open it after that")
        return self._host

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        future: concurrent.futures.Future[Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # whoever waited was interrupted
            raise

    async def _enter(self) -> Host:
        return await self._make().__aenter__()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wrapped(self, value: Any) -> Any:
        match value:
            case DynamicInstance() | Entrypoint() | Stub() | Response():
                return Blocking(self, value)
            case list():
                return [self._wrapped(each) for each in value]
            case dict():
                return {name: self._wrapped(each) for name, each in value.items()}
            case AsyncIterator():
                return self._iterated(value)
        return value

    def _iterated(self, found: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while not isinstance(value := self.run(_next(found)), _End):
                yield value
        finally:
            self.run(_ended(found))


class _End:
    """What an iterator gives when it has no more."""


async def _next(found: AsyncIterator[Any]) -> Any:
    async for value in found:
        return value
    return _End()


async def _ended(subject: Any) -> None:
    """Let go of a stub, a response or an iterator."""
    if isinstance(subject, Stub):
        subject.dispose()
    elif hasattr(type(subject), "aclose"):  # of its class: an entrypoint's attributes are its tenant's methods
        await subject.aclose()


def _unwrapped(value: Any) -> Any:
    """What is given back goes back as what it was."""
    match value:
        case Blocking():
            return value._target
        case list() | tuple():
            return [_unwrapped(each) for each in value]
        case dict():
            return {name: _unwrapped(each) for name, each in value.items()}
    return value


async def _settled(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _closing(ref: weakref.ref[BlockingHost]) -> Callable[[], None]:
    def close() -> None:
        if (host := ref()) is not None:
            host.close()

    return close


async def _leave(host: Host) -> None:
    await host.drain()
    await host.__aexit__(None, None, None)


def _in_a_thread(get_code: FetchCode) -> FetchCode:
    """It may wait for a database, which the loop must not, and Django's refuses to be used there."""
    if inspect.iscoroutinefunction(get_code):
        return get_code

    async def in_a_thread(tenant_id: str) -> Any:
        found = await asyncio.to_thread(get_code, tenant_id)
        return await found if inspect.isawaitable(found) else found

    return in_a_thread
