"""`workers.rpc`: what a value becomes on its way to another worker, and what is sent when it arrives.

There is no JavaScript to convert to, so both ways give what the other side would see. The names that begin with `_` are
those of Cloudflare's classes around bindings, of which its own programs ask whether an object is one.
"""

from __future__ import annotations

from typing import Any

from cloister.ipc import values
from cloister.ipc.capabilities import RpcTarget
from cloister.ipc.stubs import Stub
from cloister.sandbox.guest import bound, guises, objects, scope
from cloister.sandbox.guest.values import JsDict

_AS_IT_IS = (str, bytes, int, float, bool, type(None), RpcTarget, Stub, Exception)


class _Wrapper(type):
    """What wraps something there, and here is the thing itself."""

    kinds: tuple[type, ...]

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.kinds)

    def __call__(cls, wrapped: Any) -> Any:
        return wrapped


class _EnvWrapper(metaclass=_Wrapper):
    """The bindings of a worker."""

    kinds = (scope.Env,)


class _RpcStubWrapper(metaclass=_Wrapper):
    """A function of another worker's, or one of its objects."""

    kinds = (Stub, guises.Home)


class _FetcherWrapper(metaclass=_Wrapper):
    """Another worker, or what answers requests like one."""

    kinds = (Stub,)


class _BindingWrapper(metaclass=_Wrapper):
    """A binding, and what one gives."""

    kinds = (*_RpcStubWrapper.kinds, bound.Database, bound.Statement, bound.Object, bound.Upload,
             objects.DurableObjectNamespace)  # fmt: skip


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
