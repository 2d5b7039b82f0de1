"""What arrives, or is sent, as something else than it is: messages, bindings, errors that are values, functions of this
program's own that come home. How each is made is kept with the standard library, for those who ask."""

from __future__ import annotations

import inspect
from typing import Any

from cloister.ipc.stubs import Stub


def dress(found: Any) -> Any:
    """What the host sent, as an object of the class that it says it is of."""
    if type(found) is Stub:
        if "workers.class" not in found._attributes:
            return found
        from . import http

        return http.dress(found)
    if inspect.isroutine(found):
        from . import guises

        return guises.Home(found)
    return found


def lend(subject: object) -> object:
    """What is sent in its place."""
    if not isinstance(subject, BaseException):
        return subject
    from . import guises

    return guises.Told(subject)
