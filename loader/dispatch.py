"""One registered class, many tenants' code: the envelope around an instance's params says whose.

The envelope is a map of exactly two keys, made by a wrapped binding and taken off here; metadata is never merged into
the params, and the params are never read. It is a routing hint and authorises nothing: what a tenant may reach follows
from the scope of the binding it was given. After https://github.com/cloudflare/dynamic-workflows.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol

from cloister.engine import Encoded, RunPostponed, WorkflowEntrypoint, WorkflowEvent, WorkflowStep
from cloister.ipc import PayloadError, values

from .errors import MissingDispatcherMetadataError

METADATA: Final = "__dispatcherMetadata"
PARAMS: Final = "params"
_THEN: Final = values.dumps(PARAMS)
_HEAD: Final = values.join({METADATA: b"", PARAMS: b""}).removesuffix(_THEN)


class WorkflowRunner(Protocol):
    """Anything with `run(event, step)`; an `Entrypoint` is one."""

    def run(self, event: WorkflowEvent, step: WorkflowStep, /) -> Awaitable[Any]:
        """Run the workflow."""


class DispatchContext(NamedTuple):
    """What a `load_runner` gets: the metadata the binding was wrapped with, and the registered class's surroundings.

    `code_digest` is what the instance started on, None on its first run.
    """

    metadata: Any
    env: Any
    ctx: Any
    code_digest: bytes | None


LoadRunner = Callable[[DispatchContext], WorkflowRunner | Awaitable[WorkflowRunner]]


class Surroundings(Protocol):
    """What a registered class has: a `WorkflowEntrypoint` does."""

    @property
    def env(self) -> Any:
        """What the class was registered with."""

    @property
    def ctx(self) -> Any:
        """Which instance this is."""


def wrap(metadata: bytes, params: Encoded) -> Encoded:
    """The envelope, around parts that are encoded already. It takes nothing of the room that params have."""
    around = len(_HEAD) + len(metadata) + len(_THEN)
    return Encoded(b"".join((_HEAD, metadata, _THEN, params.data)), params.around + around)


def unwrap(payload: bytes) -> tuple[Any, bytes]:
    """Metadata, and the params as they are. `MissingDispatcherMetadataError` if it is no envelope."""
    try:
        parts = values.split(payload)
    except PayloadError as error:
        raise MissingDispatcherMetadataError from error
    if not isinstance(parts, dict) or METADATA not in parts or PARAMS not in parts:
        raise MissingDispatcherMetadataError
    return values.loads(parts[METADATA], trusted=True), parts[PARAMS]  # the host's own words


async def dispatch_workflow(
    context: Surroundings, event: WorkflowEvent, step: WorkflowStep, load_runner: LoadRunner
) -> Any:
    """Take the envelope off, ask `load_runner` whose code to run, and run it with its own params.

    `load_runner` may be a coroutine function and is asked anew for each run. Whatever it or the run raises is raised.
    """
    metadata, params = unwrap(event.encoded_payload)
    inner = WorkflowEvent(params, event.timestamp, event.instance_id, event.workflow_name, event.schedule)
    digest = getattr(context.ctx, "code_digest", None)
    runner = load_runner(DispatchContext(metadata, context.env, context.ctx, digest))
    if inspect.isawaitable(runner):
        runner = await runner
    return await runner.run(inner, step)


def create_dynamic_workflow_entrypoint(load_runner: LoadRunner) -> type[WorkflowEntrypoint]:
    """The one class to register with an engine.

    An exception out of `load_runner` is the host's: it interrupts the run, which is tried again, and fails no tenant.
    """

    def load(context: DispatchContext) -> WorkflowRunner | Awaitable[WorkflowRunner]:
        try:
            runner = load_runner(context)
        except Exception as error:
            raise _not_loaded(error) from error
        return loaded(runner) if inspect.isawaitable(runner) else runner

    async def loaded(runner: Awaitable[WorkflowRunner]) -> WorkflowRunner:
        try:
            return await runner
        except Exception as error:
            raise _not_loaded(error) from error

    class DynamicWorkflow(WorkflowEntrypoint):
        """Runs each instance with the code of the tenant that created it."""

        def run(self, event: WorkflowEvent, step: WorkflowStep) -> Coroutine[Any, Any, Any]:
            """The engine's question."""
            return dispatch_workflow(self, event, step, load)

    return DynamicWorkflow


def _not_loaded(error: Exception) -> RunPostponed:
    return RunPostponed(f"load_runner raised {type(error).__name__}: {error}")
