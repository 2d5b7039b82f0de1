"""Secrets that a tenant can use and never read: to sign and to check signatures, and as headers of what it fetches."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from cloister.ipc import RpcTarget

from ..http.headers import UNSENDABLE

_ALGORITHMS: Final = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
_MOST_BYTES: Final = 8 * 1024 * 1024


class SecretText:
    """A text that holds a secret. It shows itself to nobody but who sends it."""

    __slots__ = ("_reveal", "name")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._reveal = text

    def __repr__(self) -> str:
        return f"<a text that holds the secret {self.name!r}>"


class Secrets(RpcTarget):
    """`env={"SECRETS": Secrets({"WEBHOOK": "..."})}`: the tenant has `sign` and `verify`, by name.

    The host gives secrets to a `Fetcher` with `secret_header`. Names are no secret.
    """

    def __init__(self, given: Mapping[str, str | bytes]) -> None:
        for name, value in given.items():
            if not isinstance(value, str | bytes):
                raise TypeError(f"the secret {name!r} is {type(value).__name__}; it must be text or bytes")
            if not value:
                raise ValueError(f"the secret {name!r} is empty")
        self._kept = {name: value.encode() if isinstance(value, str) else value for name, value in given.items()}

    def names(self) -> list[str]:
        """Which there are."""
        return sorted(self._kept)

    def sign(self, name: str, data: str | bytes, algorithm: str = "sha256") -> str:
        """The HMAC of some data, in hexadecimal digits."""
        return self._digest(name, data, algorithm).hex()

    def verify(self, name: str, data: str | bytes, signature: str | bytes, algorithm: str = "sha256") -> bool:
        """Whether that is its HMAC, in hexadecimal digits or as bytes; told in a time that tells nothing else."""
        expected = self._digest(name, data, algorithm)
        if isinstance(signature, str):
            return hmac.compare_digest(expected.hex().encode(), signature.lower().encode("utf-8", "replace"))
        return isinstance(signature, bytes) and hmac.compare_digest(expected, signature)

    def _text(self, name: str, form: str = "{}") -> SecretText:
        value = self._named(name).decode("latin-1")
        if UNSENDABLE.search(value) or value != value.strip():
            raise ValueError(f"the secret {name!r} cannot be a header: it holds what none can, or a blank end")
        return SecretText(name, form.replace("{}", value))

    def _named(self, name: object) -> bytes:
        if not isinstance(name, str) or name not in self._kept:
            raise ValueError(f"there is no secret {name!r:.80}; there are {', '.join(self.names()) or 'none'}")
        return self._kept[name]

    def _digest(self, name: str, data: object, algorithm: object) -> bytes:
        key = self._named(name)
        if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
            raise ValueError(f"algorithm is one of {', '.join(_ALGORITHMS)}, not {algorithm!r:.40}")
        if not isinstance(data, str | bytes):
            raise TypeError(f"text or bytes are signed, not {type(data).__name__}")
        plain = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        if len(plain) > _MOST_BYTES:
            raise ValueError(f"at most {_MOST_BYTES:,} bytes are signed at once")
        return hmac.digest(key, plain, _ALGORITHMS[algorithm])


def secret_header(secrets: Secrets, name: str, form: str = "{}") -> SecretText:
    """A secret in a header of a `Rule`: `secret_header(secrets, "API_KEY", "Bearer {}")`. For the host alone."""
    return secrets._text(name, form)
