"""The values that cross the engine's border, and those its store and its runs hand each other. Frozen, and
without logic.

Payloads are encoded values: bytes that this folder stores and returns, and looks into only for host code that
asks.
"""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cloister.ipc import values
from cloister.ipc.values import Encoded as Encoded

if TYPE_CHECKING:
    import datetime as dt

StepKind = Literal["do", "sleep", "wait", "value", "child", "undo"]
StepState = Literal["done", "failed", "retrying", "waiting"]
Key = tuple[StepKind, str, int]
"""What identifies a step within its instance: kind, name, and which use of that name it is, from 1."""


class Address(NamedTuple):
    """What an instance is found by."""

    workflow: str
    scope: str
    id: str


class Status(enum.StrEnum):
    """Where an instance stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    WAITING_FOR_PAUSE = "waitingForPause"
    PAUSED = "paused"
    COMPLETE = "complete"
    ERRORED = "errored"
    TERMINATED = "terminated"


FINAL = frozenset({Status.COMPLETE, Status.ERRORED, Status.TERMINATED})


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    name: str
    message: str
    trace: str = ""


TERMINATED = ErrorRecord("Terminated", "the instance was terminated")
"""What an instance ends with that somebody has ended."""


@dataclass(frozen=True, slots=True)
class StepConfig:
    """How a step is retried. `limit` counts retries: there are at most `limit + 1` attempts."""

    limit: int = 5
    delay_ms: int = 10_000
    backoff: Literal["constant", "linear", "exponential"] = "exponential"
    timeout_ms: int = 600_000
    dynamic: bool = False
    """The delay is said by a function of the author's, which is asked after each failed attempt."""
    sensitive: bool = False
    """The result is stored and replayed, and shown to nobody who looks."""
    heartbeat_ms: int | None = None
    """How long an attempt may go without a sign of life; None if it need not give any."""


DEFAULT_CONFIG = StepConfig()


@dataclass(slots=True)  # not frozen, which takes thrice as long to make, for each step
class Outcome:
    """How one attempt of a step ended: exactly one of `value`, `size` and `error` is there."""

    name: str
    count: int
    attempt: int
    config: StepConfig | None = None
    value: bytes | None = None
    error: ErrorRecord | None = None
    retryable: bool = True
    within: str | None = None
    """The attempt of another step in whose body this one was asked for, as whoever replays calls it."""
    delay: object = None
    """What the author's function said of the time to the next attempt, if the configuration has one."""
    kind: StepKind = "do"
    """`do`, or `undo` for what takes back the step of that name and count."""
    size: int | None = None
    """The result is a stream of so many bytes, whose chunks were recorded before."""


class Verdict(NamedTuple):
    """What the engine made of an outcome, durably."""

    state: Literal["done", "retry", "failed"]
    error: ErrorRecord | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as recorded.

    The value of a wait is the map `{type, payload, timestamp}`: see `EventRecord`.
    """

    kind: StepKind
    name: str
    count: int
    state: StepState
    attempts: int = 0
    value: bytes | None = None
    error: ErrorRecord | None = None
    due_ms: int | None = None
    config: StepConfig | None = None
    within: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    type: str
    payload: bytes
    timestamp_ms: int

    def encode(self) -> bytes:
        """One encoded map; the payload inside it is not looked at."""
        return values.join(
            {
                "type": values.dumps(self.type),
                "payload": self.payload,
                "timestamp": values.dumps(self.timestamp_ms),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> EventRecord:
        parts = values.split(data)
        assert isinstance(parts, dict)  # written by `encode`
        return cls(
            values.loads(parts["type"], trusted=True),
            parts["payload"],
            values.loads(parts["timestamp"], trusted=True),
        )


@dataclass(frozen=True, slots=True)
class Fired:
    """Which firing of which schedule created an instance."""

    cron: str
    scheduled_ms: int


class WorkflowContext(NamedTuple):
    """Which instance a run belongs to: the first argument of an entrypoint's constructor."""

    workflow_name: str
    scope: str
    instance_id: str
    run: int
    code_digest: bytes | None


@dataclass(frozen=True)
class WorkflowEvent:
    """What an instance was created with: the first argument of `run`."""

    encoded_payload: bytes
    timestamp: dt.datetime
    instance_id: str
    workflow_name: str
    schedule: Fired | None = None
    """If a schedule created it: which, and for what time."""

    @functools.cached_property
    def payload(self) -> Any:
        """The params, `{}` if there were none. Decoded when first looked at."""
        return values.loads(self.encoded_payload)


class PinnedCode(NamedTuple):
    """Code that an instance is tied to: what it is known by, and what whoever runs it reads it back from."""

    digest: bytes
    stored: bytes


class Claim(NamedTuple):
    """An instance taken from the store to be run, with all that its run needs to know."""

    number: int
    address: Address
    run: int
    params: bytes
    created: int
    code_digest: bytes | None = None
    history: tuple[StepRecord, ...] = ()
    claims: int = 1
    undoing: ErrorRecord | None = None
    schedule: Fired | None = None
    woken: bool = False
    """Whether a sleep was over, and is on record with the claim: a run that is lost after that has come further."""
    mail: tuple[tuple[str, bytes], ...] = ()
    """Events that nobody has waited for yet, with their types, of each type the oldest first: a few short ones."""


@dataclass(frozen=True, slots=True)
class Pull:
    """What the store had for a workflow: instances to run, whether more could, and the next deadline."""

    claims: tuple[Claim, ...]
    backlog: bool
    overdue: bool
    wake_at: int | None
    last: str | None
    """The scope that got the last slot."""
    held: frozenset[str]
    """Scopes that have more queued, and all that they may running."""
    unread: tuple[tuple[Address, str], ...]
    """What could not be claimed, and why."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an instance stands after a verb changed it."""

    status: Status
    wake_at: int | None = None
    error: ErrorRecord | None = None
