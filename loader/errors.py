"""What can go wrong at the front door, named by the situation and by whose fault it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloister.ipc import RemoteError

if TYPE_CHECKING:
    from .constancy import Difference


class LoaderError(Exception):
    """Base of everything that this package raises."""


class InvalidCode(LoaderError, ValueError):
    """The `WorkerCode` contradicts itself: the host's fault. The message says where."""


class LoadFailed(LoaderError):
    """The host's `get_code` raised, or returned no `WorkerCode`. Nothing is cached; the next call tries again."""


class LoadBackedOff(LoadFailed):
    """The code did not load a moment ago and is not asked for again yet. `__cause__` is what happened then, `failures`
    how often in a row, `retry_after_s` when the next call tries again."""

    def __init__(self, tenant_id: str, failures: int, retry_after_s: float, cause: Exception) -> None:
        self.tenant_id, self.failures, self.retry_after_s = tenant_id, failures, retry_after_s
        times = "once" if failures == 1 else f"{failures} times in a row"
        super().__init__(
            f"the code of {tenant_id!r} failed to load {times} and is tried again in {retry_after_s:.2f} s; "
            f"the last time: {type(cause).__name__}: {cause}"
        )
        self.__cause__ = cause


class RestartBackedOff(LoaderError):
    """The tenant's sandboxes were ended again and again by what it did, and it gets no new one yet. `__cause__` is how
    the last one ended, `ends` how many did in a row, `retry_after_s` when the next call may boot one."""

    def __init__(self, tenant_id: str, ends: int, retry_after_s: float, cause: Exception) -> None:
        self.tenant_id, self.ends, self.retry_after_s = tenant_id, ends, retry_after_s
        super().__init__(
            f"the sandboxes of {tenant_id!r} were ended {ends} times by what it did, and it gets the next one in "
            f"{retry_after_s:.2f} s; the last time: {type(cause).__name__}: {cause}"
        )
        self.__cause__ = cause


class VersionChanged(LoadFailed):
    """`get_code` gave other code for a version than before: the host's fault. `difference` names the modules."""

    def __init__(self, tenant_id: str, version: str, difference: Difference) -> None:
        self.tenant_id, self.version, self.difference = tenant_id, version, difference
        super().__init__(
            f"version {version!r} of {tenant_id!r} stood for other code before ({difference}); "
            "give changed code a new version, or none, where a change is a redeploy"
        )


class NoCapacity(LoaderError):
    """There was no room and none came free in time. The message says of what, and which number to raise."""


class TenantThrottled(LoaderError):
    """A tenant takes more than its `Quota` allows: its own fault, and nobody else is refused for it. `quota` is the
    name of the ceiling, `limit` what it is, `retry_after_s` when there may be room again, None if nobody knows."""

    def __init__(self, tenant_id: str, quota: str, limit: float, retry_after_s: float | None, words: str) -> None:
        self.tenant_id, self.quota, self.limit, self.retry_after_s = tenant_id, quota, limit, retry_after_s
        later = "" if retry_after_s is None else f"; try again in {retry_after_s:.2f} s"
        super().__init__(f"tenant {tenant_id!r} {words}{later}")


class LoaderClosed(LoaderError):
    """The loader is closed, or was never opened: use it as `async with Loader(...) as loader`."""


class TenantError(LoaderError, RemoteError):
    """The tenant's code raised. `name`, `message` and `trace` are what it raised, with its own lines."""


class CodeError(TenantError):
    """The tenant's code does not load: it does not compile, or its import raised. `trace` shows where."""


class EntrypointNotFound(TenantError):
    """The tenant's main module has no entrypoint of that name; the message lists those it has."""


class MissingDispatcherMetadataError(LoaderError):
    """The payload is no envelope, so nobody can say whose code to run."""

    def __init__(self) -> None:
        super().__init__(
            "This instance's payload is not an envelope made by wrap_workflow_binding(), so there is no telling whose "
            "code it should run. Was it created through the raw binding? Create it through the tenant's wrapped one."
        )


class ShardFailed(LoaderError):
    """The process of a shard did not come up, or does not come back. The message says why."""


class ShardLost(LoaderError):
    """The process of a shard ended while it was asked for something. What it has acknowledged is durable; whether this
    was done as well is not known. It is started again: ask again, for what is created under the same id."""
