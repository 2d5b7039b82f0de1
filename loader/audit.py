"""Every call that a tenant makes of a capability, for whoever has to answer for what was done: who, what, when, how.

The host's function hears of each when it has been answered, within the event loop. Whatever it raises is logged and
harms nobody. Where there is none, nothing is measured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloister.engine import Attempt, current_attempt
from cloister.ipc import RemoteError, Seen

if TYPE_CHECKING:
    from .worker import Worker

_log = logging.getLogger("cloister.loader")


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityCall:
    """One call that a tenant made. What was refused is among them.

    `target` is the name of the class, of the function, of the generator that is read, or of the entrypoint of another
    tenant ("Default of t-42"); empty if the tenant was granted nothing of that number. `method` is empty for a function
    and "pull" for a stream; of a chain it has all names, with dots between, properties among them. `attempt` says which
    attempt of which step of which instance it came from, and is None outside of steps. `outcome` is "returned", or the
    class of what was raised.
    """

    tenant_id: str
    digest: bytes
    """Of the tenant's code."""
    sandbox: int
    target: str
    method: str
    attempt: Attempt | None
    time_ms: int
    """When it was answered, in milliseconds since 1970."""
    seconds: float
    """How long that took."""
    received_bytes: int
    """Size of the arguments."""
    sent_bytes: int
    """Size of the result."""
    outcome: str

    @property
    def step(self) -> str | None:
        """The step that it came from."""
        return self.attempt.step if self.attempt is not None else None


Audit = Callable[[CapabilityCall], object]


def observer(audit: Audit, worker: Worker) -> Callable[[Seen], None]:
    """What tells of the calls of one worker."""

    def observe(seen: Seen) -> None:
        error = seen.error
        call = CapabilityCall(
            tenant_id=worker.tenant_id,
            digest=worker.digest,
            sandbox=worker.sandbox.number,
            target=seen.target,
            method=seen.method,
            attempt=current_attempt(),
            time_ms=time.time_ns() // 1_000_000,
            seconds=seen.seconds,
            received_bytes=seen.received,
            sent_bytes=seen.sent,
            outcome="returned"
            if error is None
            else error.name
            if isinstance(error, RemoteError)
            else type(error).__name__,
        )
        try:
            audit(call)
        except Exception:  # noqa: BLE001 - an audit of the host's must not cost the tenant its answer
            _log.exception("the audit function raised")

    return observe
