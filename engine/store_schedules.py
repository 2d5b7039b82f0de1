"""The verbs of schedules: which there are, and that a firing and its instance are one transaction."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from .errors import QuotaExceeded
from .options import Creation
from .records import Fired

if TYPE_CHECKING:
    from .store import Store

log = logging.getLogger("cloister.engine")


def register(store: Store, workflow: str, names: list[tuple[str, str]], now: int) -> dict[tuple[str, str], int]:
    """Know these schedules, by scope and name, and no others. Until when each was seen to: a new one until now."""
    key = store.key(workflow)
    rows = store.execute("SELECT scope, name, at FROM schedules WHERE workflow = ?", (key,)).fetchall()
    known = {(scope, name): at for scope, name, at in rows}
    for scope, name in known.keys() - set(names):
        store.execute("DELETE FROM schedules WHERE workflow = ? AND scope = ? AND name = ?", (key, scope, name))
    for scope, name in set(names) - known.keys():
        store.execute("INSERT INTO schedules VALUES (?, ?, ?, ?)", (key, scope, name, now))
    return {name: known.get(name, now) for name in names}


def fire(store: Store, workflow: str, scope: str, name: str, creation: Creation, fired: Fired, now: int) -> bool:
    """Create the instance of this firing, unless it was seen to before."""
    key = store.key(workflow)
    noted = store.execute(
        "UPDATE schedules SET at = ? WHERE workflow = ? AND scope = ? AND name = ? AND at < ?",
        (fired.scheduled_ms, key, scope, name, fired.scheduled_ms),
    )
    if not noted.rowcount:
        return False
    try:
        made = store.create_batch(workflow, scope, [creation], now)
    except QuotaExceeded as refusal:
        log.warning("schedule %s of %r did not fire: %s", name, workflow, refusal)
        return False
    if not made[0]:
        return False
    store.execute(
        "UPDATE instances SET schedule = ? WHERE workflow = ? AND scope = ? AND id = ?",
        (json.dumps([fired.cron, fired.scheduled_ms]), key, scope, creation.id),
    )
    return True
