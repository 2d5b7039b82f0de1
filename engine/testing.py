"""What a test of workflows needs: time under control, outcomes that it decides, evictions and crashes everywhere.

`VirtualClock` makes hours pass in milliseconds. `Mocks` decides results, errors, timeouts and events, skips what is
waited for, and puts a run aside after every step. `until_status` and `until_step` wait for what an instance comes to.
`crash_after_every_commit` tells a story again from each moment at which its host could have died.
"""

from .crashes import RecordingEngine, copy_database, crash_after_every_commit
from .mocks import Mocks
from .observers import until_status, until_step
from .virtual_clock import VirtualClock

__all__ = [
    "Mocks",
    "RecordingEngine",
    "VirtualClock",
    "copy_database",
    "crash_after_every_commit",
    "until_status",
    "until_step",
]
