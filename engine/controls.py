"""What somebody outside does to the instances of one workflow: each verb writes, reacts to the acknowledgement, then
answers.

What an acknowledged write means for a live run is done in the order of acknowledgement, by callbacks, so that it
happens whether or not the caller still waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from .endings import End
from .errors import CreationRateExceeded, InstanceNotFound, StorageError
from .records import TERMINATED, Address, Claim, Key, Standing, Status
from .sharing import Allowance
from .store import control, events, instances, undoing
from .store.surgery import fork, override
from .store.wipe import delete, restart

if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Creation
    from .scheduler import Scheduler
    from .sharing import WorkflowLimits
    from .store.store import Store

T = TypeVar("T")


class Controls:
    """The verbs of a binding and of its instances."""

    def __init__(self, scheduler: Scheduler, limits: WorkflowLimits) -> None:
        self.scheduler = scheduler
        self._writer, self._clock = scheduler.writer, scheduler.clock
        self._allowance = Allowance(limits)

    async def create(self, address: Address, creation: Creation) -> None:
        scheduler, now = self.scheduler, self._clock.now()
        self._allowance.take(address.scope, 1, now)
        claim = scheduler.admits(address.scope)
        if claim:
            scheduler.slots.reserve(address.scope)
        write = self._writer.submit(instances.create, self.scheduler.workflow_name, address.scope, creation, now, claim)

        def created(write: asyncio.Future[int]) -> None:
            if claim:
                scheduler.slots.release(address.scope)
            if not self._stored(write):
                return
            if claim:
                scheduler.start(Claim(write.result(), address, 1, creation.params, now))
            elif scheduler.slots.full(address.scope):
                scheduler.slots.held.add(address.scope)
            else:
                scheduler.queued()

        await _after(write, created)

    async def create_batch(self, creations: list[tuple[str, Creation]]) -> list[bool]:
        """Which of them were created, each in its scope; the others exist already."""
        for scope, count in Counter(scope for scope, _ in creations).items():
            self._allowance.take(scope, count, self._clock.now())
        write = self._writer.submit(instances.create_batch, self.scheduler.workflow_name, creations, self._clock.now())

        def created(write: asyncio.Future[list[bool]]) -> None:
            if self._stored(write):
                self.scheduler.queued()

        return await _after(write, created)

    async def terminate(self, address: Address) -> None:
        scheduler = self.scheduler
        run = scheduler.active.get(address)
        scheduler.doom(address)
        write = self._writer.submit(control.terminate, address, TERMINATED, self._clock.now())
        stopped = run is not None and run.stop("terminated")

        def terminated(write: asyncio.Future[None]) -> None:
            scheduler.spare(address)
            failed = not self._stored(write)
            if not failed:
                scheduler.ended(address, End(Status.TERMINATED, None, TERMINATED))
            if run is not None and stopped:
                scheduler.background.spawn(scheduler.account(run, "storage failed") if failed else scheduler.bury(run))

        await _after(write, terminated)

    async def undo(self, address: Address) -> None:
        """Terminate, taking back the steps first: that is what the instance's next run does."""
        scheduler = self.scheduler
        write = self._writer.submit(undoing.undo_later, address, TERMINATED, self._clock.now())
        run = scheduler.active.get(address)
        stopped = run is not None and run.journal.undoing is None and run.stop("to be taken back")

        def begun(write: asyncio.Future[Standing]) -> None:
            failed = not self._stored(write)
            live = scheduler.active.get(address)  # it may have been claimed meanwhile
            if run is not None and stopped:
                scheduler.background.spawn(
                    scheduler.account(run, "storage failed") if failed else scheduler.retire(run, ())
                )
            elif not failed and live is not None and live.journal.undoing is None and live.stop("to be taken back"):
                scheduler.background.spawn(scheduler.retire(live, ()))
            elif not failed and write.result().status is Status.TERMINATED:
                scheduler.ended(address, End(Status.TERMINATED, None, TERMINATED))
            elif not failed:
                scheduler.react(write.result())

        await _after(write, begun)

    async def restart(self, address: Address, step: Key | None) -> None:
        self._allowance.take(address.scope, 1, self._clock.now())
        await asyncio.shield(self.scheduler.background.spawn(self._alone(address, restart, step)))

    async def override(self, address: Address, *what: Any) -> None:
        await asyncio.shield(self.scheduler.background.spawn(self._alone(address, override, *what)))

    async def allowed(self, scope: str) -> None:
        """Wait until the scope may create one more instance, and count it."""
        while True:
            try:
                return self._allowance.take(scope, 1, self._clock.now())
            except CreationRateExceeded as refusal:
                if refusal.retry_after_ms is None:
                    raise
                await self._clock.sleep(refusal.retry_after_ms / 1000)

    async def fork(self, address: Address, step: Key | None, creation: Creation) -> bool:
        """Whether an instance of that id did not exist before."""
        self._allowance.take(address.scope, 1, self._clock.now())
        made = await asyncio.shield(self._writer.submit(fork, address, step, creation, self._clock.now()))
        self.scheduler.queued()
        return made

    async def delete(self, address: Address) -> None:
        await asyncio.shield(self.scheduler.background.spawn(self._alone(address, delete)))
        self.scheduler.endings.refuse(address, InstanceNotFound(f"instance {address.id!r} was deleted"))

    async def _alone(self, address: Address, verb: Callable[..., None], *more: Any) -> None:
        """Do this to an instance once its run has ended, before the next one begins."""
        scheduler, done = self.scheduler, False
        scheduler.doom(address)
        try:
            while (run := scheduler.active.get(address)) is not None:
                if run.stop("stopped for good"):
                    await run.ended()
                    scheduler.leave(run)
                else:
                    await asyncio.shield(run.left)
            await self._writer.submit(verb, address, *more, self._clock.now())
            done = True
        finally:
            scheduler.spare(address)
            scheduler.look(doubtful=not done)  # what it was doing goes on after all

    async def pause(self, address: Address) -> None:
        await self._control(control.pause, address)

    async def resume(self, address: Address) -> None:
        await self._control(control.resume, address)

    async def _control(self, verb: Callable[[Store, Address, int], Standing], address: Address) -> None:
        write = self._writer.submit(verb, address, self._clock.now())

        def changed(write: asyncio.Future[Standing]) -> None:
            if not self._stored(write):
                return
            standing, run = write.result(), self.scheduler.active.get(address)
            if run is not None and standing.status is Status.WAITING_FOR_PAUSE:
                run.journal.drain()
            elif run is not None and standing.status is Status.RUNNING:
                run.journal.undrain()
            self.scheduler.react(standing)

        await _after(write, changed)

    async def send_event(self, address: Address, event_type: str, event: bytes, event_id: str | None, now: int) -> None:
        write = self._writer.submit(events.send_event, address, event_type, event, event_id, now)

        def sent(write: asyncio.Future[tuple[Standing, tuple[str, int] | None]]) -> None:
            if not self._stored(write):
                return
            standing, wait = write.result()
            run = self.scheduler.active.get(address)
            if run is not None and wait is not None:
                run.journal.deliver(*wait, event)
            self.scheduler.react(standing)

        await _after(write, sent)

    def _stored(self, write: asyncio.Future[Any]) -> bool:
        """Whether it was.

        A failed commit may have been stored all the same, so the store is asked what is to be run.
        """
        error = write.exception()
        if isinstance(error, StorageError):
            self.scheduler.look(doubtful=True)
        return error is None


def _after(write: asyncio.Future[T], react: Callable[[asyncio.Future[T]], None]) -> asyncio.Future[T]:
    """What was written, once it has been reacted to: that happens whether or not anybody still waits."""
    told: asyncio.Future[T] = write.get_loop().create_future()

    def written(write: asyncio.Future[T]) -> None:
        try:
            react(write)
        finally:
            error = write.exception()
            if not told.done():
                if error is None:
                    told.set_result(write.result())
                else:
                    told.set_exception(error)

    write.add_done_callback(written)
    return told
