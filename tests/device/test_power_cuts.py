"""Cut the power after any system call: what was acknowledged is there, what is there is whole, and it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.crash_states import Disk
from benchmarks.power_cuts import Story, cut_after_a_kill, cut_everywhere, tell_life
from benchmarks.shipments import Publisher, in_memory
from benchmarks.syscalls import is_available, record
from edgeopt import files

pytestmark = pytest.mark.skipif(not is_available(), reason="strace is not installed")


@pytest.fixture
def memory() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


@pytest.fixture
def life(memory: Path) -> Story:
    return tell_life(Publisher.make(memory / "publisher"))


def contents_after(act: Callable[[Path], object], folder: Path) -> set[bytes | None]:
    """What may stand in `file` after a power cut at any moment of an act; None: no such file."""
    act(folder / "warm")  # loads what is loaded late
    (folder / "file").write_bytes(b"old content")
    disk = Disk(folder)
    found = {b"old content"}
    for call in record(lambda: act(folder / "file")):
        if disk.apply(call):
            found |= {state.get("file") for state in disk.states(most=1_000, seed=0)}
    return found


def test_a_file_that_is_written_with_care_is_the_old_or_the_new(tmp_path: Path) -> None:
    found = contents_after(lambda path: files.write_bytes(path, b"new content"), tmp_path)
    assert found == {b"old content", b"new content"}


def test_a_file_that_is_written_in_place_may_be_anything(tmp_path: Path) -> None:
    found = contents_after(lambda path: path.write_bytes(b"new content"), tmp_path)
    assert {b"old content", b"new content", b"", b"new c", bytes(11)} < found


def test_a_file_that_is_renamed_before_its_content_is_synced_may_be_torn(tmp_path: Path) -> None:
    def careless(path: Path) -> None:
        path.with_suffix(".new").write_bytes(b"new content")
        path.with_suffix(".new").replace(path)

    assert {b"old content", b"new content", b"", b"new c"} < contents_after(careless, tmp_path)


def test_a_call_that_is_not_modelled_is_no_guess(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    disk = Disk(tmp_path)
    (call,) = (one for one in record(lambda: (tmp_path / "link").symlink_to("file")) if one.touches(tmp_path))
    with pytest.raises(RuntimeError, match="no model of `symlink`"):
        disk.apply(call)


def test_the_first_release_of_a_device_outlives_a_power_cut_at_any_moment(life: Story, memory: Path) -> None:
    found = cut_everywhere(Story(life.steps[:3]), memory, most=6)
    assert found.faults() == []
    assert found.states > 80


def test_without_fsync_releases_break_and_what_was_acknowledged_is_lost(life: Story, memory: Path) -> None:
    found = cut_everywhere(Story(life.steps[:5]), memory, most=6, synced=False)
    assert found.broken
    assert found.lost


@pytest.mark.slow
def test_a_device_outlives_a_power_cut_at_any_moment_of_its_life(life: Story, memory: Path) -> None:
    found = cut_everywhere(life, memory, most=12)
    assert found.faults() == []
    assert found.states > 700


@pytest.mark.slow
def test_what_a_second_try_acknowledges_after_a_kill_outlives_a_power_cut(life: Story, memory: Path) -> None:
    found = cut_after_a_kill(Story(life.steps[:5]), memory, most=3)
    assert found.faults() == []
    assert found.states > 50
