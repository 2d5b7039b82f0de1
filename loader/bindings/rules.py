"""Which places a tenant may reach, and with which headers of the host's: values, and one function from a URL to a rule.

A URL is taken apart once. What was checked is what the connection is made from, so no two readers can disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from ..http.headers import Malformed, headers
from .secrets import SecretText

FRAMING: Final = frozenset(
    "connection content-length expect host keep-alive proxy-authorization proxy-connection te trailer transfer-encoding"
    " upgrade".split()
)
"""Headers that neither a tenant nor a rule has a say in."""

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(
    r"[a-z0-9_]([a-z0-9_\-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_\-]*[a-z0-9_])?)*|[0-9a-f:.]*:[0-9a-f:.]*"
)
_MOST_URL: Final = 16_384
_MOST_HOST: Final = 253
_MANY_WAYS: Final = re.compile(r"//|%2f|%5c|\\|(^|/)(\.|%2e){1,2}(/|;|$)", re.IGNORECASE)
"""What makes a path another one for some servers, and not for others."""
_SAFE: Final = "!#$%&'()*+,/:;=?@[]~"


class Place(NamedTuple):
    """A URL taken apart. `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port, the port where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def url(self) -> str:
        """All of it."""
        return self.origin + self.target


def place(url: str) -> Place:
    """Take a URL apart. `TypeError` if there is more than one way to."""
    if len(url) > _MOST_URL:
        raise TypeError(f"a URL has at most {_MOST_URL:,} characters; this one has {len(url):,}")
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise TypeError(f"Invalid URL: {url!r:.200}")
    try:
        parts = urlsplit(url)
        port = parts.port
        name = (parts.hostname or "").rstrip(".")
        host = name.encode("idna").decode("ascii").lower() if len(name) <= _MOST_HOST else ""  # no name is longer
    except (ValueError, UnicodeError) as error:
        raise TypeError(f"Invalid URL: {url!r:.200}") from error
    if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or port == 0:
        raise TypeError(f"Invalid URL: {url!r:.200}")
    if "@" in parts.netloc:
        raise TypeError("a URL with a user and a password is not fetched; send an Authorization header")
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return Place(parts.scheme, host, port or _PORTS[parts.scheme], (quote(parts.path, safe=_SAFE) or "/") + query)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One place that may be reached.

    `origin` is a scheme, a host and perhaps a port: `https://api.example.com`, `https://*.example.com` for what is
    below a domain, `https://*` for every host. `paths` are those that are allowed, or, with a `*` at the end, what
    begins so: `("/v1/orders", "/v1/items/*")`; none means all. `headers` are added to each request, over the tenant's:
    text, or what `secret_header` gives, which the tenant never sees unless the place itself tells it. `private`: it may
    lead to addresses that are not public.
    """

    origin: str
    methods: tuple[str, ...] = ()
    """Those that are allowed; none means all."""
    paths: tuple[str, ...] = ()
    headers: Mapping[str, str | SecretText] = field(default_factory=dict)
    private: bool = False
    _known: tuple[str, str, int] = field(init=False, repr=False, compare=False, default=("", "", 0))

    def __post_init__(self) -> None:
        scheme, separator, rest = self.origin.partition("://")
        wild = rest.startswith("*")
        host = rest.removeprefix("*").removeprefix(".") if wild else rest
        try:
            known = place(f"{scheme}://{host if host and not host.startswith(':') else f'any{host}'}")
        except TypeError:
            known = None  # told below
        if not rest or not separator or known is None or known.target != "/" or rest.endswith("/"):
            raise ValueError(
                f"a rule's origin is like https://example.com or https://*.example.com, not {self.origin!r}"
            )
        every = rest == "*" or rest.startswith("*:")
        if every and any(isinstance(value, SecretText) for value in self.headers.values()):
            raise ValueError(f"{self.origin} is every host, the tenant's own too, and a secret would be told to it")
        self._check_headers()
        if not isinstance(self.methods, tuple):
            raise ValueError(f"methods of a rule are a tuple of names, like ('GET', 'HEAD'), not {self.methods!r}")
        object.__setattr__(self, "methods", tuple(method.upper() for method in self.methods))
        if not isinstance(self.paths, tuple):
            raise ValueError(f"paths of a rule are a tuple, like ('/v1/items/*',), not {self.paths!r}")
        for path in self.paths:
            if not path.startswith("/") or "*" in path[:-1] or "?" in path or _MANY_WAYS.search(path):
                raise ValueError(f"a path of a rule is like /v1/orders or /v1/items/*, not {path!r}")
        pattern = "*" if every else f"*.{known.host}" if wild else known.host
        object.__setattr__(self, "_known", (scheme, pattern, known.port))

    def _check_headers(self) -> None:
        for name, value in self.headers.items():
            if name.lower() in FRAMING:
                raise ValueError(f"the header {name!r} says how a request is sent, and cannot be a rule's")
            try:
                headers({name: value._reveal if isinstance(value, SecretText) else value})
            except Malformed as error:
                told = f"{name!r}: {value!r}" if isinstance(value, SecretText) else str(error)
                raise ValueError(f"a rule's header cannot be sent: {told}") from None

    def fits(self, where: Place) -> bool:
        """Whether it is this place's."""
        scheme, pattern, port = self._known
        wild = pattern == "*" or (pattern.startswith("*.") and where.host.endswith(pattern[1:]))
        return (scheme, port) == (where.scheme, where.port) and (wild or pattern == where.host)

    def leads_to(self, target: str) -> bool:
        """Whether a path is among those that are allowed. One that could be read in two ways never is."""
        path = target.partition("?")[0]
        return not self.paths or (
            not _MANY_WAYS.search(path)
            and any(path.startswith(one[:-1]) if one.endswith("*") else path == one for one in self.paths)
        )


def find(rules: Sequence[Rule], where: Place, method: str) -> Rule:
    """The first rule that fits. `PermissionError` says what does not."""
    fitting = [rule for rule in rules if rule.fits(where)]
    if not fitting:
        raise PermissionError(f"{where.origin} is not among the places that this worker may reach")
    leading = [rule for rule in fitting if rule.leads_to(where.target)]
    if not leading:
        raise PermissionError(
            f"{where.target.partition('?')[0]:.200} is not among the paths that are allowed at {where.origin}"
        )
    for rule in leading:
        if not rule.methods or method in rule.methods:
            return rule
    raise PermissionError(f"{method} is not allowed at {where.origin}")
