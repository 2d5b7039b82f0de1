"""`workers.types`: names for annotations. None of them is a class to make objects of."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from http import HTTPMethod
from typing import Any, Protocol, TypedDict

from cloister.sandbox.guest.blobs import Blob, File
from cloister.sandbox.guest.bodies import Stream
from cloister.sandbox.guest.forms import FormData
from cloister.sandbox.guest.headers import Headers as _Headers
from cloister.sandbox.guest.steps import WorkflowStep as WorkflowStep
from cloister.sandbox.guest.values import JsDict

JSBody = Any
Body = str | bytes | FormData | Stream
Headers = dict[str, str] | list[tuple[str, str]] | _Headers
BlobValue = str | bytes | memoryview | Blob
FormDataValue = str | Blob | File
Env = JsDict
WorkflowEvent = ReceivedEvent = Schedule = StepContext = StepInfo = StepConfig = Retries = JsDict
Step = Callable[[], Awaitable[Any]]
DurableObjectState = DurableObjectStorage = DurableObjectId = KeyStorage = SqlStorage = Cursor = WebSocket = Any
Buffer, HeadersInit = bytes, Headers
Duration = int | float | str | datetime.timedelta
Moment = int | float | datetime.datetime


class Context(Protocol):
    """What `self.ctx` has."""

    props: Any

    def waitUntil(self, awaitable: Awaitable[Any], /) -> None:  # noqa: N802 - the SDK's name
        """Let work go on after the answer."""

    def passThroughOnException(self) -> None:  # noqa: N802
        """There is nothing behind a worker here that could answer instead."""


class RequestInitCfProperties(TypedDict, total=False):
    """What may be said to Cloudflare's network, of which there is none here."""

    apps: bool
    cacheEverything: bool
    cacheKey: str
    cacheTags: list[str]
    cacheTtl: int
    cacheTtlByStatus: dict[str, int]
    mirage: bool
    polish: str
    resolveOverride: str
    scrapeShield: bool
    webp: bool


class FetchKwargs(TypedDict, total=False):
    """Options of `fetch`."""

    headers: Any
    body: Any
    method: HTTPMethod | str
    redirect: str
    cf: RequestInitCfProperties
    fetcher: Any
