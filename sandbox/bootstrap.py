"""The first thing that runs in the zygote's interpreter: its text is handed to `python -I -S -c`.

It makes a handful of packages importable from the folders that the host names, and nothing else: no site-packages, no
working folder, no environment. `cloister` and its layers are bare here, so that the host's half of a layer is never
imported. Standard library only.
"""

import os

# What modules do at every fork writes to a hundred and fifty pages, which each child would own from then on, to free
# locks that a process without threads never holds. What is needed after a fork, the zygote does itself.
os.register_at_fork = lambda **_: None

import fcntl  # noqa: E402
import importlib.machinery  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

# The host's time zone is not known inside: a durable run must not depend on it. Taken away again once the zygote is
# locked in, when there is no file left to read another from.
os.environ["TZ"] = "UTC0"
time.tzset()

# Nobody inside has anybody to talk to, and asyncio would import two megabytes for it.
sys.modules["ssl"] = sys.modules["_ssl"] = None  # type: ignore[assignment]


class Packages:
    """Finds the packages that the host named, each in its folder."""

    def __init__(self, bare: dict[str, list[str]], whole: dict[str, str]) -> None:
        self.bare, self.whole = bare, whole

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """A bare package has a place but no code of its own."""
        if name in self.bare:
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = self.bare[name]
            return spec
        if name in self.whole:
            folder = self.whole[name]
            return importlib.util.spec_from_file_location(
                name, f"{folder}/__init__.py", submodule_search_locations=[folder]
            )
        return None


# What each child keeps has the lowest numbers, so that all the rest can be closed in one go.
control = socket.socket(fileno=fcntl.fcntl(int(sys.argv[1]), fcntl.F_DUPFD_CLOEXEC, 8))
os.close(int(sys.argv[1]))
for place in (3, 4, 5):
    os.dup2(0, place, False)
sys.argv[:] = ["sandbox"]
sys.orig_argv[:] = ["sandbox"]
told = control.recv(65536)
if not told:  # the host has gone already
    os._exit(0)
packages = json.loads(told)
sys.meta_path.append(Packages(packages["bare"], packages["whole"]))

from cloister.sandbox.guest import native  # noqa: E402

native.map_all()

from cloister.sandbox import zygote  # noqa: E402

zygote.main(control, packages["preload"], packages["folders"])
