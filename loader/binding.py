"""A workflow binding that belongs to one tenant: it tags what it creates, and sees nothing but its own.

The host uses it as an object; a tenant uses it as a capability, under Cloudflare's names or Python's. Params, payloads
and outputs of a tenant pass through as the bytes they are.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, overload

from cloister.engine import (
    Child,
    Encoded,
    Page,
    Schedule,
    Workflow,
)
from cloister.engine.options import together
from cloister.engine.rules import MAX_PAYLOAD
from cloister.engine.workflow import MAX_BATCH
from cloister.ipc import PayloadError, values

from .answers import Answering, Parts, only, read_options
from .dispatch import wrap
from .instance import DynamicInstance

_WITHIN: Final = "\ufdd0"
"""Stands between the scopes of nested bindings. It is no character, so no scope is another's by chance."""


def wrap_workflow_binding(
    workflow: Workflow | DynamicWorkflowBinding | Callable[[], Workflow],
    metadata: Mapping[str, Any],
    *,
    scope: str | None = None,
) -> DynamicWorkflowBinding:
    """A binding for one tenant. `metadata` comes back to `load_runner` with each run, and is stored in plain view.

    `scope` is what the binding can see, `metadata["tenant_id"]` if it is not given; one of the two must exist. A
    function given for `workflow` is called anew for each use. Around a binding that is wrapped already, envelope and
    scope nest: for a tenant that is a dispatcher itself.
    """
    if scope is None:
        scope = metadata.get("tenant_id") if isinstance(metadata, Mapping) else None
    if not isinstance(scope, str) or not scope or _WITHIN in scope:
        raise ValueError(
            "wrap_workflow_binding() needs a scope: either metadata['tenant_id'] or scope=..., text that is not empty. "
            "Without one, tenants would see each other's instances."
        )
    alone = type(metadata) is dict and metadata == {"tenant_id": scope}
    encoded = _naming(scope) if alone else _checked(metadata)
    if isinstance(workflow, DynamicWorkflowBinding):
        return workflow.nested(encoded, scope)
    return DynamicWorkflowBinding(workflow, (encoded,), scope)


def _checked(metadata: Mapping[str, Any]) -> bytes:
    encoded = values.dumps(metadata)
    try:
        values.scan(encoded)
    except PayloadError as error:
        raise ValueError(f"metadata that could not be read back: {error}") from error
    if len(encoded) > MAX_PAYLOAD:
        raise ValueError(f"metadata takes {len(encoded):,} bytes; at most {MAX_PAYLOAD:,} are put around params")
    return encoded


@functools.lru_cache(1024)
def _naming(tenant_id: str) -> bytes:
    """The metadata that says nothing but whose instances they are, as most does."""
    return values.dumps({"tenant_id": tenant_id})  # which can be read back, whatever text it is


def wrap_schedule(schedule: Schedule, metadata: Mapping[str, Any]) -> Schedule:
    """The same schedule for one tenant: metadata around its params, and the scope of the tenant.

    That is the schedule's own `scope`, or else `metadata["tenant_id"]`. Register it where the workflow is registered.
    """
    binding = wrap_workflow_binding(_unbound, metadata, scope=schedule.scope or None)
    wrapped = binding.wrapped({"params": schedule.params})
    return dataclasses.replace(schedule, scope=binding.scope, params=wrapped["params"])


def _unbound() -> Workflow:
    raise AssertionError("a schedule is wrapped without a workflow")


class DynamicWorkflowBinding(Answering):
    """See `wrap_workflow_binding`."""

    def __init__(self, workflow: Workflow | Callable[[], Workflow], layers: tuple[bytes, ...], scope: str) -> None:
        self._workflow = workflow
        self._layers = layers  # the metadata of each envelope, from the inside out
        self.scope = scope

    def nested(self, metadata: bytes, scope: str) -> DynamicWorkflowBinding:
        """A binding within this one."""
        return DynamicWorkflowBinding(self._workflow, (metadata, *self._layers), f"{self.scope}{_WITHIN}{scope}")

    async def create(self, options: Mapping[str, Any] | None = None, /, **more: Any) -> DynamicInstance:
        """Create an instance of this tenant's. See `cloister.engine.Workflow.create` for the options."""
        return DynamicInstance(await self._raw().create(self.wrapped(together(options, more)), scope=self.scope))

    def child(self, options: Mapping[str, Any]) -> Child:
        """What is created and awaited by a step: an instance of this tenant's."""
        return self._raw().child(self.wrapped(options), scope=self.scope)

    async def allowed(self) -> None:
        """Wait until this tenant may create one more instance, and count it."""
        await self._raw().allowed(self.scope)

    @overload
    async def create_batch(self, entries: Sequence[Mapping[str, Any]], /) -> list[DynamicInstance]: ...
    @overload
    async def create_batch(self, entries: Mapping[str, Any], /) -> dict[str, Any]: ...

    async def create_batch(
        self, entries: Sequence[Mapping[str, Any]] | Mapping[str, Any], /
    ) -> list[DynamicInstance] | dict[str, Any]:
        """Create up to 100, from a list or from a dict. See `cloister.engine.Workflow.create_batch`."""
        if not isinstance(entries, Mapping):
            wrapped = [self.wrapped(entry) for entry in entries]
            return [DynamicInstance(made) for made in await self._raw().create_batch(wrapped, scope=self.scope)]
        listed = entries.get("instances")
        if isinstance(listed, Sequence) and not isinstance(listed, str | bytes):
            options = {**entries, "instances": [self.wrapped(entry) for entry in listed]}
        else:
            options = self.wrapped(entries)
        answer = await self._raw().create_batch(options, scope=self.scope)
        return {**answer, "created": [DynamicInstance(made) for made in answer["created"]]}

    async def list(self, **options: Any) -> Page:
        """This tenant's instances, newest first. See `cloister.engine.Workflow.list` for filters and cursor."""
        return await self._raw().list(scope=self.scope, **options)

    async def delete_batch(self, ids: Sequence[str], /) -> dict[str, Any]:
        """Delete up to 100 of this tenant's. See `cloister.engine.Workflow.delete_batch`."""
        return await self._raw().delete_batch(ids, scope=self.scope)

    async def bulk(self, action: str, /, **filters: Any) -> dict[str, int]:
        """Do one thing to all of this tenant's that fit. See `cloister.engine.Workflow.bulk`."""
        return await self._raw().bulk(action, scope=self.scope, **filters)

    async def add_schedule(self, schedule: Schedule, /) -> None:
        """Have this tenant's instances created by the clock. See `cloister.engine.Workflow.add_schedule`."""
        params = self.wrapped({"params": schedule.params})["params"]
        await self._raw().add_schedule(dataclasses.replace(schedule, scope=self.scope, params=params))

    async def remove_schedule(self, name: str, /) -> None:
        """Take away one of this tenant's that was added."""
        await self._raw().remove_schedule(name, scope=self.scope)

    async def schedules(self) -> builtins.list[Schedule]:
        """This tenant's; their params have the envelope around them."""
        return await self._raw().schedules(scope=self.scope)

    async def get(self, id: str) -> DynamicInstance:  # noqa: A002 - the name it has everywhere
        """One of this tenant's instances. Another's, and one that never was, are told of in the same words."""
        return DynamicInstance(await self._raw().get(id, scope=self.scope))

    def handle(self, id: str) -> DynamicInstance:  # noqa: A002
        """The same without a look. See `cloister.engine.Workflow.handle`."""
        return DynamicInstance(self._raw().handle(id, scope=self.scope))

    def _raw(self) -> Workflow:
        return (
            self._workflow()
            if not isinstance(self._workflow, Workflow) and callable(self._workflow)
            else self._workflow
        )

    def wrapped(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with the envelopes of this binding around their params."""
        if type(options) is not dict and not isinstance(options, Mapping):
            raise TypeError(f"the options of an instance are a dict, not {type(options).__name__}")
        params = options.get("params")
        encoded = params if isinstance(params, Encoded) else Encoded(values.dumps(params))
        for metadata in self._layers:
            encoded = wrap(metadata, encoded)
        return {**options, "params": encoded}

    async def _create(self, args: Parts, named: dict[str, bytes]) -> DynamicInstance:
        return await self.create(read_options([*args[:1], values.join(named)]))

    async def _create_batch(self, args: Parts, named: dict[str, bytes]) -> Any:
        given = args or [values.join(named)]
        entries = values.split(given[0]) if len(given) == 1 and not (args and named) else None
        if isinstance(entries, list):
            return await self.create_batch([read_options([entry]) for entry in _few(entries)])
        if not isinstance(entries, dict) or not entries:
            raise TypeError("create_batch() takes one list of instances to create, or a dict of `instances` or `count`")
        listed = entries.pop("instances", None)
        options = read_options([values.join(entries)])
        if listed is not None:
            options["instances"] = [read_options([entry]) for entry in _listed(listed)]
        return await self.create_batch(options)

    async def _list(self, args: Parts, named: dict[str, bytes]) -> dict[str, Any]:
        page = await self.list(**_filters([*args[:1], values.join(named)], {"limit", "cursor"}))
        return {"instances": [summary.plain() for summary in page.instances], "cursor": page.cursor}

    async def _delete_batch(self, args: Parts, named: dict[str, bytes]) -> dict[str, Any]:
        return await self.delete_batch(only(args, named, "ids"))

    async def _bulk(self, args: Parts, named: dict[str, bytes]) -> dict[str, int]:
        if not args:
            raise TypeError("bulk() takes what to do, and filters")
        return await self.bulk(values.loads(args[0]), **_filters([*args[1:2], values.join(named)], set()))

    async def _get(self, args: Parts, named: dict[str, bytes]) -> DynamicInstance:
        return await self.get(only(args, named, "id"))

    _methods = {
        "create": _create,
        "create_batch": _create_batch,
        "createBatch": _create_batch,
        "get": _get,
        "list": _list,
        "delete_batch": _delete_batch,
        "deleteBatch": _delete_batch,
        "bulk": _bulk,
    }


def _listed(data: bytes) -> list[bytes]:
    try:
        parts = values.split(data)
    except PayloadError:
        parts = {}
    if not isinstance(parts, list):
        raise TypeError("`instances` is a list of instances to create")
    return _few(parts)


def _few(entries: list[bytes]) -> list[bytes]:
    """Entries of a batch, counted before any of them is read: the shortest takes a byte, and its envelope a hundred."""
    if not 1 <= len(entries) <= MAX_BATCH:
        raise ValueError(f"a batch is a list of 1 to {MAX_BATCH} instances to create, not {len(entries):,}")
    return entries


_FILTERS: Final = {
    "status": "status", "labels": "labels", "limit": "limit", "cursor": "cursor",
    "created_from": "created_from", "createdFrom": "created_from",
    "created_before": "created_before", "createdBefore": "created_before",
}  # fmt: skip
"""What a tenant may ask for, in either spelling. Its scope is not among it."""


def _filters(parts: Sequence[bytes], more: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in read_options(parts).items():
        known = _FILTERS.get(name)
        if known is None or (known in {"limit", "cursor"} and known not in more):
            raise TypeError(f"{name!r:.40} is no filter; there are status, labels, created_from and created_before")
        found[known] = value
    return found
