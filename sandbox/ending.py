"""How a sandbox comes to its end: of what, and when whoever waits is told.

Three hear of it, in any order: the host that ends it, its connection that is gone, and its zygote that has reaped it.
The first sentence stands. What the process had said is read before anybody is told, unless it is the host that has had
enough of it. It knows no calls; whoever answers them says how they are to be told.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from cloister.ipc.link import Link

from .errors import LimitExceeded, ProtocolViolation, SandboxDied, SandboxError, SandboxLost, SandboxUnused
from .exits import CUT_OFF, OUT_OF_MEMORY
from .lockdown.cgroups import Group
from .precedence import Precedence
from .process import FROM_OUTSIDE, Process
from .watch import Account

GRACE: Final = 1.0
"""Seconds that something which is over has to stop in before its process is ended, and a word of it to come."""
LAST_WORDS: Final = 0.05
"""Seconds between the end of its connection and its own, for the word of what it died of to come."""


class Ending:
    """Of one process, `alone` if it is the first of its own namespace, which nothing inside can kill.

    `part` ends the conversation with it, of an error; `describe` puts an exit status into words, and whether it was
    killed for memory.
    """

    def __init__(
        self,
        process: Process,
        link: Link,
        group: Group | None,
        account: Account,
        precedence: Precedence,
        *,
        alone: bool,
        part: Callable[[SandboxError], None],
        describe: Callable[[int, bool], str],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._process, self._link, self._group = process, link, group
        self._account, self._precedence = account, precedence
        self._alone, self._part, self._describe = alone, part, describe
        self.died: asyncio.Future[str] = self._loop.create_future()
        """Done when the process is gone and nothing of it is left to be read: of what, in words."""
        self.sentence: SandboxError | None = None
        """What its calls are told, once that is known."""
        self.cut_off = False
        """Whether its end of the connection is gone."""
        self.reaped = False
        """Whether the process is gone."""
        self.from_outside = False
        """Whether a signal ended it that somebody else on the machine must have sent, or the kernel when the machine
        had no memory left."""
        self._put_down = False
        self.unused = True
        """Whether nothing that a tenant's code said has come of it."""

    def used(self) -> None:
        """Something of its tenant's has come of it, which may be read only after its death was told."""
        self.unused = False
        if isinstance(self.sentence, SandboxUnused):
            self.sentence = SandboxDied(str(self.sentence))

    def kill(self, sentence: SandboxError) -> None:
        """End it at once. The first sentence stands; calls in flight fail with it."""
        if self.sentence is None and not self.died.done():
            self.sentence = sentence
            self._precedence.stop()
            self._process.kill()
            self._link.close()  # what it still says is not worth reading
            self._part(sentence)

    def lose(self, words: str) -> None:
        """It is gone, and its tenant has nothing to do with it."""
        words = f"the sandbox was lost: {words}"
        self.kill(SandboxUnused(words) if self.unused else SandboxLost(words))

    def reap(self, status: int) -> None:
        """The zygote reports the death. What the process said before it is still read, and then it is over."""
        self.reaped = True
        self._precedence.stop()  # the next sandbox in its control group is to find it as it was
        self._link.release()  # its last words are to be read
        killed_for_memory = self._group is not None and self._group.has_killed()
        if self._put_down and status == -signal.SIGKILL and not killed_for_memory:
            status = CUT_OFF
        if self.sentence is None:
            self.sentence = self._verdict(status, killed_for_memory)
            if not self.cut_off:
                self._loop.call_later(GRACE, self._bury)
                return
        self._bury()

    def _verdict(self, status: int, killed_for_memory: bool) -> SandboxError:
        words = f"the sandbox {self._describe(status, killed_for_memory)}"
        if killed_for_memory or status == OUT_OF_MEMORY:
            return LimitExceeded(words)
        self.from_outside = self._alone and -status in FROM_OUTSIDE
        if self.unused and (-status in FROM_OUTSIDE or self._put_down):
            return SandboxUnused(words)
        return ProtocolViolation(words) if status == CUT_OFF else SandboxDied(words)

    def disconnected(self) -> None:
        """Its end of the connection is gone: mostly because it is dying, and then of something that is told soon."""
        self.cut_off = True
        if self.reaped:
            self._bury()
        else:
            self._loop.call_later(LAST_WORDS, self._conclude)

    def broken(self) -> None:
        """The same, of what it said: whoever hears that ends it."""
        self.cut_off = True
        if self.reaped:
            self._bury()

    def _conclude(self) -> None:
        """It has had time to die, and is made to. If it was dying of something else, its status will say so: be that
        the same signal, of which the word has not come yet."""
        if self.sentence is None and not self.reaped:
            self._put_down = not self._process.is_over()
            self._precedence.stop()
            self._process.kill()
            self._loop.call_later(GRACE, self.kill, ProtocolViolation("the sandbox closed its connection"))

    def _bury(self) -> None:
        if self.died.done() or self.sentence is None:
            return
        self.died.set_result(str(self.sentence).removeprefix("the sandbox "))
        self._part(self.sentence)
        self._account.stop()
        self._precedence.stop()
        self._link.close()
        self._process.close()
