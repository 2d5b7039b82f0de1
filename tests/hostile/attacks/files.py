"""Files, folders, links and devices: there are none, of the host's or of anybody's."""

# ruff: noqa: PTH101, PTH104, PTH108, PTH115, PTH116, PTH208, PTH211 - what is tried is the system's call

from __future__ import annotations

import ctypes
import os
import posix
import sqlite3
import struct
import sys
import tempfile
from pathlib import Path

from . import Bait, attack
from .calls import call, reached

HERE = -100  # AT_FDCWD


@attack("EACCES")
def read_a_file(bait: Bait) -> str:
    """Any that anybody may read."""
    return os.read(os.open(bait.file, os.O_RDONLY), 1000).decode()


@attack("EACCES")
def overwrite_a_file(bait: Bait) -> int:
    """With something of its own."""
    return os.write(os.open(bait.file, os.O_WRONLY | os.O_TRUNC), b"was here")


@attack("EACCES")
def create_a_file(bait: Bait) -> int:
    """Beside the others."""
    return os.open(f"{bait.folder}/new", os.O_CREAT | os.O_WRONLY)


@attack(
    "OSError: a temporary file lies in memory, and has no descriptor: use tempfile.NamedTemporaryFile(delete=False)"
)
def create_a_temporary_file(bait: Bait) -> int:
    """Wherever the library finds a place."""
    number, _ = tempfile.mkstemp()
    return os.write(number, b"x" * (1 << 20))


@attack("EACCES")
def create_a_file_without_a_name(bait: Bait) -> int:
    """Which would be found in no folder."""
    return os.open(bait.folder, os.O_TMPFILE | os.O_RDWR)


@attack("EACCES")
def open_a_path_only(bait: Bait) -> int:
    """A descriptor that stands for a place."""
    return os.open(bait.folder, os.O_PATH)


@attack("EACCES")
def list_a_folder(bait: Bait) -> list[str]:
    """What is in it, and not in a folder of the sandbox's own."""
    return posix.listdir(bait.folder)


@attack("EACCES")
def list_the_root(bait: Bait) -> list[str]:
    """Whatever that is by now, and not what of the tenant's own is shown in its place."""
    return posix.listdir("/")


@attack("EACCES")
def look_at_a_file(bait: Bait) -> os.stat_result:
    """Its size and its owner."""
    return os.stat(bait.file)


@attack("EACCES")
def look_at_a_link(bait: Bait) -> os.stat_result:
    """Without following it."""
    return os.lstat(bait.file)


@attack("ENOENT", without_namespaces="EACCES")
def look_by_the_call_for_descriptors(bait: Bait) -> int:
    """The C library's fstat is a call that takes a path too."""
    return call("newfstatat", HERE, bait.file.encode(), ctypes.create_string_buffer(256), 0x1000)


@attack("ENOSYS")
def look_by_the_newest_call(bait: Bait) -> int:
    """Which older filters have not heard of."""
    return call("statx", HERE, bait.file.encode(), 0, 0x7FF, ctypes.create_string_buffer(256))


@attack("ENOSYS")
def open_by_the_newest_call(bait: Bait) -> int:
    """Whose flags lie in memory."""
    return call("openat2", HERE, bait.file.encode(), struct.pack("QQQ", 0, 0, 0), 24)


@attack("EPERM", proof="root")
def take_a_files_handle(bait: Bait) -> int:
    """To open it by number, past every folder on the way."""
    handle = ctypes.create_string_buffer(struct.pack("I", 128), 256)
    return call("name_to_handle_at", HERE, bait.file.encode(), handle, ctypes.create_string_buffer(8), 0)


@attack("EACCES")
def ask_for_access(bait: Bait) -> bool:
    """Whether a file is there is news too."""
    if not os.access(bait.file, os.R_OK):
        return bool(os.open(bait.file, os.O_RDONLY))  # for the words
    return True


@attack("EACCES")
def read_a_link(bait: Bait) -> str:
    """Where it leads."""
    return os.readlink("/proc/self/exe")


@attack("EACCES")
def go_elsewhere_and_look_around(bait: Bait) -> str:
    """By a path that does not begin at the root."""
    os.chdir(bait.folder)
    return Path(Path(bait.file).name).read_text()


@attack("EACCES")
def walk_up_from_a_descriptor(bait: Bait) -> list[str]:
    """From the working folder, or whatever it holds."""
    return os.listdir(os.open("..", os.O_RDONLY, dir_fd=os.open(".", os.O_RDONLY)))[:3]


@attack("EPERM")
def ask_where_it_is(bait: Bait) -> int:
    """The working folder is the host's business."""
    return call("getcwd", ctypes.create_string_buffer(4096), 4096)


@attack("EPERM")
def make_a_link(bait: Bait) -> None:
    """From a place of its own to one of the host's."""
    os.symlink(bait.file, f"{bait.folder}/link")


@attack("EPERM")
def make_a_hard_link(bait: Bait) -> None:
    """Which outlives what it links to."""
    os.link(bait.file, f"{bait.folder}/hard")


@attack("EPERM")
def make_a_folder(bait: Bait) -> None:
    """And more in it."""
    posix.mkdir(f"{bait.folder}/below")


@attack("EPERM")
def rename_a_file(bait: Bait) -> None:
    """Out of the way."""
    os.rename(bait.file, f"{bait.folder}/renamed")


@attack("EPERM")
def remove_a_file(bait: Bait) -> None:
    """For good."""
    os.unlink(bait.file)


@attack("EPERM")
def open_a_file_to_all(bait: Bait) -> None:
    """By its mode."""
    os.chmod(bait.file, 0o777)


@attack("EPERM")
def give_a_file_away(bait: Bait) -> None:
    """To itself."""
    os.chown(bait.file, os.getuid(), os.getgid())


@attack("EPERM")
def empty_a_file(bait: Bait) -> None:
    """Without opening it."""
    os.truncate(bait.file, 0)


@attack("EPERM")
def change_a_files_times(bait: Bait) -> None:
    """To hide what was done."""
    os.utime(bait.file, (0, 0))


@attack("EPERM")
def make_a_pipe_with_a_name(bait: Bait) -> None:
    """For others to trip over."""
    os.mkfifo(f"{bait.folder}/pipe")


@attack("EPERM", proof="root")
def make_a_device(bait: Bait) -> None:
    """The machine's memory, say."""
    os.mknod(f"{bait.folder}/mem", 0o600 | 0o020000, os.makedev(1, 1))


@attack("EPERM")
def read_what_is_attached_to_a_file(bait: Bait) -> list[str]:
    """Capabilities, labels."""
    return os.listxattr(bait.file)


@attack("EPERM")
def ask_how_full_the_disk_is(bait: Bait) -> os.statvfs_result:
    """And what kind it is."""
    return os.statvfs(bait.folder)


@attack("EACCES")
def read_its_own_map(bait: Bait) -> str:
    """Where everything lies in memory, and the host's paths."""
    return Path("/proc/self/maps").read_text()


@attack("EACCES")
def read_the_hosts_arguments(bait: Bait) -> bytes:
    """Which often hold a password."""
    return Path(f"/proc/{bait.host}/cmdline").read_bytes()


@attack("EACCES")
def read_anothers_environment(bait: Bait) -> bytes:
    """Which holds them even more often."""
    return Path(f"/proc/{bait.victim}/environ").read_bytes()


@attack("EACCES")
def list_all_processes(bait: Bait) -> list[str]:
    """Who else is there."""
    return os.listdir("/proc")


@attack("EACCES")
def read_the_machines_settings(bait: Bait) -> list[str]:
    """Its devices, its firmware."""
    return os.listdir("/sys")


@attack("EACCES")
def open_a_device(bait: Bait) -> bytes:
    """A harmless one."""
    return os.read(os.open("/dev/zero", os.O_RDONLY), 1)


@attack("EPERM")
def watch_a_folder(bait: Bait) -> int:
    """To learn when somebody does something in it."""
    return call("inotify_init1", 0)


@attack("EPERM", proof="root")
def watch_everything(bait: Bait) -> int:
    """The call for scanners of viruses."""
    return call("fanotify_init", 0, 0)


@attack("OperationalError: unable to open database file")
def open_a_database(bait: Bait) -> int:
    """A library in C opens files by itself."""
    sqlite3.connect(f"{bait.folder}/new.db").execute("create table t (a)")
    return 1


@attack("OSError: libanl.so.1: cannot open shared object file: Permission denied")
def load_a_library(bait: Bait) -> str:
    """Code that was not there before."""
    return str(ctypes.CDLL("libanl.so.1"))


@attack(
    "ModuleNotFoundError: No module named 'planted' in a sandbox: a package comes with the code"
    " (cloister bundle), or from the host: preload=('planted',)"
)
def import_from_a_folder(bait: Bait) -> str:
    """Of its own choice."""
    sys.path.insert(0, bait.folder)
    sys.path_importer_cache.clear()
    __import__("planted")
    return str(sys.modules["planted"].__file__)


@attack("EPERM")
def touch_what_it_holds(bait: Bait) -> None:
    """The times of a file are a place to leave a word in."""
    os.utime(0)


@attack("EPERM")
def change_who_may_open_what_it_holds(bait: Bait) -> None:
    """A descriptor is enough for that, here that of the connection."""
    os.fchmod(3, 0o600)


@attack("EPERM")
def ask_what_disk_it_is_on(bait: Bait) -> os.statvfs_result:
    """By descriptor, and how full that is."""
    return os.fstatvfs(0)


@attack("EPERM")
def cut_what_it_holds(bait: Bait) -> str:
    """To nothing."""
    try:
        os.ftruncate(0, 0)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
    return "the kernel looked"


@attack("EPERM")
def open_by_a_files_handle(bait: Bait) -> str:
    """The way out of containers that were given one right too many."""
    return reached("open_by_handle_at", -100, bytes(8), 0)
