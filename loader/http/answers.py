"""What a client is told where a tenant gave no answer."""

from __future__ import annotations

import logging
from typing import Final

from cloister.ipc import IpcError
from cloister.sandbox import LimitExceeded, SandboxDied, SandboxError

from ..errors import EntrypointNotFound, LoaderError, NoCapacity, RestartBackedOff, TenantError, TenantThrottled
from ..quoting import quoted

_log = logging.getLogger("cloister.http")
_ANSWERS: Final[list[tuple[type[Exception], int, str]]] = [
    (EntrypointNotFound, 501, "This worker serves no HTTP."),
    (TenantError, 500, "The worker raised an exception."),
    (LimitExceeded, 503, "The worker exceeded its limits."),
    (TenantThrottled, 429, "The worker is asked more than it may be. Try again later."),
    (RestartBackedOff, 503, "The worker's process was ended again and again. Try again later."),
    (NoCapacity, 503, "There is no room for the worker now. Try again."),
    (SandboxDied, 502, "The worker's process ended."),
    (SandboxError, 503, "The worker cannot be run now. Try again."),
    (IpcError, 502, "The worker's process ended."),
    (LoaderError, 500, "The worker could not be loaded."),
]
"""What a client is told of each failure, which is little; the log has the rest. The first that fits."""


def to(error: Exception, path: str) -> tuple[int, str] | None:
    """Status and words, None for what is nobody's fault but the host's. The log has the rest."""
    known = next((answer for answer in _ANSWERS if isinstance(error, answer[0])), None)
    if known is None:
        return None
    _log.warning("%s was answered with %d: %s", quoted(path), known[1], quoted(error))
    return known[1:]
