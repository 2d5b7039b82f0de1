"""What can go wrong at the front door, named by the situation and by whose fault it is."""

from __future__ import annotations

from cloister.ipc import RemoteError


class LoaderError(Exception):
    """Base of everything that this package raises."""


class InvalidCode(LoaderError, ValueError):
    """The `WorkerCode` contradicts itself: the host's fault. The message says where."""


class LoadFailed(LoaderError):
    """The host's `get_code` raised, or returned no `WorkerCode`. Nothing is cached; the next call tries again."""


class NoCapacity(LoaderError):
    """All sandboxes are in use and none came free in time. Raise `max_sandboxes`, or send less at once."""


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
