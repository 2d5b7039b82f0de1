"""One confined process and how it is made. Knows no durability, no cache and no tenant by name."""

from .errors import (
    LayerMissing,
    LimitExceeded,
    ProtocolViolation,
    SandboxClosed,
    SandboxDied,
    SandboxError,
    SandboxUnavailable,
)
from .policy import Limits, Policy
from .sandbox import LogLine, Phases, Sandbox
from .spawner import Spawner

__all__ = [
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
    "Spawner",
]
