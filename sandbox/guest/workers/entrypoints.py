"""`workers.entrypoints`: the classes that a program derives from."""

from __future__ import annotations

from cloister.sandbox.guest.entrypoints import WorkerEntrypoint, WorkflowEntrypoint
from cloister.sandbox.guest.objects import DurableObject
from cloister.sandbox.guest.objects import ObjectAborted as DurableObjectAbort
from cloister.sandbox.guest.objects import State as DurableObjectContext

__all__ = ["DurableObject", "DurableObjectAbort", "DurableObjectContext", "WorkerEntrypoint", "WorkflowEntrypoint"]
