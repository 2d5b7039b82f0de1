"""`js.crypto`: what is random, hashes, and keys that sign, encrypt and make others.

HMAC, PBKDF2 and HKDF are done here, by the standard library. Every other kind of key is the business of `ciphers`,
which needs a package of the runtime profile's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cloister.sandbox.guest.conversions import JsException, JsMap
from cloister.sandbox.guest.readers import Piece

_DERIVE: Final = ("PBKDF2", "HKDF")


class CryptoKey:
    """A key, and what it may be used for."""

    __module__ = "js"

    def __init__(
        self, type: str, algorithm: Mapping[str, Any], usages: Sequence[str], extractable: bool, material: Any  # noqa: A002
    ) -> None:  # fmt: skip
        self.type, self.algorithm, self.extractable = type, JsMap(algorithm), bool(extractable)
        self.usages, self.material = list(usages), material

    def __repr__(self) -> str:
        return f"[object CryptoKey: {self.algorithm.name}]"

    def to(self, use: str) -> Any:
        """What it is made of, for one use. An error if it may not be used so."""
        if use not in self.usages:
            raise refused("InvalidAccessError", f"the key is not to {use}: its usages are {', '.join(self.usages)}")
        return self.material


def refused(name: str, words: str) -> JsException:
    """An error with a name of JavaScript's."""
    return JsException(name, words)


def described(algorithm: Any) -> JsMap:
    """An algorithm that is said by its name, or by a map with more."""
    known = JsMap({"name": algorithm} if isinstance(algorithm, str) else algorithm)
    known["name"] = str(known.get("name"))
    known["hash"] = (said if isinstance(said := known.get("hash"), str | None) else said["name"]) or None
    return known


def hashed(name: str | None) -> str:
    """The name of a hash as `hashlib` has it. An error for what is none."""
    plain = (name or "").replace("-", "").lower()
    if plain not in {"md5", "sha1", "sha256", "sha384", "sha512"}:
        raise refused("NotSupportedError", f"{name!r} is no hash that is known here")
    return plain


def unpadded(data: bytes) -> str:
    """Bytes as keys in JSON have them."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def padded(text: str) -> bytes:
    """The reverse."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _others() -> Any:
    from . import ciphers

    return ciphers


class SubtleCrypto:
    """`js.crypto.subtle`."""

    __module__ = "js"

    async def digest(self, algorithm: Any, data: Any) -> Piece:
        """The hash of bytes."""
        return Piece(hashlib.new(hashed(described(algorithm).name), bytes(data)).digest())

    def timingSafeEqual(self, a: Any, b: Any) -> bool:  # noqa: N802 - the names of JavaScript, from here on
        """Whether two are the same, found out in a time that does not tell where they differ."""
        if len(a) != len(b):
            raise TypeError("Input buffers must have the same byte length")
        return hmac.compare_digest(bytes(a), bytes(b))

    async def importKey(  # noqa: N802
        self, format: str, data: Any, algorithm: Any, extractable: bool = False, usages: Sequence[str] = ()  # noqa: A002
    ) -> CryptoKey:  # fmt: skip
        """A key from bytes, `raw`, `pkcs8` or `spki`, or from a map, `jwk`."""
        known = described(algorithm)
        if known.name != "HMAC" and known.name not in _DERIVE:
            return _others().imported(format, data, known, extractable, usages)  # type: ignore[no-any-return]
        if format not in {"raw", "jwk"} or (format == "jwk" and known.name != "HMAC"):
            raise refused("NotSupportedError", f"a key of {known.name} is not imported as {format!r}")
        if known.name == "HMAC":
            hashed(known.hash)
        return CryptoKey("secret", known, usages, extractable, padded(data["k"]) if format == "jwk" else bytes(data))

    async def exportKey(self, format: str, key: CryptoKey) -> Any:  # noqa: A002, N802
        """The reverse, for a key that is `extractable`."""
        if not key.extractable:
            raise refused("InvalidAccessError", "the key is not extractable")
        if not isinstance(key.material, bytes):
            return _others().exported(format, key)
        if format == "raw":
            return Piece(key.material)
        return JsMap(kty="oct", k=unpadded(key.material), ext=True, key_ops=key.usages)

    async def generateKey(  # noqa: N802
        self, algorithm: Any, extractable: bool = False, usages: Sequence[str] = ()
    ) -> Any:
        """A new key, or a pair of them as `privateKey` and `publicKey`."""
        known = described(algorithm)
        if known.name != "HMAC":
            return _others().generated(known, extractable, usages)
        length = (known.get("length") or hashlib.new(hashed(known.hash)).block_size * 8) // 8
        return CryptoKey("secret", known, usages, extractable, secrets.token_bytes(length))

    async def sign(self, algorithm: Any, key: CryptoKey, data: Any) -> Piece:
        """The signature of bytes."""
        material = key.to("sign")
        if key.algorithm.name == "HMAC":
            return Piece(hmac.digest(material, bytes(data), hashed(key.algorithm.hash)))
        return Piece(_others().signed(described(algorithm), key, bytes(data)))

    async def verify(self, algorithm: Any, key: CryptoKey, signature: Any, data: Any) -> bool:
        """Whether it is the signature of bytes."""
        material = key.to("verify")
        if key.algorithm.name == "HMAC":
            expected = hmac.digest(material, bytes(data), hashed(key.algorithm.hash))
            return hmac.compare_digest(expected, bytes(signature))
        return bool(_others().verified(described(algorithm), key, bytes(signature), bytes(data)))

    async def encrypt(self, algorithm: Any, key: CryptoKey, data: Any) -> Piece:
        """Bytes that nobody reads without the key."""
        return Piece(_others().encrypted(described(algorithm), key, bytes(data)))

    async def decrypt(self, algorithm: Any, key: CryptoKey, data: Any) -> Piece:
        """The reverse."""
        return Piece(_others().decrypted(described(algorithm), key, bytes(data)))

    async def deriveBits(self, algorithm: Any, key: CryptoKey, length: int) -> Piece:  # noqa: N802
        """As many bits as are asked for, made of a key."""
        if "deriveBits" not in key.usages and "deriveKey" not in key.usages:
            key.to("deriveBits")
        known = described(algorithm)
        if known.name not in _DERIVE:
            raise refused("NotSupportedError", f"{known.name} derives nothing here: PBKDF2 and HKDF do")
        derive: Callable[..., bytes] = _pbkdf2 if known.name == "PBKDF2" else _hkdf
        return Piece(derive(hashed(known.hash), key.material, known, length // 8))

    async def deriveKey(  # noqa: N802
        self, algorithm: Any, key: CryptoKey, kind: Any, extractable: bool = False, usages: Sequence[str] = ()
    ) -> CryptoKey:
        """A key made of another one."""
        length = described(kind).get("length") or 256
        return await self.importKey(
            "raw", await self.deriveBits(algorithm, key, length), kind, extractable, usages
        )  # fmt: skip


def _pbkdf2(name: str, secret: bytes, known: JsMap, length: int) -> bytes:
    return hashlib.pbkdf2_hmac(name, secret, bytes(known.salt), int(known.iterations), length)


def _hkdf(name: str, secret: bytes, known: JsMap, length: int) -> bytes:
    """RFC 5869."""
    size = hashlib.new(name).digest_size
    if length > 255 * size:
        raise refused("OperationError", f"HKDF makes {255 * size} bytes at most of this hash")
    made = hmac.digest(bytes(known.get("salt") or b"") or bytes(size), secret, name)
    block, blocks = b"", []
    for number in range(1, math.ceil(length / size) + 1):
        block = hmac.digest(made, block + bytes(known.get("info") or b"") + bytes([number]), name)
        blocks.append(block)
    return b"".join(blocks)[:length]


class Crypto:
    """`js.crypto`."""

    __module__ = "js"
    subtle = SubtleCrypto()

    @staticmethod
    def randomUUID() -> str:  # noqa: N802
        """A UUID."""
        return str(uuid.uuid4())

    @staticmethod
    def getRandomValues(array: Any) -> Any:  # noqa: N802
        """As many bytes, random."""
        return type(array)(secrets.token_bytes(len(bytes(array)))) if isinstance(array, bytes) else Piece(
            secrets.token_bytes(len(array))
        )  # fmt: skip


crypto = Crypto()
