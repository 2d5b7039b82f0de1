"""Keys of which the standard library knows nothing: RSA, elliptic curves and AES, as `js.crypto.subtle` has them.

The package `cryptography` does it, if the host has put it into the runtime profile: it is written in C and Rust, so no
tenant can bring it along.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cloister.sandbox.guest.conversions import JsMap
from cloister.sandbox.guest.readers import Piece

from .crypto import CryptoKey, hashed, padded, refused

try:
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.padding import PKCS7
except ImportError as error:
    raise refused(
        "NotSupportedError",
        "of keys, a sandbox by itself knows HMAC, PBKDF2 and HKDF; RSA, ECDSA, Ed25519 and AES need the package "
        'cryptography: the host has to install it, and name it in preload=("cryptography",)',
    ) from error

_CURVES: Final[dict[str, Any]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
_RSA: Final = {"RSASSA-PKCS1-v1_5", "RSA-PSS", "RSA-OAEP"}
_ED: Final = {"Ed25519", "NODE-ED25519"}
_AES: Final = {"AES-GCM", "AES-CBC", "AES-CTR"}
_NUMBERS: Final = ("n", "e", "d", "p", "q", "dp", "dq", "qi", "x", "y")
_PRIVATE: Final = {"sign", "decrypt", "deriveBits", "deriveKey", "unwrapKey"}


def imported(format: str, data: Any, known: JsMap, extractable: bool, usages: Sequence[str]) -> CryptoKey:  # noqa: A002
    """See `importKey`."""
    if known.name not in _RSA | _ED | _AES | {"ECDSA"}:
        raise refused("NotSupportedError", f"{known.name} is no kind of key that is known here")
    try:
        material = _from_map(data, known) if format == "jwk" else _from_bytes(format, bytes(data), known)
    except (KeyError, ValueError, TypeError) as error:
        raise refused("DataError", f"it is no key of {known.name} as {format!r}: {error}") from error
    kind = "secret" if isinstance(material, bytes) else "private" if hasattr(material, "public_key") else "public"
    return CryptoKey(kind, known, usages, extractable, _Aes(material) if kind == "secret" else material)


class _Aes(bytes):
    """A key of AES."""


def _from_bytes(format: str, data: bytes, known: JsMap) -> Any:  # noqa: A002
    match format:
        case "pkcs8":
            return serialization.load_der_private_key(data, None)
        case "spki":
            return serialization.load_der_public_key(data)
        case "raw" if known.name in _AES:
            return _sized(data)
        case "raw" if known.name in _ED:
            return ed25519.Ed25519PublicKey.from_public_bytes(data)
        case "raw" if known.name == "ECDSA":
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[known.namedCurve](), data)
    raise ValueError("that is no format of it")


def _sized(data: bytes) -> bytes:
    if len(data) not in {16, 24, 32}:
        raise ValueError("a key of AES has 16, 24 or 32 bytes")
    return data


def _from_map(given: Mapping[str, Any], known: JsMap) -> Any:
    numbers = {name: int.from_bytes(padded(given[name])) for name in _NUMBERS if isinstance(given.get(name), str)}
    if known.name in _AES:
        return _sized(padded(given["k"]))
    if known.name in _ED:
        if "d" in given:
            return ed25519.Ed25519PrivateKey.from_private_bytes(padded(given["d"]))
        return ed25519.Ed25519PublicKey.from_public_bytes(padded(given["x"]))
    if known.name == "ECDSA":
        public = ec.EllipticCurvePublicNumbers(numbers["x"], numbers["y"], _CURVES[given["crv"]]())
        mine = "d" in numbers
        return ec.EllipticCurvePrivateNumbers(numbers["d"], public).private_key() if mine else public.public_key()
    open_to_all = rsa.RSAPublicNumbers(numbers["e"], numbers["n"])
    if "d" not in numbers:
        return open_to_all.public_key()
    p, q, d, dp, dq, qi = (numbers[name] for name in ("p", "q", "d", "dp", "dq", "qi"))
    return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, open_to_all).private_key()


def exported(format: str, key: CryptoKey) -> Any:  # noqa: A002
    """See `exportKey`."""
    der, material = serialization.Encoding.DER, key.material
    if format == "pkcs8" and key.type == "private":
        private = serialization.PrivateFormat.PKCS8
        return Piece(material.private_bytes(der, private, serialization.NoEncryption()))
    if format == "spki" and key.type == "public":
        return Piece(material.public_bytes(der, serialization.PublicFormat.SubjectPublicKeyInfo))
    if format == "raw" and key.algorithm.name in _ED:
        return Piece(material.public_bytes_raw())
    if format == "raw" and key.algorithm.name == "ECDSA":
        return Piece(material.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint))
    raise refused("NotSupportedError", f"a {key.type} key of {key.algorithm.name} is not exported as {format!r} here")


def generated(known: JsMap, extractable: bool, usages: Sequence[str]) -> Any:
    """See `generateKey`."""
    if known.name in _AES:
        return CryptoKey("secret", known, usages, extractable, _Aes(os.urandom(int(known.length) // 8)))
    if known.name in _ED:
        made: Any = ed25519.Ed25519PrivateKey.generate()
    elif known.name == "ECDSA":
        made = ec.generate_private_key(_CURVES[known.namedCurve]())
    elif known.name in _RSA:
        exponent = int.from_bytes(bytes(known.get("publicExponent") or b"\1\0\1"))
        made = rsa.generate_private_key(exponent, int(known.modulusLength))
    else:
        raise refused("NotSupportedError", f"{known.name} is no kind of key that is known here")
    mine, theirs = [use for use in usages if use in _PRIVATE], [use for use in usages if use not in _PRIVATE]
    return JsMap(privateKey=CryptoKey("private", known, mine, extractable, made),
                 publicKey=CryptoKey("public", known, theirs, True, made.public_key()))  # fmt: skip


def _hash(key: CryptoKey, given: JsMap) -> Any:
    return getattr(hashes, hashed(key.algorithm.hash or given.hash).upper())()


def _how(key: CryptoKey, given: JsMap) -> tuple[Any, ...]:
    """What signing and verifying want to know beside the data."""
    name = key.algorithm.name
    if name in _ED:
        return ()
    if name == "ECDSA":
        return (ec.ECDSA(_hash(key, given)),)
    used = _hash(key, given)
    if name == "RSA-PSS":
        return padding.PSS(padding.MGF1(used), int(given.get("saltLength") or 0)), used
    if name == "RSASSA-PKCS1-v1_5":
        return padding.PKCS1v15(), used
    raise refused("NotSupportedError", f"{name} signs nothing")


def signed(given: JsMap, key: CryptoKey, data: bytes) -> bytes:
    """See `sign`. Signatures of curves are two numbers, one after the other."""
    made: bytes = key.material.sign(data, *_how(key, given))
    if key.algorithm.name != "ECDSA":
        return made
    size = (key.material.key_size + 7) // 8
    return b"".join(number.to_bytes(size) for number in utils.decode_dss_signature(made))


def verified(given: JsMap, key: CryptoKey, signature: bytes, data: bytes) -> bool:
    """See `verify`."""
    if key.algorithm.name == "ECDSA":
        size = len(signature) // 2
        numbers = int.from_bytes(signature[:size]), int.from_bytes(signature[size:])
        signature = utils.encode_dss_signature(*numbers)
    try:
        key.material.verify(signature, data, *_how(key, given))
    except InvalidSignature:
        return False
    return True


def encrypted(given: JsMap, key: CryptoKey, data: bytes) -> bytes:
    """See `encrypt`."""
    material = key.to("encrypt")
    match given.name:
        case "AES-GCM":
            return bytes(AESGCM(material).encrypt(bytes(given.iv), data, _beside(given)))
        case "RSA-OAEP":
            return bytes(material.encrypt(data, _oaep(given, key)))
        case "AES-CBC":
            padder = PKCS7(128).padder()
            return _through(given, material, padder.update(data) + padder.finalize(), "encryptor")
    return _through(given, material, data, "encryptor")


def decrypted(given: JsMap, key: CryptoKey, data: bytes) -> bytes:
    """See `decrypt`."""
    material = key.to("decrypt")
    try:
        match given.name:
            case "AES-GCM":
                return bytes(AESGCM(material).decrypt(bytes(given.iv), data, _beside(given)))
            case "RSA-OAEP":
                return bytes(material.decrypt(data, _oaep(given, key)))
            case "AES-CBC":
                unpadder = PKCS7(128).unpadder()
                return bytes(unpadder.update(_through(given, material, data, "decryptor")) + unpadder.finalize())
    except (InvalidTag, ValueError) as error:
        raise refused("OperationError", "it was not encrypted with this key, or it was changed") from error
    return _through(given, material, data, "decryptor")


def _beside(given: JsMap) -> bytes | None:
    return None if given.get("additionalData") is None else bytes(given.additionalData)


def _oaep(given: JsMap, key: CryptoKey) -> Any:
    used = _hash(key, given)
    return padding.OAEP(padding.MGF1(used), used, None if given.get("label") is None else bytes(given.label))


def _through(given: JsMap, material: bytes, data: bytes, way: str) -> bytes:
    ways: dict[str, Callable[[], Any]] = {
        "AES-CBC": lambda: modes.CBC(bytes(given.iv)),
        "AES-CTR": lambda: modes.CTR(bytes(given.counter)),
    }
    if given.name not in ways:
        raise refused("NotSupportedError", f"{given.name} is no way to encrypt that is known here")
    done = getattr(Cipher(algorithms.AES(material), ways[given.name]()), way)()
    return bytes(done.update(data) + done.finalize())
