"""How a zygote's memory is laid out before it forks: fewer and larger pieces, the same content, the same rights."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

COMMON = """
import ctypes, hashlib, json, os
from pathlib import Path
from cloister.sandbox.guest import layout, mappings
from cloister.sandbox.lockdown import kernel

def pieces():
    return [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]

def digest():
    "Of the interpreter's code, wherever it lies"
    found = hashlib.sha256()
    for place, rights, *_ in pieces():
        start, end = (int(edge, 16) for edge in place.split("-"))
        if rights == "r-xp" and any(start < high and end > low for low, high in code):
            found.update(ctypes.string_at(start, end - start))
    return found.hexdigest()

here = mappings._interpreter
"""


def alone(program: str) -> Any:
    """What a program of its own process says, as JSON: it lays out its own memory anew."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMON + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_a_library_is_merged_into_what_is_read_and_what_is_written() -> None:
    """Its constants go with its code, and what the linker protected with its data; what it holds stays the same."""
    found = alone("""
        import _decimal, decimal
        before = len(pieces())
        mappings.merge()
        own = [rights for _, rights, _, _, _, *name in pieces() if name and "_decimal" in name[0]]
        both = [piece for piece in pieces() if {"w", "x"} <= set(piece[1])]
        print(json.dumps([before - len(pieces()) > 5, own, both, str(decimal.Decimal(1) / 3)]))
    """)
    assert found == [True, ["r-xp", "rw-p"], [], "0." + "3" * 28]


def test_the_interpreters_code_is_replaced_by_a_copy_in_large_pages() -> None:
    """To the byte, executable and not writable; as far as whole large pages go, and not at all where there are none."""
    found = alone("""
        mappings.merge()
        piece = next(piece for piece in mappings._pieces() if piece.start <= here < piece.end)
        code, parts = [(piece.start, piece.end)], list(mappings._large(piece))
        before = digest()
        mappings.enlarge_code()
        import decimal
        moved = [p for p in mappings._pieces() if p.rights == "r-xp" and not p.inode and p.start < piece.end
                 and p.end > piece.start]
        print(json.dumps([
            digest() == before,
            sum(p.end - p.start for p in moved) == sum(end - start for start, end in parts),
            [line for line in pieces() if {"w", "x"} <= set(line[1])],
            str(decimal.Decimal(1) / 3),
        ]))
    """)
    assert found == [True, True, [], "0." + "3" * 28]


def test_what_the_kernel_refuses_leaves_everything_as_it_was() -> None:
    """An older kernel, or one that has no large page left: the code stays where it is, and no copy stays behind."""
    found = alone("""
        def refuse(start, end):
            raise OSError(22, "no")
        kernel.collapse = refuse
        executable = lambda: [piece for piece in pieces() if "x" in piece[1]]
        before = executable()
        mappings.enlarge_code()
        mappings.collapse(mappings.large_parts())
        mappings._LARGE = Path("/nowhere")
        print(json.dumps([executable() == before, mappings.large_parts()]))
    """)
    assert found == [True, []]


def test_memory_in_large_pages_keeps_its_content_and_is_a_childs_own_once_it_writes() -> None:
    """A child's change is seen by nobody else, and costs it a small page and not a large one."""
    found = alone("""
        size = 8 << 20
        area = kernel.map_memory(size)
        ctypes.memset(area, 7, size)
        mappings.collapse([part for part in mappings.large_parts() if area <= part.start < area + size])
        read, write = os.pipe()
        def owned():
            return next(int(line.split()[1]) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()
                        if line.startswith("Private_Dirty"))
        child = os.fork()
        if not child:
            before = owned()
            ctypes.memset(area + size // 2, 9, 1)
            os.write(write, json.dumps([ctypes.string_at(area + size // 2, 2)[0], owned() - before < 512]).encode())
            os._exit(0)
        os.waitpid(child, 0)
        print(json.dumps([*json.loads(os.read(read, 100)), ctypes.string_at(area, size) == bytes([7]) * size]))
    """)
    assert found == [9, True, True]


def test_what_the_c_library_hands_out_comes_in_one_piece_once_its_holes_are_filled() -> None:
    """Chunks of all sizes lie side by side, although there were holes all over before."""
    found = alone("""
        malloc, free = layout._c_library.malloc, layout._c_library.free
        take = lambda size: malloc(ctypes.c_size_t(size))
        sizes = [528 + 16 * (n * 37 % 500) for n in range(2000)]
        spread = [take(size) for size in sizes]
        for address in spread[::2]:
            free(ctypes.c_void_p(address))
        layout.fill_chunks()
        wanted = sizes[:200]
        got = [take(size) for size in wanted]
        print(json.dumps([min(got) > max(spread), max(got) - min(got) < 1.5 * sum(wanted)]))
    """)
    assert found == [True, True]
