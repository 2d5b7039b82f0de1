"""As much of JavaScript's global names as there is. See `cloister check` for which."""

from typing import Any

def __getattr__(name: str) -> Any: ...
