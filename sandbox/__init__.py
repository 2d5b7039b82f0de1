"""One confined process and how it is made. Knows no durability, no cache and no tenant by name."""

from .errors import (
    LayerMissing,
    LimitExceeded,
    ProtocolViolation,
    SandboxClosed,
    SandboxDied,
    SandboxError,
    SandboxUnavailable,
    SandboxUnused,
)
from .policy import Limits, Policy, check_preload
from .sandbox import Phases, Sandbox
from .spawner import Spawner
from .tail import LogLine
from .visits import LATE_GRACE

__all__ = [
    "LATE_GRACE",
    "LayerMissing",
    "Limits",
    "LimitExceeded",
    "LogLine",
    "Phases",
    "Policy",
    "ProtocolViolation",
    "Sandbox",
    "SandboxClosed",
    "SandboxDied",
    "SandboxError",
    "SandboxUnavailable",
    "SandboxUnused",
    "Spawner",
    "check_preload",
]
