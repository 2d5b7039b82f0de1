"""`WorkerCode`: what is accepted as a tenant's code, and what its digest says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cloister.loader import Data, InvalidCode, Json, Limits, LoaderError, RpcTarget, Text, WorkerCode
from cloister.loader.code import MAX_ENV_BYTES

MAIN = {"main.py": "x = 1\n"}


def code(**changes: Any) -> WorkerCode:
    return WorkerCode(**{"main_module": "main.py", "modules": MAIN, **changes})


def test_the_smallest_code_is_one_module() -> None:
    """And has no network, no bindings and the default limits."""
    made = code()
    assert (made.global_outbound, made.env, made.tails, made.limits) == (None, {}, (), Limits())


def test_code_is_frozen() -> None:
    """What a digest was taken of does not change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        code().main_module = "other.py"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modules": {}}, "at least one module"),
        ({"main_module": "other.py"}, r"other\.py.*not among the modules"),
        ({"main_module": "main", "modules": {"main": Text("x")}}, r"must be a Python module"),
        ({"modules": {**MAIN, "/abs.py": ""}}, "relative path"),
        ({"modules": {**MAIN, "../up.py": ""}}, "relative path"),
        ({"modules": {**MAIN, "a//b.py": ""}}, "relative path"),
        ({"modules": {**MAIN, "./a.py": ""}}, "relative path"),
        ({"modules": {**MAIN, "": ""}}, "relative path"),
        ({"modules": {**MAIN, "app.ts": "let x"}}, "JavaScript or TypeScript"),
        ({"modules": {**MAIN, "app.jsx": Text("fine as text")}}, None),
        ({"modules": {**MAIN, "notes.txt": "plain"}}, r"wrap it in Text"),
        ({"modules": {**MAIN, "a.py": 7}}, "int"),
        ({"modules": {**MAIN, "a.py": b"x = 1"}}, "bytes"),
        ({"modules": {**MAIN, "a.json": Json({1, 2})}}, r"a\.json"),
        ({"modules": {**MAIN, "a.py": "\ud800"}}, r"a\.py"),
        ({"global_outbound": "internet"}, "no network"),
        ({"env": {"not an identifier": 1}}, "identifier"),
        ({"env": {7: 1}}, "identifier"),
        ({"main_module": "python_modules/a.py", "modules": {"python_modules/a.py": ""}}, "brought along"),
        ({"env": None}, "env is a map from names to values and capabilities, not NoneType"),
        ({"modules": ["main.py"]}, "modules is a map from names to modules, not list"),
        ({"modules": {7: "", "main.py": ""}}, "relative path"),
        ({"main_module": None}, "main_module is the name of a module, not NoneType"),
        ({"modules": {**MAIN, "a.txt": Text(7)}}, r"a\.txt.*Text\(int\)"),  # type: ignore[arg-type]
        ({"modules": {**MAIN, "a.bin": Data("x")}}, r"a\.bin.*Data\(str\)"),  # type: ignore[arg-type]
        ({"limits": {"cpu_ms": 50}}, r"limits is Limits\(\.\.\.\), not dict"),
        ({"tails": print}, "tails is a tuple of functions or entrypoints, not builtin_function"),
        ({"tails": (7,)}, "a tail is a function or an entrypoint, not int"),
        ({"streaming_tails": ("print",)}, "a tail is a function or an entrypoint, not str"),
        ({"compatibility_date": 2026}, "compatibility_date is a date as text, not int"),
        ({"compatibility_flags": "one"}, "compatibility_flags is a tuple of names, not str"),
    ],
)
def test_code_that_contradicts_itself_is_refused_when_it_is_made(changes: dict[str, Any], words: str | None) -> None:
    """With the name of the part that is wrong, and as the host's mistake."""
    if words is None:
        code(**changes)
        return
    with pytest.raises(InvalidCode, match=words) as caught:
        code(**changes)
    assert isinstance(caught.value, LoaderError)
    assert isinstance(caught.value, ValueError)


def test_packages_may_lie_in_a_folder_of_their_own() -> None:
    """As Cloudflare has them: found as if they lay beside the main module, whose own neighbours come first."""
    made = code(modules={**MAIN, "a.py": "own", "python_modules/a.py": "theirs", "python_modules/p/LICENSE": "free",
                         "python_modules/p/x.ts": "let x", "python_modules/p/__init__.py": "y = 1"})  # fmt: skip
    found = {name: made.modules[name] for name in made.modules if name not in MAIN}
    assert found == {"a.py": "own", "p/LICENSE": Text("free"), "p/x.ts": Text("let x"), "p/__init__.py": "y = 1"}
    assert made.with_stored(made.stored()).digest == made.digest


def test_what_the_host_does_to_its_own_afterwards_changes_nothing() -> None:
    """Modules, bindings, tails, bytes and JSON are copies, and so is the digest that they have."""
    data, content = bytearray(b"abc"), {"a": [1]}
    modules: dict[str, Any] = {**MAIN, "a.bin": Data(data), "a.json": Json(content)}  # type: ignore[arg-type]
    env, tails = {"A": 1}, [print]
    made = code(modules=modules, env=env, tails=tails)
    digest = made.digest
    data[:] = b"xyz"
    content["a"].append(2)
    modules["more.py"] = ""
    env["B"] = 2
    tails.clear()
    assert made.digest == digest
    assert (made.modules["a.bin"], made.modules["a.json"]) == (Data(b"abc"), Json({"a": [1]}))
    assert (sorted(made.modules), made.env, made.tails) == (["a.bin", "a.json", "main.py"], {"A": 1}, (print,))


def test_a_module_of_more_than_the_limit_is_refused() -> None:
    """Before anything is sent anywhere."""
    with pytest.raises(InvalidCode, match=r"big\.bin.*bytes"):
        code(modules={**MAIN, "big.bin": Data(bytes(9 * 1024 * 1024))})


def test_modules_of_more_than_the_limit_in_all_are_refused() -> None:
    """Many modules are no way around it."""
    with pytest.raises(InvalidCode, match="bytes"):
        code(modules={**MAIN, **{f"part{n}.bin": Data(bytes(4 * 1024 * 1024)) for n in range(5)}})


class Price(RpcTarget):
    """What is named in an env, and not copied into it."""

    table = "x" * MAX_ENV_BYTES


def test_an_env_of_more_than_the_limit_is_refused() -> None:
    """Up to it, name and all, is taken; what is behind a binding does not count."""
    head = 1 + 2 + 5  # of a map, its one key, and a text of that length
    assert code(env={"A": "x" * (MAX_ENV_BYTES - head)}).env
    assert code(env={"PRICE": Price(), "FUNCTION": len}).env
    with pytest.raises(InvalidCode, match=r"the env takes 1,048,577 bytes; at most 1,048,576 can be given"):
        code(env={"A": "x" * (MAX_ENV_BYTES - head + 1)})


def test_an_env_that_cannot_be_sent_is_refused_when_it_is_made() -> None:
    """And not when the first call needs it."""
    endless: list[Any] = []
    endless.append(endless)
    for value in (endless, "\ud800", 2**64):
        with pytest.raises(InvalidCode, match="env: "):
            code(env={"A": value})


def test_the_digest_says_how_the_code_behaves() -> None:
    """Modules, main module and compatibility, each of them."""
    one = {"a.py": "x = 1", "b.py": "x = 2", "t": Text("t"), "d": Data(b"t"), "j": Json({"k": [1, None]})}
    base = code(main_module="a.py", modules=one)
    others = [
        code(main_module="b.py", modules=one),
        code(main_module="a.py", modules={**one, "a.py": "x = 3"}),
        code(main_module="a.py", modules={**one, "c.py": ""}),
        code(main_module="a.py", modules={**one, "t": Text("u")}),
        code(main_module="a.py", modules={**one, "t": Data(b"t")}),
        code(main_module="a.py", modules={**one, "d": Text("t")}),
        code(main_module="a.py", modules={**one, "j": Json({"k": [1, 0]})}),
        code(main_module="a.py", modules=one, compatibility_date="2026-01-01"),
        code(main_module="a.py", modules=one, compatibility_flags=("x",)),
    ]
    digests = [made.digest for made in [base, *others]]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 32 for digest in digests)


def test_the_order_of_modules_and_flags_does_not_matter() -> None:
    """The same code is the same code, however the host came by it."""
    modules = {"main.py": "x = 1", "a.py": "", "b.json": Json({"p": 1, "q": 2})}
    turned = {name: modules[name] for name in reversed(modules)}
    assert code(modules=modules).digest == code(modules=turned).digest
    assert code(compatibility_flags=("a", "b")).digest == code(compatibility_flags=("b", "a")).digest


def test_live_authority_is_not_in_the_digest() -> None:
    """Bindings, limits and tails come fresh from the host and may change under a sleeping instance."""
    with_authority = code(env={"SECRET": "s", "CALL": print}, limits=Limits(cpu_ms=7), tails=(print,))
    assert with_authority.digest == code().digest


def test_stored_modules_come_back_around_todays_authority() -> None:
    """What was kept is the code; what is granted is granted now."""
    old = code(
        modules={"main.py": "old = 1", "t": Text("ä"), "d": Data(b"\0"), "j": Json([1])},
        compatibility_date="2026-01-01",
        compatibility_flags=("f",),
        env={"KEY": "revoked"},
    )
    new = code(modules={"main.py": "new = 1"}, env={"KEY": "current"}, limits=Limits(cpu_ms=7), tails=(print,))
    woken = new.with_stored(old.stored())
    assert woken.digest == old.digest
    assert woken.modules == old.modules
    assert (woken.env, woken.limits, woken.tails) == (new.env, new.limits, new.tails)


def test_stored_code_of_a_newer_version_is_refused() -> None:
    """Rather than run as something else."""
    with pytest.raises(InvalidCode, match="newer"):
        code().with_stored(b"\x91\x02")


@pytest.mark.parametrize(
    "changes", [{"cpu_ms": 0}, {"wall_ms": -1}, {"cpu_ms": 1.5}, {"memory_bytes": 1024}, {"cpu_ms": True}]
)
def test_limits_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    """Numbers are whole and above zero, and an interpreter needs some room."""
    with pytest.raises(ValueError, match=r"Limits\."):
        Limits(**changes)


def test_the_stricter_of_two_limits_holds_in_each_respect() -> None:
    """None means no limit, so any limit is stricter."""
    mine = Limits(cpu_ms=100, wall_ms=None, memory_bytes=64 << 20)
    theirs = Limits(cpu_ms=None, wall_ms=500, memory_bytes=32 << 20)
    assert mine.lower_of(theirs) == theirs.lower_of(mine) == Limits(cpu_ms=100, wall_ms=500, memory_bytes=32 << 20)
    assert mine.lower_of(None) is mine
