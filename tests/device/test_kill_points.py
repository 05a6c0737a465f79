"""Kill -9 wherever a device, a bundle or the store changes: nothing breaks, the next try succeeds, nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kill_points import Tried, kill_by_observer, kill_by_strace, try_kills
from benchmarks.operations import Operation, make_operations, quick_smoke
from benchmarks.shipments import Publisher, in_memory
from benchmarks.syscalls import is_available
from edgeopt import files

needs_strace = pytest.mark.skipif(not is_available(), reason="strace is not installed")


@pytest.fixture
def memory() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


@pytest.fixture
def operations(memory: Path) -> Iterator[list[Operation]]:
    """All of them, without the smoke test's own processes, which change nothing on a device."""
    with quick_smoke():
        yield list(make_operations(Publisher.make(memory / "publisher"), memory))


def faults(tried: Tried) -> list[str]:
    return [*tried.broken, *tried.failed_again, *tried.leftovers]


@pytest.mark.parametrize("name", ["roll back", "gc", "bundle pack"])
def test_a_kill_before_any_change_breaks_nothing_and_leaves_nothing(
    name: str, operations: list[Operation], memory: Path
) -> None:
    operation = next(one for one in operations if one.name == name)
    tried = try_kills(operation, memory / "tries", kill_by_observer)
    assert faults(tried) == []
    assert tried.points >= 2


@pytest.mark.slow
def test_a_kill_before_any_change_of_any_step_breaks_nothing_and_leaves_nothing(
    operations: list[Operation], memory: Path
) -> None:
    tried = [try_kills(operation, memory / "tries", kill_by_observer) for operation in operations]
    assert {one.name: faults(one) for one in tried if faults(one)} == {}
    assert sum(one.points for one in tried) > 120


@pytest.mark.slow
@needs_strace
def test_a_kill_before_any_system_call_breaks_nothing_and_leaves_nothing(
    operations: list[Operation], memory: Path
) -> None:
    tried = [try_kills(operation, memory / "tries", kill_by_strace) for operation in operations]
    assert {one.name: faults(one) for one in tried if faults(one)} == {}
    assert sum(one.points for one in tried) >= 200


def test_a_step_that_writes_in_place_does_not_go_unnoticed(operations: list[Operation], memory: Path) -> None:
    def careless(place: Path) -> None:
        state = place / "state.json"
        content = state.read_bytes()
        state.write_bytes(content[:10])
        files.make_folder(place / "releases" / "new")
        files.write_bytes(state, content)

    sound = next(one for one in operations if one.name == "roll back")
    tried = try_kills(Operation("careless", sound.before, careless, sound.look, sound.clear), memory, kill_by_observer)
    assert tried.broken
