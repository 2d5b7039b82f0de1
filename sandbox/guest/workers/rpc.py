"""`workers.rpc`: what a value becomes on its way to another worker, and what is sent when it arrives.

There is no JavaScript to convert to, so both ways give what the other side would see.
"""

from __future__ import annotations

from typing import Any

from cloister.ipc import values
from cloister.ipc.capabilities import RpcTarget
from cloister.ipc.stubs import Stub
from cloister.sandbox.guest.values import JsDict

_AS_IT_IS = (str, bytes, int, float, bool, type(None), RpcTarget, Stub, Exception)


def python_to_rpc(value: Any) -> Any:
    """The value as another worker would get it. `TypeError` for what Cloudflare's SDK refuses to send."""
    if isinstance(value, tuple | bytearray):
        raise TypeError(f"{type(value)} cannot be sent over RPC.")
    if isinstance(value, dict):
        return JsDict({key if isinstance(key, str) else str(key): python_to_rpc(item) for key, item in value.items()})
    if isinstance(value, list):
        return [python_to_rpc(item) for item in value]
    if isinstance(value, _AS_IT_IS) or callable(value):
        return value
    return values.loads(values.dumps(value), hook=JsDict, trusted=True)


def python_from_rpc(value: Any) -> Any:
    """The value: it arrived as one of Python's."""
    return value
