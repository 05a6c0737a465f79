"""A start is given a release that is whole and has not failed before; what fails again and again is left."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from edgeopt import files
from edgeopt.device.home import Home
from edgeopt.device.install import install
from edgeopt.device.start import begin_start, confirm_start, fall_back
from edgeopt.device.state import MOST_STARTS
from edgeopt.errors import DeviceError, TrustError
from tests.device.conftest import Releases


@pytest.fixture
def digests(home: Home, releases: Releases) -> tuple[str, str]:
    """Two releases: the second is in use, the first was before it. Neither is ever opened here."""
    first, second = (install(home, releases.make(counter)).digest for counter in (1, 2))
    home.write_state(home.state().activated(first).activated(second))
    return first, second


def started(home: Home) -> str:
    return begin_start(home).manifest.digest()


def test_a_start_is_given_what_is_active_and_counted(home: Home, digests: tuple[str, str]) -> None:
    assert [started(home) for _ in range(2)] == [digests[1]] * 2
    assert (home.state().starts, home.state().starting) == (1, (files.this_process(),))
    confirm_start(home, digests[1])
    assert (home.state().starts, home.state().starting) == (0, ())


def test_any_number_of_processes_may_start_at_once(home: Home, digests: tuple[str, str]) -> None:
    context = multiprocessing.get_context("fork")
    told, done = context.SimpleQueue(), context.Event()

    def start() -> None:
        told.put(started(home))
        done.wait(60)

    processes = [context.Process(target=start) for _ in range(2 * MOST_STARTS)]
    for process in processes:
        process.start()
    assert [told.get() for _ in processes] == [digests[1]] * len(processes)
    assert (home.state().starts, len(home.state().starting)) == (0, len(processes))
    done.set()
    for process in processes:
        process.join()
    assert started(home) == digests[0], "all of them have ended without an answer"


def test_a_start_before_the_last_boot_has_ended(home: Home, digests: tuple[str, str]) -> None:
    state = home.state()
    for _ in range(MOST_STARTS):
        state = state.started(f"{'0' * 12}-{os.getpid()}-{1}")
    home.write_state(state)
    assert started(home) == digests[0]


def test_confirming_again_writes_nothing(home: Home, digests: tuple[str, str]) -> None:
    started(home)
    confirm_start(home, digests[1])
    before = (home.folder / "state.json").stat()
    confirm_start(home, digests[1])
    assert (home.folder / "state.json").stat().st_ino == before.st_ino


def test_a_crash_loop_ends_at_the_release_before(home: Home, digests: tuple[str, str]) -> None:
    first, second = digests
    assert [started(home) for _ in range(MOST_STARTS + 2)] == [*[second] * MOST_STARTS, first, first]
    state = home.state()
    assert (state.current, state.previous, state.starts) == (first, None, 1)
    assert state.releases[second].bad == "3 starts in a row gave no answer"
    assert (state.events[-1].kind, state.events[-1].release) == ("fallback", second)
    assert state.counter == 2


def test_an_answer_between_crashes_starts_the_count_anew(home: Home, digests: tuple[str, str]) -> None:
    for _ in range(3):
        for _ in range(MOST_STARTS - 1):
            assert started(home) == digests[1]
        confirm_start(home, digests[1])
    assert started(home) == digests[1]


def test_an_answer_of_a_release_that_is_left_proves_nothing_of_the_one_in_use(
    home: Home, digests: tuple[str, str]
) -> None:
    started(home)
    confirm_start(home, digests[0])
    assert home.state().starting


def test_without_one_to_go_back_to_a_crash_loop_goes_on(home: Home, releases: Releases) -> None:
    only = install(home, releases.make(1)).digest
    home.write_state(home.state().activated(only))
    assert {started(home) for _ in range(3 * MOST_STARTS)} == {only}
    assert home.state().releases[only].bad == ""


@pytest.mark.parametrize("damage", ["model/model.onnx", "recipe.yaml", "manifest.json", "all"])
def test_a_damaged_release_is_left_at_once_for_the_one_before(
    damage: str, home: Home, digests: tuple[str, str]
) -> None:
    first, second = digests
    if damage == "all":
        files.remove(home.path_of(second))
    else:
        (home.path_of(second) / damage).write_bytes(b"torn")
    assert started(home) == first
    state = home.state()
    assert (state.current, state.starts, len(state.starting)) == (first, 0, 1)
    assert state.releases[second].bad
    assert state.events[-1].kind == "fallback"


def test_both_damaged_is_told_and_never_served(home: Home, digests: tuple[str, str]) -> None:
    for digest in digests:
        (home.path_of(digest) / "recipe.yaml").write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(TrustError, match="is not what its manifest says"):
            begin_start(home)


def test_a_damaged_one_that_is_installed_again_is_served_again(
    home: Home, releases: Releases, digests: tuple[str, str]
) -> None:
    bundle = releases.make(3)
    third = install(home, bundle).digest
    home.write_state(home.state().activated(third))
    for digest in (digests[1], third):
        (home.path_of(digest) / "recipe.yaml").write_bytes(b"torn")
    with pytest.raises(TrustError):
        begin_start(home)
    install(home, releases.make(2))
    assert started(home) == digests[1]


def test_where_nothing_is_active_a_start_says_what_to_do(home: Home, releases: Releases) -> None:
    install(home, releases.make(1))
    with pytest.raises(DeviceError, match="no release is active") as caught:
        begin_start(home)
    assert caught.value.exit_code == 6
    assert "edgeopt device activate" in caught.value.hint


def test_nan_in_the_field_goes_back_once(home: Home, digests: tuple[str, str]) -> None:
    first, second = digests
    assert fall_back(home, second, "it gives NaN") is True
    assert (home.state().current, home.state().previous) == (first, None)
    assert fall_back(home, second, "it gives NaN") is True  # another process, which has not heard yet
    assert home.state().current == first
    assert [one.kind for one in home.state().events].count("fallback") == 1


def test_nan_of_the_only_release_is_noted_once_and_served_on(home: Home, digests: tuple[str, str]) -> None:
    first, second = digests
    fall_back(home, second, "it gives NaN")
    for _ in range(5):
        assert fall_back(home, first, "it gives NaN") is False
    state = home.state()
    assert state.current == first
    assert [one.text for one in state.events][-1] == "it gives NaN; there is none to go back to"
    assert len(state.events) == 4


def test_expiry_is_not_looked_at_when_a_device_starts(home: Home, releases: Releases) -> None:
    import datetime

    early = datetime.datetime(2026, 11, 2, tzinfo=datetime.timezone.utc)
    digest = install(home, releases.make(1, not_after="2026-11-03"), lambda: early).digest
    home.write_state(home.state().activated(digest))
    assert started(home) == digest
