"""`python -m cloister.loader.demo`: exit code 0 if everything ended as it should, 1 if not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from rich.console import Console

from .director import show

_WIDTH = 120  # where there is no terminal to ask


class Quiet(Console):
    """A console whose reader may leave, as in `| head`. The show goes on unseen."""

    def on_broken_pipe(self) -> None:
        """Nobody reads any longer."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> int:
    """Run the demo. Ctrl-C, a hang-up and `kill` end it as tidily as its end would."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # whatever the terminal can show
    console = Quiet(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    try:
        return 0 if asyncio.run(_show(console)) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped. Nothing is left behind.")
        return 130


async def _show(console: Console) -> bool:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await show(console)


if __name__ == "__main__":
    sys.exit(main())
