"""`workers.entrypoints`: the classes that a program derives from."""

from __future__ import annotations

from cloister.sandbox.guest.entrypoints import WorkerEntrypoint, WorkflowEntrypoint
from cloister.sandbox.guest.objects import DurableObject

__all__ = ["DurableObject", "WorkerEntrypoint", "WorkflowEntrypoint"]
