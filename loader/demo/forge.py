"""The forge: three repositories that ship inside the package, each with a pipeline of its author's design, and a push.

The repositories' files are text here and nothing more: the pipelines are tenants, not parts of the demo.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).parent / "repositories.d"
_STEPS: Final = re.compile(r"\bstep\.(?:do|sleep|wait_for_event)\(")


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository at the commit that was pushed. `push` is the event as the forge's webhook sends it."""

    files: dict[str, str]
    push: dict[str, Any]

    @property
    def full_name(self) -> str:
        """Owner and name: also the tenant's id."""
        return str(self.push["repository"]["full_name"])

    @property
    def pusher(self) -> str:
        """Who pushed."""
        return str(self.push["pusher"]["name"])

    @property
    def commit(self) -> str:
        """What was pushed."""
        return str(self.push["after"])

    @property
    def instance_id(self) -> str:
        """One commit is one pipeline, however often the forge delivers it."""
        return f"ci-{self.commit[:12]}"

    @property
    def params(self) -> dict[str, Any]:
        """What the pipeline is started with."""
        about = {"repository": self.full_name, "commit": self.commit, "ref": self.push["ref"], "pusher": self.pusher}
        return {**about, "files": self.files}

    @property
    def steps_in_sight(self) -> int:
        """How many steps the pipeline's source names, for a progress bar. Only a run can tell how many there are."""
        return len(_STEPS.findall(self.files["ci.py"]))


def repositories() -> dict[str, Repository]:
    """All of them, by full name."""
    found = [_read(folder) for folder in sorted(_FOLDER.iterdir()) if (folder / "push.json").exists()]
    return {repository.full_name: repository for repository in found}


def _read(folder: Path) -> Repository:
    sources = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}
    return Repository(sources, json.loads((folder / "push.json").read_text("utf-8")))
