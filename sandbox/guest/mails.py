"""Messages that came by mail, as Cloudflare's Email Workers have them: read, and decided about.

What was decided the host does: it is told when the worker is done. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import email.parser
import email.policy
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from .bodies import Stream
from .handlers import wanted
from .headers import TOKEN, Headers
from .values import JsDict
from .worker import result

_WORDS: Final = "a message has `from`, `to` and `raw`, the addresses as text and all of it as text or bytes"


class EmailMessage:
    """A message to be sent: `EmailMessage.new("from@here", "to@there", raw)`."""

    __module__ = "workers"

    def __init__(self, sender: str, to: str, raw: str | bytes) -> None:
        if not isinstance(sender, str) or not isinstance(to, str) or not isinstance(raw, str | bytes):
            raise TypeError(_WORDS)
        vars(self)["from"] = self.from_ = sender
        self.to = to
        self._raw = raw.encode() if isinstance(raw, str) else bytes(raw)

    @classmethod
    def new(cls, *args: Any) -> Self:
        """One of them."""
        return cls(*args)

    @property
    def raw(self) -> Stream:
        """All of it."""
        return Stream(self._raw)


class ForwardableEmailMessage(EmailMessage):
    """A message that came. Its `headers` are read from it."""

    __module__ = "workers"

    def __init__(self, about: Mapping[str, Any]) -> None:
        super().__init__(*_parts(about))
        self.rawSize = len(self._raw)
        head = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(self._raw)
        pairs = [(name, " ".join(str(value).split())) for name, value in head.items()]
        self.headers = Headers([pair for pair in pairs if TOKEN.fullmatch(pair[0])])
        self.decided = JsDict(rejected=None, forwarded=[], replied=[])

    def setReject(self, reason: str) -> None:  # noqa: N802 - the names of the SDK
        """Whoever sent it is told that it is not taken."""
        self.decided["rejected"] = str(reason)

    async def forward(self, to: str, headers: Any = None) -> None:
        """Have it go on to another address, with headers of the worker's."""
        self.decided["forwarded"].append({"to": str(to), "headers": [[*pair] for pair in Headers(headers).items()]})

    async def reply(self, message: Any) -> None:
        """Have a message answer it."""
        if isinstance(message, Mapping):
            message = EmailMessage(*_parts(message))
        self.decided["replied"].append({"from": message.from_, "to": message.to, "raw": message._raw})


def _parts(about: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return about.get("from"), about.get("to"), about.get("raw")


async def handle(method: Callable[..., Any], about: JsDict) -> JsDict:
    """A message came: whether it is `rejected`, for which reason, and what is `forwarded` and `replied`."""
    message = ForwardableEmailMessage(about)
    await result(method, *wanted(method, [message, None, None]))
    return message.decided
