"""Which verbs take no longer than their commit, so that the loop may run them itself: those that touch a few rows,
however many there are of anything, or whose arguments say whether they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import codes, ending, events, instances, steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from .store import Store

BRIEF_BYTES = 65_536
_SENT = "SELECT 1 FROM events WHERE instance = ? UNION ALL SELECT 1 FROM event_ids WHERE instance = ? LIMIT 1"
"""Whether an instance was sent something that is still there."""
_BRIEF: Final[frozenset[Callable[..., Any]]] = frozenset(
    {
        instances.create, instances.rest, instances.go_on, steps.began, steps.record, steps.record_result,
        ending.finish, events.take_event, events.expire, events.send_event, codes.pin,
    }
)  # fmt: skip


def brief(store: Store, verb: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether it takes no longer than its commit. What a codec takes is the host's affair, so it may be long."""
    if store.sealed or verb not in _BRIEF:
        return False
    if verb is steps.record_result:
        return len(args[5]) <= BRIEF_BYTES
    if verb is codes.pin:
        return store.codes.known(args[1].digest)  # else it is packed first
    if verb is instances.create:
        workflow, scope, creation, _, claim = args
        if len(creation.params) > BRIEF_BYTES:
            return False
        return claim or store.backlog.at_hand(store.known_key(workflow), scope, store.bounds.get(workflow))
    if verb is ending.finish:
        number, childless = args[0], len(args) == 6 and args[5]
        if not childless or store.run(_SENT, (number, number)).fetchone() is not None:  # all go with it
            return False
    return all(len(part) <= BRIEF_BYTES for part in args if type(part) is bytes)
