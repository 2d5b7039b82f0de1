"""`workers._workers`: where Cloudflare's SDK keeps what `workers` has, and the classes that surround a program."""

from __future__ import annotations

import importlib
from typing import Any

from cloister.sandbox.guest.objects import State as DurableObjectContext
from cloister.sandbox.guest.scope import Env as _EnvWrapper

_EnvWrapper._env = DurableObjectContext._ctx = None  # type: ignore[attr-defined]  # there is nothing that they wrap

__all__ = ["DurableObjectContext", "_EnvWrapper"]


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("workers"), name)
