"""What a run may say and is told: the border between the engine and whoever runs a program, wherever that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from .records import ErrorRecord, EventRecord, Outcome, StepConfig, StepKind, StepRecord, Verdict
    from .store.children import Child


class Journal(Protocol):
    """The durable side of one run. Everything in it is bytes, and everything given to it is checked.

    Outcomes are returned in the order in which they were recorded, whoever asked first.

    When the run is over (parked, paused, terminated, lost) each method raises `RunOver` and records nothing.
    """

    history: tuple[StepRecord, ...]
    code_digest: bytes | None
    undoing: ErrorRecord | None
    """What its steps are taken back for. Then nothing new begins: what asks for it is not answered."""
    frozen: bool
    """Nothing new is recorded: the run takes its steps back, or is only a rehearsal."""
    supervised: bool
    """Whether `begin` is to be asked before the body of a step is run for the first time."""
    mail: tuple[tuple[str, bytes], ...]
    """Events that a wait of their type may be answered by before it is on record, if `took` is told so next."""
    only_waits: Callable[[], Awaitable[bool]]
    """Asked before the run is put aside: whether the program does nothing but wait for the journal. May be replaced."""

    @property
    def refused(self) -> asyncio.Event:
        """Set once something was asked for that is not answered."""
        ...

    @property
    def workflow_name(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def instance_id(self) -> str: ...
    @property
    def run(self) -> int: ...
    @property
    def claims(self) -> int: ...

    def pin(self, digest: bytes, code: bytes, *, anew: bool = False) -> None:
        """Tie the instance to this code, once unless `anew`. It is durable before whatever is recorded after it."""
        ...

    def rehearsal(self) -> Journal:
        """A journal of the same history that records nothing: what asks for something new is not answered."""
        ...

    async def pinned_code(self) -> bytes: ...

    async def configure(self, config: object) -> StepConfig:
        """Check an author's configuration and complete it with the defaults."""
        ...

    async def attempt(self, name: str, count: int, kind: StepKind = "do") -> int:
        """Wait until the step may be tried (again); return the number of the attempt to make, from 1."""
        ...

    async def begin(self, name: str, count: int) -> Outcome | None:
        """How the next attempt of a step ends, if that is known without running its body."""
        ...

    def started(self, name: str, count: int, attempt: int) -> None:
        """Note in memory that an attempt began. The run is not parked before it is settled."""
        ...

    def stopped(self, name: str, count: int) -> None:
        """The attempt was given up by the run, and will not be settled."""
        ...

    async def settle(self, outcome: Outcome) -> Verdict:
        """Record how an attempt ended; returns once that is durable. After "retry", call `attempt`."""
        ...

    def record_result(
        self, name: str, count: int, value: bytes, within: str | None, told: Callable[[BaseException | None], object]
    ) -> bool:
        """The same for a step that has come to its result at once, by the default configuration, as nearly all do.

        False, and nothing has happened, if it is not so simple: then `settle` says what there is to say. Else `told` is
        called, from the loop and once: when the result is durable, or with what went wrong.
        """
        ...

    async def put_chunk(self, name: str, count: int, attempt: int, number: int, data: bytes) -> None:
        """Record a piece of a step's result, from number 0. An attempt's first one replaces those of earlier ones."""
        ...

    async def chunk(self, name: str, count: int, number: int) -> bytes | None:
        """A recorded piece; None after the last."""
        ...

    async def keep(self, name: str, count: int, value: bytes, within: str | None = None) -> None:
        """Record a value that the run came by outside of any step, such as the time."""
        ...

    async def beat(self, name: str, count: int, attempt: int, details: bytes, config: StepConfig | None) -> bool:
        """A sign of life from an attempt, with what the next one is to know. False when it had better end soon."""
        ...

    def hold(self) -> AbstractContextManager[None]:
        """The run is not parked meanwhile, though its other steps only wait."""
        ...

    async def child(
        self, name: str, count: int, child: Child, timeout: object = None, within: str | None = None
    ) -> bytes:
        """Create an instance and wait for its end: the encoded map `{status, output, error}`. One that takes longer
        than the timeout is terminated. `InstanceAlreadyExists`, `QueueFull` and `QuotaExceeded` are on record, as
        whatever is refused because of what others have done, or because of the time: no replay is told otherwise.
        """
        ...

    async def give_up(self, name: str, count: int) -> None:
        """Terminate an instance that is awaited no longer."""
        ...

    async def undo(self, error: ErrorRecord) -> None:
        """From now on steps are taken back; returns once that is durable."""
        ...

    async def undone(self, words: str) -> None:
        """Record how that ended: "complete", or in words why it did not."""
        ...

    async def sleep(
        self, name: str, count: int, *, duration: object = None, until: object = None, within: str | None = None
    ) -> None: ...

    async def wait_for_event(
        self,
        name: str,
        count: int,
        type: str,  # noqa: A002
        timeout: object = None,
        *,
        within: str | None = None,
    ) -> EventRecord:
        """The next event of this type. `WaitTimeout` if none came within the timeout, 24 hours by default."""
        ...

    def took(
        self,
        name: str,
        count: int,
        type: str,  # noqa: A002
        timeout: object = None,
        within: str | None = None,
    ) -> None:
        """The run has gone on with the first event of this type in its `mail`: that is on record before whatever is
        recorded after it. What was told before changes nothing.

        It is told only by a run that does nothing else meanwhile, so that a replay from the records before would come
        to the same wait, and find the same event: nobody else takes it.
        """
        ...
