"""What the host grants to a pipeline: a store to publish into, and a mirror to ask. Nothing else of the world exists.

Both keep their state in files, so that a restart of the host is no news to them. What a pipeline hands over is checked
before it is used: names become parts of paths, and a digest is only worth something if it is the digest.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any, Final

from cloister.loader import RpcTarget

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_RELEASES: Final = {"ledger": ["1.2.0", "1.3.0"]}
_OUTAGES: Final = 2


class Store(RpcTarget):
    """Keeps what one repository publishes. The same artefact may be published again: the receipt is the first one."""

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder / "store" / owner

    def publish(self, name: str, version: str, digest: str, artefact: bytes) -> dict[str, Any]:
        """Keep an artefact under a name and a version, once; a receipt."""
        for part in (name, version):
            if not isinstance(part, str) or not _NAME.fullmatch(part):
                raise ValueError(f"{part!r:.80} is neither a name nor a version")
        if not isinstance(artefact, bytes) or digest != f"sha256:{hashlib.sha256(artefact).hexdigest()}":
            raise ValueError("the digest is not that of the artefact")
        place = self._folder / f"{name}-{version}.json"
        if not place.exists():
            about = {"name": name, "version": version, "digest": digest, "size": len(artefact), "at": time.time()}
            _write(place.with_suffix(".zip"), artefact)
            _write(place, json.dumps(about).encode())
        receipt: dict[str, Any] = json.loads(place.read_text())
        if receipt["digest"] != digest:
            raise ValueError(f"{name} {version} has been published with other content")
        return receipt


def receipts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What was published, by repository."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place in sorted((folder / "store").glob("*/*/*.json")):
        owner = place.parent.relative_to(folder / "store").as_posix()
        found.setdefault(owner, []).append(json.loads(place.read_text()))
    return found


class Mirror(RpcTarget):
    """An index of releases that is not always up: it refuses the first two questions about each package."""

    def __init__(self, folder: Path) -> None:
        self._asked = folder / "mirror.json"

    def fetch(self, name: str) -> dict[str, Any]:
        """The releases of a package."""
        if name not in _RELEASES:
            raise LookupError(f"the mirror has no package {name!r:.80}")
        asked = json.loads(self._asked.read_text()) if self._asked.exists() else {}
        asked[name] = asked.get(name, 0) + 1
        _write(self._asked, json.dumps(asked).encode())
        if asked[name] <= _OUTAGES:
            raise ConnectionError("503, the mirror is down")
        return {"name": name, "versions": _RELEASES[name]}


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)
