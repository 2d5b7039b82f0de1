"""`workers`: what a tenant's program imports. Source-compatible with Cloudflare's Python SDK for what is here."""

from __future__ import annotations

from typing import Any

from cloister.ipc.errors import CapabilityError

from .. import scope
from ..entrypoints import RpcTarget, WorkerEntrypoint, WorkflowEntrypoint

__all__ = ["CapabilityError", "Headers", "Request", "Response", "RpcTarget", "WorkerEntrypoint", "WorkflowEntrypoint",
           "env", "fetch", "waitUntil", "wait_until"]  # fmt: skip
_LATER = frozenset({"FetchResponse", "Headers", "Request", "Response", "fetch"})


def __getattr__(name: str) -> Any:
    if name == "env":
        return scope.env()
    if name in {"wait_until", "waitUntil"}:
        return scope.wait_until
    if name in _LATER:
        from .. import http

        found = globals()[name] = getattr(http, name)
        return found
    raise AttributeError(f"module 'workers' has no attribute {name!r}")
