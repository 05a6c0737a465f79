"""A device is killed in each state while it takes in a release that is good, crashes or hangs, and is started again.

The shape is that of Mender's tables of states: kill, run again until it ends, and look which version is there. Between
the two there is never a time without a release that can be served.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt import files
from edgeopt.device import smoke
from edgeopt.device.activate import activate, roll_back
from edgeopt.device.collect import collect
from edgeopt.device.home import Home
from edgeopt.device.install import install
from edgeopt.device.start import begin_start, confirm_start
from edgeopt.device.state import MOST_STARTS
from edgeopt.errors import DeviceError, EdgeoptError, TrustError
from tests.device.conftest import Releases, digest_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("doomed")]

FATES = ("ok", "error", "hang")

#: step, what is about to be done to which file: the first of its kind is not done any more
STATES = (
    ("install", "mkdir", ".edgeopt-tmp-"), ("install", "write", "golden.npz"), ("install", "write", "recipe.yaml"),
    ("install", "write", "release.json"), ("install", "rename", "staged"), ("install", "rename", "<digest>"),
    ("install", "write", "state.json"), ("install", "rename", "state.json"), ("activate", "write", "state.json"),
    ("activate", "rename", "state.json"), ("start", "write", "state.json"), ("start", "rename", "state.json"),
    ("confirm", "write", "state.json"), ("confirm", "rename", "state.json"), ("collect", "write", "state.json"),
    ("collect", "rename", "state.json"), ("collect", "remove", "<collected>"),
)  # fmt: skip


class Update:
    """The steps from a bundle to an answer, with a place where the process is killed."""

    def __init__(self, home: Home, bundle: Path, names: dict[str, str]) -> None:
        self.home, self.bundle, self.names = home, bundle, names
        self.step = ""

    def run(self) -> None:
        self.step = "install"
        install(self.home, self.bundle)
        self.step = "activate"
        with contextlib.suppress(DeviceError):  # what was used stays in use, and is started
            activate(self.home)
        self.step = "start"
        digest = begin_start(self.home).manifest.digest()
        self.step = "confirm"
        confirm_start(self.home, digest)
        self.step = "collect"
        collect(self.home)

    def killer(self, state: tuple[str, str, str]) -> Callable[[str, Path], None]:
        def observe(operation: str, path: Path) -> None:
            name = self.names.get(path.name, path.name)
            if (self.step, operation) == state[:2] and name.startswith(state[2]):
                os.kill(os.getpid(), signal.SIGKILL)

        return observe


def in_process(act: Callable[[], None], observe: Callable[[str, Path], None] | None = None) -> int:
    """Run something in a process of its own, and tell how that ended."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            files.observe = observe or files.observe
            act()
            code = 0
        except EdgeoptError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def old(home: Home, releases: Releases) -> str:
    """The release that is used, with another before it."""
    first, second = (install(home, releases.make(counter, fate="ok")).digest for counter in (1, 2))
    home.write_state(home.state().activated(first).activated(second))
    return second


def assert_servable(home: Home, digests: set[str]) -> None:
    current = home.state().current
    assert current in digests
    assert home.bundle(current or "").manifest.digest() == current


def assert_clean(home: Home) -> None:
    assert not [path for path in home.folder.rglob("*") if path.name.startswith(files.TEMPORARY)]
    assert {path.name for path in home.releases.iterdir()} == home.state().releases.keys()


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("state", STATES, ids=" ".join)
def test_killed_in_a_state_it_is_served_throughout_and_ends_with_the_right_version(
    state: tuple[str, str, str], fate: str, home: Home, old: str, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fate == "hang":
        monkeypatch.setattr(smoke, "SECONDS", 1.0)
    bundle = releases.make(3, fate=fate)
    new, first = digest_of(bundle), home.state().previous or ""
    expected, collected = (new, first) if fate == "ok" else (old, new)
    update = Update(home, bundle, {collected: "<collected>"} if state[0] == "collect" else {new: "<digest>"})
    assert in_process(update.run, update.killer(state)) == -signal.SIGKILL
    assert_servable(home, {old, expected})
    # what was bad and is collected is known by its counter alone
    assert in_process(update.run) == (TrustError.exit_code if new == collected and state[1] == "remove" else 0)
    assert_servable(home, {expected})
    assert_clean(home)
    after = home.state()
    assert (after.counter, after.starts, after.starting) == (3, 0, ())
    assert begin_start(home).manifest.digest() == expected


@pytest.mark.parametrize("fate", FATES)
def test_killed_in_the_smoke_test_it_ends_with_the_right_version(
    fate: str, home: Home, old: str, releases: Releases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if fate == "hang":
        monkeypatch.setattr(smoke, "SECONDS", 2.0)
    bundle = releases.make(3, fate=f"{fate} {tmp_path / 'mark'}")
    update = Update(home, bundle, {})
    assert in_process(update.run) == -signal.SIGKILL
    assert (tmp_path / "mark").exists()
    assert_servable(home, {old})
    assert in_process(update.run) == 0
    assert_servable(home, {digest_of(bundle) if fate == "ok" else old})
    assert_clean(home)


def test_one_that_passes_and_then_kills_whoever_starts_it_is_left(home: Home, old: str, releases: Releases) -> None:
    new = install(home, releases.make(3, fate="ok")).digest
    activate(home)

    def serve() -> None:
        if begin_start(home).manifest.digest() == new:
            os.kill(os.getpid(), signal.SIGKILL)
        confirm_start(home, old)

    codes = [in_process(serve) for _ in range(MOST_STARTS + 2)]
    assert codes == [*[-signal.SIGKILL] * MOST_STARTS, 0, 0]
    assert_servable(home, {old})
    assert home.state().releases[new].bad


@pytest.mark.parametrize("operation", ["write", "rename"])
def test_killed_as_it_goes_back_it_is_the_one_or_the_other(operation: str, home: Home, old: str) -> None:
    before = home.state().previous or ""

    def kill(found: str, path: Path) -> None:
        if (found, path.name) == (operation, "state.json"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_process(lambda: (roll_back(home, "wrong labels"), None)[1], kill) == -signal.SIGKILL
    assert_servable(home, {old})
    roll_back(home, "wrong labels")
    assert_servable(home, {before})
    assert_clean(home)
