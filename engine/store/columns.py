"""How errors, configurations and steps stand in columns, and how they are read back. It knows no statement."""

from __future__ import annotations

import json
from collections.abc import Callable

from ..records import DEFAULT_CONFIG, ErrorRecord, StepConfig, StepRecord
from .rows import Row

STANDS = "CASE WHEN status = 'running' AND wake_at IS NOT NULL THEN 'waiting' ELSE status END"
"""Where an instance is shown to stand: a run that is kept, since it goes on soon, only waits until then."""
Unseal = Callable[[bytes], bytes]


def pack_error(error: ErrorRecord | None) -> str | None:
    return None if error is None else json.dumps([error.name, error.message, error.trace], ensure_ascii=False)


def pack_config(config: StepConfig) -> str | None:
    if config is DEFAULT_CONFIG or config == DEFAULT_CONFIG:
        return None
    rare = (config.dynamic, config.sensitive, config.heartbeat_ms)
    return json.dumps([config.limit, config.delay_ms, config.backoff, config.timeout_ms, *(rare if any(rare) else ())])


def unpack_error(stored: str | bytes | None, unseal: Unseal) -> ErrorRecord | None:
    """An error as it is stored: text, or what a codec has made of it."""
    return None if stored is None else read_error(stored, unseal)


def read_error(stored: str | bytes, unseal: Unseal) -> ErrorRecord:
    return ErrorRecord(*json.loads(unseal_text(stored, unseal)))


def unseal_text(stored: str | bytes, unseal: Unseal) -> str:
    return stored if isinstance(stored, str) else unseal(stored).decode()


def unpack_config(text: str | None) -> StepConfig:
    return DEFAULT_CONFIG if text is None else StepConfig(*json.loads(text))


def unpack_step(row: Row, unseal: Unseal) -> StepRecord:
    kind, name, count, state, attempts, value, error, due, config, within, size, _ = row
    resolved = unpack_config(config) if kind in {"do", "undo"} else None
    value = None if value is None else unseal(value)
    return StepRecord(
        kind, name, count, state, attempts, value, unpack_error(error, unseal), due, resolved, within, size
    )
