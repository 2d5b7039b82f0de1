"""`workers`: what a tenant's program imports. Source-compatible with Cloudflare's Python SDK.

What few programs use is loaded when it is first asked for, from the library in memory.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from cloister.ipc.errors import CapabilityError

from .. import scope
from ..entrypoints import RpcTarget, WorkerEntrypoint, WorkflowEntrypoint

__all__ = ["Blob", "BlobEnding", "BlobValue", "Body", "CapabilityError", "Context", "DurableObject", "FetchKwargs",
           "FetchResponse", "File", "FormData", "FormDataValue", "HTMLRewriter", "Headers", "JSBody", "Request",
           "RequestInitCfProperties", "Response", "RpcTarget", "WorkerEntrypoint", "WorkflowEntrypoint", "env", "fetch",
           "handler", "import_from_javascript", "patch_env", "python_from_rpc", "python_to_rpc", "waitUntil",
           "wait_until"]  # fmt: skip

_GUEST: Final = __name__.rpartition(".")[0]
_LATER: Final = {
    f"{_GUEST}.http": "FetchResponse Headers Request Response fetch",
    f"{_GUEST}.blobs": "Blob BlobEnding File",
    f"{_GUEST}.forms": "FormData",
    f"{_GUEST}.rewriter": "HTMLRewriter",
    f"{_GUEST}.objects": "DurableObject",
    "workers.types": "BlobValue Body Context FetchKwargs FormDataValue JSBody RequestInitCfProperties Buffer Cursor"
    " DurableObjectId DurableObjectState DurableObjectStorage Duration Env HeadersInit JsDict KeyStorage Moment"
    " ReceivedEvent Retries Schedule"
    " SqlStorage Step StepConfig StepContext StepInfo Stream WebSocket WorkflowEvent WorkflowStep",
    "workers.rpc": "python_from_rpc python_to_rpc",
    "workers.utils": "handler import_from_javascript patch_env",
}


def __getattr__(name: str) -> Any:
    if name == "env":
        return scope.env()
    if name in {"wait_until", "waitUntil"}:
        return scope.wait_until
    for module, names in _LATER.items():
        if name in names.split():
            found = globals()[name] = getattr(importlib.import_module(module), name)
            return found
    raise AttributeError(f"module 'workers' has no attribute {name!r}")
