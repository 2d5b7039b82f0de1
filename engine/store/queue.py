"""The verbs by which runs begin and are given back: what is due is queued, what is queued is claimed, and what was
claimed is released, lost, postponed or, by the next host, recovered.

Each leaves the instance standing somewhere; who is to run it is for the scheduler.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import CodecFailed, RunOver
from ..options import DEFAULT_RETENTION, Retention
from ..records import FINAL, Address, Claim, ErrorRecord, Fired, Key, Pull, Standing, Status, StepRecord
from ..retry import postponement, restart_delay
from ..sharing import Turn, share
from . import ending, instances
from .columns import unpack_error, unpack_step

if TYPE_CHECKING:
    from .store import Store

WAKE_CHUNK = 1_024
CLAIM_CHUNK = 64
SCOPE_CHUNK = 64
MOST_MAIL, MOST_MAIL_BYTES = 4, 4096
"""Events that go with a claim, and what they may take together."""

_ENDED = frozenset({"done", "failed"})
_HISTORY = "SELECT kind, name, count, state, attempts, value, error, due, config, within, size, finished FROM steps"
_PROGRESS = "(SELECT coalesce(sum(1 + attempts + (ended IS NOT NULL)), 0) FROM steps WHERE instance = ?)"


def pull(store: Store, workflow: str, now: int, turn: Turn) -> Pull:
    """Queue what is due, and claim from the queues of the scopes as they are to share: see `sharing`. Of one scope
    those that ran before come first, then the oldest.
    """
    key = store.key(workflow)
    woken = store.execute(
        "UPDATE instances SET status = 'queued' WHERE number IN (SELECT number FROM instances"
        " WHERE workflow = ? AND status = 'waiting' AND wake_at <= ? ORDER BY wake_at LIMIT ?)",
        (key, now, WAKE_CHUNK),
    ).rowcount
    turn = replace(turn, slots=min(turn.slots, CLAIM_CHUNK))
    scopes, held, whole = _queues(store, key, turn)
    queues: dict[str, list[int]] = {}

    def next_of(scope: str) -> int | None:
        if scope not in queues:
            queues[scope] = _queue(store, key, scope, turn.slots + 1)
        return queues[scope].pop() if queues[scope] else None

    shares = share(turn, scopes, next_of)
    claims, unread = list[Claim](), list[tuple[Address, str]]()
    for number in shares.given:
        try:
            claims.append(_claim(store, workflow, number, now))
        except CodecFailed as failure:
            unread.append((_put_off(store, workflow, number, now), str(failure)))
    last, more = shares.last, shares.more
    if not more and not whole:
        last, more = scopes[-1], True
    wake_at = store.execute(
        "SELECT wake_at FROM instances WHERE workflow = ? AND status = 'waiting' ORDER BY wake_at LIMIT 1",
        (key,),
    ).fetchone()
    held += shares.held
    wakes = wake_at[0] if wake_at else None
    return Pull(tuple(claims), more, woken == WAKE_CHUNK, wakes, last, frozenset(held), tuple(unread))


def _put_off(store: Store, workflow: str, number: int, now: int) -> Address:
    """It cannot be claimed, since it cannot be read: it waits as one does that the host could not run."""
    scope, name = store.execute("SELECT scope, id FROM instances WHERE number = ?", (number,)).fetchone()
    if instances.never_ran(store, number):
        store.backlog.add(store.key(workflow), scope, -1)
    store.execute("UPDATE instances SET started = coalesce(started, ?) WHERE number = ?", (now, number))
    postpone(store, number, False, now)
    return Address(workflow, scope, name)


def _queues(store: Store, key: int, turn: Turn) -> tuple[list[str], list[str], bool]:
    """Scopes that have something queued, once round from where the last turn ended: those that may run more,
    those that may not, and whether these are all.
    """
    query = "SELECT min(scope) FROM instances WHERE workflow = ? AND status = 'queued' AND scope > ?"
    scopes: list[str] = []
    held: list[str] = []
    start = turn.after if turn.after is not None else ""
    scope, round_again = start, False
    while len(scopes) < SCOPE_CHUNK:
        found = store.execute(query, (key, scope)).fetchone()[0]
        if found is None and not round_again:
            round_again = True
            empty = store.execute(query.replace(">", "="), (key, "")).fetchone()[0]
            found = empty if empty is not None else store.execute(query, (key, "")).fetchone()[0]
        if found is None or (round_again and found > start):
            return scopes, held, True
        scope = found
        (held if turn.limits.full(turn.busy.get(scope, 0)) else scopes).append(scope)
        if round_again and scope == start:
            return scopes, held, True
    return scopes, held, False


def _queue(store: Store, key: int, scope: str, limit: int) -> list[int]:
    """Numbers of what a scope has queued, the first one last."""
    rows = store.execute(
        "SELECT number FROM instances WHERE workflow = ? AND scope = ? AND status = 'queued'"
        " ORDER BY started IS NULL, wake_at, number LIMIT ?",
        (key, scope, limit),
    ).fetchall()
    return [number for (number,) in reversed(rows)]


def peek(store: Store, address: Address) -> Claim:
    """What a run of the instance would be told, without giving it to anybody."""
    return _read_claim(store, address.workflow, instances.find(store, address)[0])


def _read_claim(store: Store, workflow: str, number: int) -> Claim:
    scope, name, run, params, created, started, code, claims, undoing, schedule = store.execute(
        "SELECT scope, id, run, params, created, started, code, claims, undoing, schedule FROM instances"
        " WHERE number = ?",
        (number,),
    ).fetchone()
    kept = store.execute("SELECT digest FROM codes WHERE number = ?", (code,)).fetchone() if code else None
    digest = None if kept is None else kept[0]  # what no unfinished instance needs is not kept
    history: tuple[StepRecord, ...] = ()
    if started is not None or run > 1:
        query = f"{_HISTORY} WHERE instance = ? ORDER BY finished IS NULL, finished, position"
        history = tuple(unpack_step(row, store.unseal) for row in store.execute(query, (number,)).fetchall())
    address = Address(workflow, scope, name)
    fired = None if schedule is None else Fired(*json.loads(schedule))
    params, undone_for = store.unseal(params), unpack_error(undoing, store.unseal)
    return Claim(number, address, run, params, created, digest, history, claims + 1, undone_for, fired)


def _claim(store: Store, workflow: str, number: int, now: int) -> Claim:
    claim = _read_claim(store, workflow, number)
    if instances.never_ran(store, number):
        store.backlog.add(store.key(workflow), claim.address.scope, -1)
    store.change(number, now, "running")
    if claim.claims > 1:  # pieces of results that nobody finished
        store.execute(
            "DELETE FROM chunks WHERE instance = ? AND NOT EXISTS (SELECT 1 FROM steps WHERE kind = 'do'"
            " AND steps.instance = chunks.instance AND steps.name = chunks.name AND steps.count = chunks.count"
            " AND size IS NOT NULL)",
            (number,),
        )
    store.execute(
        "UPDATE instances SET status = 'running', started = coalesce(started, ?), wake_at = NULL,"
        f" claims = claims + 1, progress = {_PROGRESS} WHERE number = ?",
        (now, number, number),
    )
    return _wake(store, claim._replace(mail=_mail(store, number)), now)


def _mail(store: Store, number: int) -> tuple[tuple[str, bytes], ...]:
    """Those events that the run may be told of at once when it asks for them."""
    query = "SELECT type, event FROM events WHERE instance = ? ORDER BY type, number LIMIT ?"
    left, mail = MOST_MAIL_BYTES, list[tuple[str, bytes]]()
    for event_type, event in store.execute(query, (number, MOST_MAIL)).fetchall():
        left -= len(event)
        if left < 0:
            break
        mail.append((event_type, store.unseal(event)))
    return tuple(mail)


def _wake(store: Store, claim: Claim, now: int) -> Claim:
    """Sleeps that are over are on record with the claim, in the order in which they ended, so that the run has nothing
    to ask. Those that something else was to come before are left to the run, and so are all while steps are undone.
    """
    ended = [record for record in claim.history if record.state in _ENDED]
    pending = [record for record in claim.history if record.state not in _ENDED]
    first = min((record.due_ms or 0 for record in pending if record.kind != "sleep"), default=now)
    over = [record for record in pending if record.kind == "sleep" and (record.due_ms or 0) <= min(first, now)]
    if not over or claim.undoing is not None:
        return claim
    over.sort(key=lambda record: record.due_ms or 0)
    for record in over:
        store.execute(
            "UPDATE steps SET state = 'done', ended = ?, finished = ?"
            " WHERE instance = ? AND kind = 'sleep' AND name = ? AND count = ?",
            (now, store.next_number(), claim.number, record.name, record.count),
        )
    awake = [replace(record, state="done") for record in over]
    return claim._replace(history=(*ended, *awake, *(record for record in pending if record not in over)), woken=True)


def release(store: Store, number: int, keys: tuple[Key, ...], now: int) -> Standing:
    """The run is dropped.

    It waits for the earliest of these steps; if one is over by now, or none given, or they are to be taken back since,
    it queues.
    """
    status, undoing = _unfinished(store, number, "undoing")
    if status is Status.WAITING_FOR_PAUSE:
        return instances.stand(store, number, Status.PAUSED, now, paused_at=now)
    due = [
        store.execute(
            "SELECT due FROM steps WHERE instance = ? AND kind = ? AND name = ? AND count = ?"
            " AND state IN ('waiting', 'retrying')",
            (number, *key),
        ).fetchone()
        for key in keys
    ]
    late = undoing is not None and not any(kind == "undo" for kind, _, _ in keys)
    if late or not due or None in due:
        return instances.stand(store, number, Status.QUEUED, now, wake_at=now)
    return instances.stand(store, number, Status.WAITING, now, wake_at=min(row[0] for row in due))


def lose(store: Store, number: int, progressed: bool, reason: str, now: int) -> Standing:
    """The run was lost with its process.

    It is queued again, now or after a delay, unless that happens too often.
    """
    status, losses = _unfinished(store, number, "losses")
    losses = 1 if progressed else losses + 1
    store.execute("UPDATE instances SET losses = ? WHERE number = ?", (losses, number))
    delay = restart_delay(losses)
    if delay is None:
        error = ErrorRecord("CrashLoop", f"lost {losses} runs in a row without progress; the last one: {reason}")
        ending.finish(store, number, Status.ERRORED, None, error, now)
        return Standing(Status.ERRORED, error=error)
    if status is Status.WAITING_FOR_PAUSE:
        return instances.stand(store, number, Status.PAUSED, now, paused_at=now)
    return instances.stand(store, number, Status.WAITING if delay else Status.QUEUED, now, wake_at=now + delay)


def postpone(store: Store, number: int, progressed: bool, now: int) -> Standing:
    """The host could not run it. It waits, longer each time, and nothing is counted against it."""
    status, times = _unfinished(store, number, "postponed")
    times = 1 if progressed else times + 1
    store.execute("UPDATE instances SET postponed = ? WHERE number = ?", (times, number))
    if status is Status.WAITING_FOR_PAUSE:
        return instances.stand(store, number, Status.PAUSED, now, paused_at=now)
    return instances.stand(store, number, Status.WAITING, now, wake_at=now + postponement(times))


def recover(store: Store, workflow: str, now: int, retention: Retention = DEFAULT_RETENTION) -> None:
    """Register the workflow, and settle the account of a host that died: what it was running, it has
    lost.
    """
    store.register(workflow)
    store.execute(
        "UPDATE workflows SET keep_success = ?, keep_error = ? WHERE number = ?",
        (retention.success_ms, retention.error_ms, store.key(workflow)),
    )
    rows = store.execute(
        f"SELECT number, progress < {_PROGRESS.replace('?', 'instances.number')} FROM instances"
        " WHERE workflow = ? AND status IN ('running', 'waitingForPause')",
        (store.key(workflow),),
    ).fetchall()
    for number, progressed in rows:
        lose(store, number, bool(progressed), "the host process died", now)


def reclaim(store: Store, workflow: str, alive: tuple[int, ...], now: int) -> None:
    """After a commit of unknown outcome: queue what is claimed here but was never started."""
    rows = store.execute(
        "SELECT number FROM instances WHERE workflow = ? AND status IN ('running', 'waitingForPause')",
        (store.key(workflow),),
    ).fetchall()
    for (number,) in rows:
        if number not in alive:
            release(store, number, (), now)


def _unfinished(store: Store, number: int, more: str) -> tuple[Status, Any]:
    """Where the instance of a run stands, and what else is said of it; `RunOver` if it has ended, or is gone."""
    row = store.execute(f"SELECT status, {more} FROM instances WHERE number = ?", (number,)).fetchone()
    if row is None or (status := Status(row[0])) in FINAL:
        raise RunOver
    return status, row[1]
