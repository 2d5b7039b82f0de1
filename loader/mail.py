"""What a worker has decided about a mail, checked: the host is to act on it, and it comes out of a sandbox.

It refuses to know how mail is sent.
"""

from __future__ import annotations

import re
from typing import Any, Final

from .errors import TenantError
from .http.headers import Malformed, headers

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def decided(answer: Any) -> dict[str, Any]:
    """`rejected`, a reason or None, `forwarded`, to whom with which headers, and `replied`, messages with `from`, `to`
    and `raw`. `TenantError` where it is anything else, or where an address or a header could not be one line."""
    match answer:
        case {"rejected": None | str() as rejected, "forwarded": list(forwarded), "replied": list(replied)}:
            try:
                return {
                    "rejected": None if rejected is None else _CONTROLS.sub(" ", rejected),
                    "forwarded": [_forwarded(each) for each in forwarded],
                    "replied": [_replied(each) for each in replied],
                }
            except Malformed as error:
                raise TenantError("Malformed", f"email() gave {error}") from error
    raise TenantError("TypeError", f"email() gave {type(answer).__name__}, which says nothing of the mail")


def _forwarded(each: Any) -> dict[str, Any]:
    match each:
        case {"to": str(to), "headers": list(pairs)}:
            return {"to": _line(to), "headers": [list(pair) for pair in headers(pairs)]}
    raise Malformed(f"a mail to be forwarded that has no address and headers: {type(each).__name__}")


def _replied(each: Any) -> dict[str, Any]:
    match each:
        case {"from": str(sender), "to": str(to), "raw": bytes(raw)}:
            return {"from": _line(sender), "to": _line(to), "raw": raw}
    raise Malformed(f"an answer without `from`, `to` and `raw`: {type(each).__name__}")


def _line(text: str) -> str:
    if _CONTROLS.search(text):
        raise Malformed(f"an address of more than one line: {text!r:.80}")
    return text
