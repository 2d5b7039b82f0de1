"""The binding of one registered workflow, and handles on its instances: what a host calls.

Both are addresses without state of their own. A scope is part of the address: what is in another one does not
exist.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Mapping, Sequence
from typing import Any, overload

from .controls import Controls
from .errors import (
    CreationRateExceeded,
    EngineError,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
)
from .instance import Instance
from .listing import DEFAULT_PAGE, Page, Query, Summary, cursor_after, page_size
from .options import Creation, together
from .records import Address, PinnedCode
from .rules import check_known_id, check_name
from .schedules import Schedule
from .store.catalogue import Catalogue
from .store.children import Child
from .store.codes import Packed, pack_ahead

MAX_BATCH = 100
MAX_EACH = 1_000
BULK_CHUNK = 64
BULK_ACTIONS = ("pause", "resume", "terminate", "restart", "delete")


_NOTHING: Any = object()


class Workflow:
    """The raw binding: sees every scope, so it is for the host. Obtained from `Engine.workflow`."""

    def __init__(self, controls: Controls) -> None:
        self._controls, self._scheduler = controls, controls.scheduler
        self.name = self._scheduler.workflow_name
        self.longest_retention_ms = self._scheduler.retention.longest_ms()

    async def create(self, options: Mapping[str, Any] | None = None, /, *, scope: str = "", **more: Any) -> Instance:
        """Create an instance; it is durable on return.

        Options are `id` (a UUID by default), `params`, `labels` (a dict of texts to search by) and `retention` (how
        long it is kept after its end: a duration, or a dict of `success_retention` and `error_retention`). A dict may
        have other keys, which are ignored. In a step, one that is given no id has the same one in each attempt, so that
        it is created once.

        Raises `InstanceAlreadyExists`, `InvalidInstanceId`, `InvalidLabels`, `InvalidRetention`, `PayloadTooLarge`,
        `CreationRateExceeded`, `QueueFull`, `QuotaExceeded`, `StorageError`.
        """
        creation = self._read(together(options, more))
        address = Address(self.name, check_name(scope, what="scope"), creation.id)
        try:
            await self._controls.create(address, creation)
        except InstanceAlreadyExists:
            if not creation.derived:
                raise
        return Instance(self._controls, address)

    def child(self, options: Mapping[str, Any], *, scope: str) -> Child:
        """What a step that awaits an instance of this workflow gives its journal. See `allowed`."""
        return Child(self.name, check_name(scope, what="scope"), self._read(options))

    async def allowed(self, scope: str) -> None:
        """Wait until the scope may create one more instance, and count it."""
        await self._controls.allowed(scope)

    @overload
    async def create_batch(self, entries: Sequence[Mapping[str, Any]], /, *, scope: str = "") -> list[Instance]: ...
    @overload
    async def create_batch(self, entries: Mapping[str, Any], /, *, scope: str = "") -> dict[str, Any]: ...

    async def create_batch(
        self, entries: Sequence[Mapping[str, Any]] | Mapping[str, Any], /, *, scope: str = ""
    ) -> list[Instance] | dict[str, Any]:
        """Create 1 to 100 instances in one transaction.

        From a list of options: the instances; ids that exist already are skipped and left out. From a dict, of either
        `instances` (such a list) or `count` and `params` (so many alike): a dict of `created`, a list of instances, and
        `errors`, a list of `{index, id, code, message}` for those that could not be created.
        """
        check_name(scope, what="scope")
        told = isinstance(entries, Mapping)
        listed = _alike(entries) if isinstance(entries, Mapping) else entries
        if not isinstance(listed, Sequence) or isinstance(listed, str | bytes) or not 1 <= len(listed) <= MAX_BATCH:
            raise ValueError(f"a batch is a list of 1 to {MAX_BATCH} instances to create")
        errors: dict[int, EngineError] = {}
        creations: dict[int, Creation] = {}
        for index, entry in enumerate(listed):
            try:
                creations[index] = self._read(entry)
            except EngineError as error:
                if not told:
                    raise
                errors[index] = error
        made = await self._controls.create_batch([(scope, each) for each in creations.values()]) if creations else []
        created = []
        for (index, creation), new in zip(creations.items(), made, strict=True):
            if new or creation.derived:
                created.append(Instance(self._controls, Address(self.name, scope, creation.id)))
            else:
                errors[index] = InstanceAlreadyExists(f"workflow {self.name!r} has an instance {creation.id!r} already")
        if not told:
            return created
        return {
            "created": created,
            "errors": [{"index": index, **_refusal(_id_of(listed[index]), errors[index])} for index in sorted(errors)],
        }

    async def create_each(self, entries: Sequence[tuple[str, Mapping[str, Any], PinnedCode | None]], /) -> list[bool]:
        """Create 1 to 1,000 instances in one transaction, of many scopes: a list of (scope, options, code).

        With code an instance is tied to that from the start, and not to what it is first run with. The answer says
        which of them were created; the others exist already.
        """
        if not isinstance(entries, Sequence) or not 1 <= len(entries) <= MAX_EACH:
            raise ValueError(f"a batch for many scopes is a list of 1 to {MAX_EACH:,} instances to create")
        for entry in entries:
            if not isinstance(entry, tuple | list) or len(entry) != 3 or not isinstance(entry[2], PinnedCode | None):
                raise TypeError(
                    "an entry of a batch for many scopes is (scope, options, code), of which code may be None"
                )
        longest, packed = self.longest_retention_ms, dict[bytes, Packed]()
        return await self._controls.create_batch(
            [
                (
                    check_name(scope, what="scope"),
                    Creation.read(options, longest_ms=longest, code=pack_ahead(code, packed)),
                )
                for scope, options, code in entries
            ]
        )

    async def get(self, id: str, *, scope: str = "") -> Instance:  # noqa: A002 - the name it has everywhere
        """A handle on an instance that exists; else `InstanceNotFound`, in another scope or not."""
        address = Address(self.name, check_name(scope, what="scope"), check_known_id(id))
        await self._scheduler.reader.ask(Catalogue.find, address)
        return Instance(self._controls, address)

    def handle(self, id: str, *, scope: str = "") -> Instance:  # noqa: A002
        """The same without a look; if there is no such instance, what it is asked raises `InstanceNotFound`."""
        return Instance(self._controls, Address(self.name, check_name(scope, what="scope"), check_known_id(id)))

    async def list(
        self, *, scope: str | None = None, limit: int = DEFAULT_PAGE, cursor: str | None = None, **filters: Any
    ) -> Page:
        """Instances, newest first, up to 1,000 a page; `cursor` is that of the page before.

        Filters, which all must fit: `status` (one or several), `labels` (a dict), `created_from` and `created_before`
        (`datetime` or milliseconds). `scope` None means all of them.
        """
        query, size = self._query(scope, filters, cursor), page_size(limit)
        found: list[tuple[int, Summary]] = []
        rest: int | None = None
        while len(found) < size:
            more, rest = await self._scheduler.reader.ask(Catalogue.search, self.name, query, size - len(found))
            found += more
            if rest is None:
                break
            query = query.beyond(rest)
        return Page(tuple(summary for _, summary in found), None if rest is None else cursor_after(rest))

    async def delete_batch(self, ids: Sequence[str], /, *, scope: str = "") -> dict[str, Any]:
        """Delete 1 to 100 instances: a dict of `deleted`, a list of `{id}`, and `errors`, of `{id, code, message}`.

        Each place in `ids` is answered in one of the two; what is named twice is deleted once, and told of twice.
        """
        check_name(scope, what="scope")
        if not isinstance(ids, Sequence) or isinstance(ids, str | bytes) or not 1 <= len(ids) <= MAX_BATCH:
            raise ValueError(f"a batch is a list of 1 to {MAX_BATCH} ids of instances to delete")
        distinct = list(dict.fromkeys(name for name in ids if isinstance(name, str)))
        ends = await asyncio.gather(*(self._delete(name, scope) for name in distinct))
        outcome = dict(zip(distinct, ends, strict=True))
        deleted: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for name in ids:
            error = outcome[name] if isinstance(name, str) else await self._delete(name, scope)
            if error is None:
                deleted.append({"id": name})
            else:
                errors.append(_refusal(name, error))
        return {"deleted": deleted, "errors": errors}

    async def _delete(self, name: Any, scope: str) -> EngineError | None:
        try:
            await self._controls.delete(Address(self.name, scope, check_known_id(name)))
        except EngineError as error:
            return error
        return None

    async def bulk(self, action: str, /, *, scope: str | None = None, **filters: Any) -> dict[str, int]:
        """Do one thing to every instance that fits the filters of `list`, among those that exist now: "pause",
        "resume", "terminate", "restart" or "delete".

        A dict of `done`, and `skipped`: how many had ended, or had gone, before their turn came.
        """
        if action not in BULK_ACTIONS:
            raise ValueError(f"{action!r:.40} cannot be done in bulk; what can is {', '.join(BULK_ACTIONS)}")
        query, done, skipped = self._query(scope, filters, None), 0, 0
        rest: int | None = 0
        while rest is not None:
            found, rest = await self._scheduler.reader.ask(Catalogue.search, self.name, query, BULK_CHUNK)
            addresses = [Address(self.name, summary.scope, summary.id) for _, summary in found]
            ended = await asyncio.gather(*(self._one_of_many(action, address) for address in addresses))
            done += sum(ended)
            skipped += len(ended) - sum(ended)
            query = query if rest is None else query.beyond(rest)
        return {"done": done, "skipped": skipped}

    async def _one_of_many(self, action: str, address: Address) -> bool:
        while True:
            try:
                await getattr(Instance(self._controls, address), action)()
            except (InstanceFinished, InstanceNotFound):
                return False
            except CreationRateExceeded as error:
                await self._scheduler.clock.sleep((error.retry_after_ms or 0) / 1000)
            else:
                return True

    async def add_schedule(self, schedule: Schedule | str, /) -> None:
        """Have instances created by the clock from now on, also by the hosts to come, until it is removed; durable on
        return. `InvalidSchedule` if there is one of its name in its scope, or if that has 100.
        """
        await self._scheduler.timetable.add(schedule if isinstance(schedule, Schedule) else Schedule(schedule))

    async def remove_schedule(self, schedule: Schedule | str, /, *, scope: str = "") -> None:
        """Take away one that was added: itself, or its `name`. What it has created goes on."""
        place = (schedule.scope, schedule.name) if isinstance(schedule, Schedule) else (scope, schedule)
        await self._scheduler.timetable.remove(*(check_name(each, what="scope or schedule") for each in place))

    async def schedules(self, *, scope: str | None = None) -> builtins.list[Schedule]:
        """Those there are, given at registration or added; of one scope, or of all."""
        return await self._scheduler.timetable.listed(scope)

    def _read(self, options: Mapping[str, Any]) -> Creation:
        return Creation.read(options, longest_ms=self.longest_retention_ms)

    def _query(self, scope: str | None, filters: Mapping[str, Any], cursor: str | None) -> Query:
        if scope is not None:
            check_name(scope, what="scope")
        return Query.read(scope, **filters, cursor=cursor)

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r}>"


def _alike(options: Mapping[str, Any]) -> Any:
    """The list of options that the object form of a batch stands for."""
    if ("instances" in options) == ("count" in options):
        raise ValueError("a batch as a dict has either `instances`, a list, or `count`")
    if "instances" in options:
        return options["instances"]
    count = options["count"]
    if type(count) is not int or not 1 <= count <= MAX_BATCH:
        raise ValueError(f"`count` is a whole number from 1 to {MAX_BATCH}, not {count!r:.40}")
    return [{name: value for name, value in options.items() if name not in {"count", "id"}}] * count


def _id_of(entry: Any) -> Any:
    return entry.get("id") if isinstance(entry, Mapping) else None


def _refusal(name: Any, error: EngineError) -> dict[str, Any]:
    return {"id": name if isinstance(name, str) else None, "code": type(error).__name__, "message": str(error)}
