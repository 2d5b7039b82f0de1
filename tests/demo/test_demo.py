"""The demo as a user meets it, in a process of its own and without a terminal; then when it is disturbed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cloister.loader.demo.chronicle import Chronicle
from cloister.loader.demo.forge import repositories
from cloister.loader.demo.grants import Mirror, Store, receipts
from cloister.loader.demo.verdict import differences
from cloister.loader.timeline import plain

DEMO = [sys.executable, "-m", "cloister.loader.demo"]
LONGEST = 280.0


def below(folder: Path) -> dict[str, str]:
    """An environment in which all that the demo writes is below one folder."""
    kept = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    return {**kept, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo up to the first push: its host is there, and its pipelines are about to be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job passes on that it ignores it
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=below(folder)) as demo:
        try:
            assert demo.stdout is not None
            while "pushes" not in demo.stdout.readline():
                assert demo.poll() is None
            yield demo
        finally:
            demo.kill()


def until_gone(processes: list[psutil.Process]) -> bool:
    """Wait until none of them is alive. In a container nobody may bury the dead."""
    deadline = time.monotonic() + LONGEST
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, processes))


def alive(process: psutil.Process) -> bool:
    """Whether it may still do something."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def section(output: str, title: str) -> str:
    """The part of the output that has a title, up to the next blank line."""
    return re.split(r"\n\s*\n", output.split(f"\n{title}", 1)[1], maxsplit=1)[0]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo prints when it is left alone. It ends well, complains of nothing, and leaves nothing behind."""
    folder = tmp_path_factory.mktemp("demo")
    ended = subprocess.run(DEMO, capture_output=True, text=True, env=below(folder), timeout=LONGEST)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert not list(folder.iterdir())
    return ended.stdout


def test_the_story_is_told_in_plain_lines(shown: str) -> None:
    """An eviction and a kill -9 on the way, pushes that are delivered twice, and each pipeline goes on."""
    assert "\x1b" not in shown
    eviction = [
        "as soon as 'lint' is on record, ada/calculator is to lose its sandbox",
        r"ada/calculator +sandbox \d+ evicted",
        r"ada/calculator +boots in sandbox \d+: what is on record is replayed",
        r"ada/calculator +ended: published",
    ]
    kill = [
        r"kill -9 \d+ \(the host\), while katherine/ledger sleeps",
        "started again on the same folder",
        r"katherine/ledger +boots in sandbox \d+: what is on record is replayed",
        "margaret approves katherine/ledger",
        r"katherine/ledger +ended: published",
        "each ended once, as if nothing had happened",
    ]
    for acts in (eviction, kill, ["started again", "they are known, nothing runs twice", "margaret approves"]):
        assert re.search(".*".join(acts), shown, re.DOTALL), shown


def test_the_timelines_show_what_was_done_to_whom_and_when(shown: str) -> None:
    """Steps with their attempts, and between them the places of the eviction and of the kill."""
    calculator, ledger, pagetext = (
        section(shown, f"{name} at") for name in ("ada/calculator", "katherine/ledger", "grace/pagetext")
    )
    place = "(after|during) '"  # how far it comes before it is found out that 'lint' is done is not to be known
    assert re.search(rf"lint .*sandbox evicted .*{place}.*approval ", calculator, re.DOTALL)
    assert re.search(r"settle .*host killed .*during 'settle'", ledger, re.DOTALL)
    assert re.search(r"fetch index +3 .*2 failed: ConnectionError", ledger)
    assert "approval" not in pagetext


def test_the_verdicts_are_those_of_the_pipelines(shown: str) -> None:
    """Two are published; the third is told which of its tests fails."""
    verdicts = section(shown, "verdicts")
    assert re.search(r"ada/calculator +published", verdicts)
    assert re.search(r"katherine/ledger +published", verdicts)
    assert re.search(r"grace/pagetext +failed +40 tests, 1 failed", verdicts)
    assert "tests.test_slug.Shorten.test_a_word_that_ends_at_the_limit_is_kept" in verdicts


def test_three_figures_are_measured(shown: str) -> None:
    """Boot, hop and steps."""
    figures = section(shown, "measured just now")
    for figure in ("boot p50", "hop p50", "steps/s"):
        assert re.search(rf"{figure} +\d[\d.,]*", figures), figures


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_tidies_up(number: signal.Signals, tmp_path: Path) -> None:
    """No process, no file and no traceback stay behind."""
    with running(tmp_path) as demo:
        children = psutil.Process(demo.pid).children(recursive=True)
        assert children
        demo.send_signal(number)
        output, errors = demo.communicate(timeout=LONGEST)
    assert (demo.returncode, errors) == (130, "")
    assert output.endswith("Stopped. Nothing is left behind.\n")
    assert until_gone(children)
    assert not list(tmp_path.iterdir())


def test_a_host_that_dies_out_of_turn_fails_the_demo(tmp_path: Path) -> None:
    """The demo does not take one death for another, says what happened, and tidies up."""
    with running(tmp_path) as demo:
        children = psutil.Process(demo.pid).children(recursive=True)
        psutil.Process(demo.pid).children()[0].kill()
        output, errors = demo.communicate(timeout=LONGEST)
    assert (demo.returncode, errors) == (1, "")
    assert "The demo failed: the host ended by itself" in output
    assert until_gone(children)


def test_a_host_that_cannot_open_its_database_says_why(tmp_path: Path) -> None:
    """In a sentence, not in a traceback."""
    (tmp_path / "ci.db").write_bytes(b"this is no database, but long enough to be mistaken for one" * 20)
    command = [sys.executable, "-m", "cloister.loader.demo.host", str(tmp_path)]
    ended = subprocess.run(command, input="", capture_output=True, text=True, timeout=LONGEST)
    assert ended.returncode == 1
    assert ended.stderr.startswith("NotACloisterDatabase: ")
    assert "Traceback" not in ended.stderr


def test_what_differs_is_said(tmp_path: Path) -> None:
    """Where nothing has happened, every claim of the demo is found untrue."""

    async def look() -> list[str]:
        return differences(Chronicle(repositories()), tmp_path)

    found = "\n".join(asyncio.run(look()))
    for name in repositories():
        assert f"{name} ended" in found
    for claim in ("was not evicted", "never slept", "'fetch index' was not done", "the store holds"):
        assert claim in found


def publish(store: Store, content: bytes, name: str = "tool") -> dict[str, object]:
    """Publish as a pipeline would."""
    return store.publish(name, "1.0", f"sha256:{hashlib.sha256(content).hexdigest()}", content)


def test_an_artefact_is_published_once(tmp_path: Path) -> None:
    """Again with the same content is the same receipt, in a host's next life too; other content is refused."""
    receipt = publish(Store(tmp_path, "ada/tool"), b"first")
    assert publish(Store(tmp_path, "ada/tool"), b"first") == receipt
    with pytest.raises(ValueError, match="with other content"):
        publish(Store(tmp_path, "ada/tool"), b"second")
    assert receipts(tmp_path) == {"ada/tool": [receipt]}


def test_a_store_believes_nothing(tmp_path: Path) -> None:
    """Neither a digest, nor that a name is one, nor that bytes are bytes."""
    store = Store(tmp_path, "eve/tool")
    refused: list[Callable[[], object]] = [
        lambda: store.publish("tool", "1.0", "sha256:0", b"first"),
        lambda: publish(store, b"first", name="../../ada/tool"),
        lambda: store.publish("tool", ["1.0"], "", b""),  # type: ignore[arg-type]
        lambda: store.publish("tool", "1.0", "", "text"),  # type: ignore[arg-type]
    ]
    for attempt in refused:
        with pytest.raises(ValueError):
            attempt()
    assert not list(tmp_path.rglob("*"))


def test_the_mirror_is_down_twice_and_no_restart_makes_it_worse(tmp_path: Path) -> None:
    """It counts in a file."""
    for _ in range(2):
        with pytest.raises(ConnectionError):
            Mirror(tmp_path).fetch("ledger")
    assert Mirror(tmp_path).fetch("ledger") == {"name": "ledger", "versions": ["1.2.0", "1.3.0"]}


def test_what_tenants_say_cannot_steer_the_terminal() -> None:
    """One line, bounded, and printable."""
    assert plain("\x1b[2Jcleared\n\x07\u202eturned\ud800") == " [2Jcleared   turned "
    assert len(plain("x" * 10_000_000, 100)) == 100
