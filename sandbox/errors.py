"""What can go wrong with a sandbox, named by the situation and by whose fault it is."""

from __future__ import annotations


class SandboxError(Exception):
    """Base of everything that this package raises."""


class SandboxUnavailable(SandboxError):
    """No sandbox can be made here and now: the zygote does not start, or the machine lacks what confinement needs."""


class LayerMissing(SandboxUnavailable):
    """This machine cannot give one layer of the confinement; the message says which, why, and what to do about it."""


class SandboxDied(SandboxError):
    """The process ended while the call was in flight; the message says of what. The call may have had effects."""


class SandboxUnused(SandboxDied):
    """It was ended from outside, or with its zygote, before it had said a word of its tenant's: another is as good."""


class SandboxLost(SandboxUnavailable, SandboxDied):
    """Its zygote died, and the process with it, which its tenant has nothing to do with. The call may have had effects,
    as with every other that died."""


class ProtocolViolation(SandboxDied):
    """The tenant's process sent what the protocol does not allow, and was ended for it."""


class LimitExceeded(SandboxError):
    """The tenant's code crossed one of its limits; the message says which. Others in the same process see it died."""


class SandboxClosed(SandboxDied):
    """The host ended the sandbox, such as by evicting it; its reason is the message."""
