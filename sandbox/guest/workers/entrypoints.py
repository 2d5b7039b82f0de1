"""`workers.entrypoints`: the classes that a program derives from."""

from __future__ import annotations

from cloister.sandbox.guest.entrypoints import WorkerEntrypoint, WorkflowEntrypoint

__all__ = ["WorkerEntrypoint", "WorkflowEntrypoint"]
