"""A spool loses nothing but the oldest, says how many those were, and is whole after a kill at any point."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeopt import files
from edgeopt.cli import cli
from edgeopt.device.home import Home
from edgeopt.device.spool import BLOCK_BYTES, SPOOL, Spool
from edgeopt.errors import DiskError, TrustError, UsageError

#: as much as three snapshots of a few bytes take
THREE = 3 * BLOCK_BYTES


def numbers(spool: Spool) -> list[int]:
    return [one.number for one in spool.read().snapshots]


def test_what_was_kept_is_read_back_in_order(home: Home) -> None:
    spool = Spool(home)
    assert [spool.add(f"text {number}", at=float(number)) for number in range(3)] == [1, 2, 3]
    found = Spool(home).read()
    assert [(one.number, one.at, one.text) for one in found.snapshots] == [
        (1, 0.0, "text 0"), (2, 1.0, "text 1"), (3, 2.0, "text 2")
    ]  # fmt: skip
    assert (found.dropped, found.damaged) == (0, 0)


def test_an_empty_spool_says_nothing(home: Home) -> None:
    assert Spool(home).read().snapshots == ()
    assert Spool(home).newest() is None


def test_beyond_the_limit_the_oldest_go_and_are_counted(home: Home) -> None:
    spool = Spool(home, limit_bytes=THREE)
    for number in range(10):
        spool.add(f"text {number}")
    found = spool.read()
    assert numbers(spool) == [8, 9, 10]
    assert found.dropped == 7
    taken = sum(path.stat().st_blocks * 512 for path in (home.folder / SPOOL).glob("[0-9]*"))
    assert taken <= THREE


def test_the_newest_stays_however_large_it_is(home: Home) -> None:
    spool = Spool(home, limit_bytes=THREE)
    spool.add("small")
    spool.add("large" * BLOCK_BYTES)
    assert numbers(spool) == [2]
    assert spool.read().dropped == 1


def test_what_a_host_has_is_forgotten_and_numbers_go_on(home: Home) -> None:
    spool = Spool(home)
    for _ in range(4):
        spool.add("text")
    assert spool.forget(3) == 3
    assert numbers(spool) == [4]
    assert spool.forget(4) == 1
    assert (numbers(spool), spool.read().dropped) == ([], 0)
    assert spool.add("text") == 5
    assert numbers(spool) == [5]


def test_what_was_dropped_is_counted_once_however_often_a_host_comes(home: Home) -> None:
    spool = Spool(home, limit_bytes=THREE)
    for _ in range(8):
        spool.add("text")
    assert spool.read().dropped == 5
    spool.forget(2)  # which are gone already
    assert spool.read().dropped == 5
    spool.forget(7)
    assert spool.read().dropped == 5
    for _ in range(4):
        spool.add("text")
    assert numbers(spool) == [10, 11, 12]
    assert spool.read().dropped == 7
    spool.forget(12)
    assert spool.read().dropped == 7


def test_forgetting_again_removes_nothing_more_and_what_never_was_is_refused(home: Home) -> None:
    spool = Spool(home)
    spool.add("text")
    assert (spool.forget(1), spool.forget(1), spool.forget(0)) == (1, 0, 0)
    with pytest.raises(UsageError, match="there is no snapshot 2"):
        spool.forget(2)


def test_a_snapshot_with_other_bytes_is_left_out_and_counted(home: Home) -> None:
    spool = Spool(home)
    for _ in range(3):
        spool.add("text")
    (home.folder / SPOOL / "000000000003.json").write_bytes(b'{"at": 1')
    assert numbers(spool) == [1, 2]
    assert spool.read().damaged == 1
    newest = spool.newest()
    assert newest is not None
    assert newest.number == 2


def test_a_mark_that_cannot_be_read_is_named(home: Home) -> None:
    spool = Spool(home)
    spool.add("text")
    spool.forget(1)
    (home.folder / SPOOL / "forgotten.json").write_text("{")
    with pytest.raises(TrustError, match=r"forgotten\.json` cannot be read"):
        spool.read()


def test_a_full_disk_leaves_what_was_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(home)
    spool.add("text")

    def full(operation: str, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "observe", full)
    with pytest.raises(DiskError):
        spool.add("more")
    monkeypatch.undo()
    assert numbers(spool) == [1]
    assert spool.add("more") == 2


@pytest.mark.parametrize("operation", ["write", "rename", "remove"])
@pytest.mark.parametrize("act", ["add", "forget"])
def test_a_kill_before_any_change_leaves_a_spool_that_goes_on(home: Home, operation: str, act: str) -> None:
    for kill_at in range(3):
        spool = Spool(home, limit_bytes=THREE)
        while len(numbers(spool)) < 3:
            spool.add("before")
        before = spool.read()
        killed = _die(home, operation, kill_at, act)
        after = Spool(home, limit_bytes=THREE).read()
        assert after.damaged == 0
        seen = {one.number for one in after.snapshots}
        # none is lost that is not counted, and none is there twice
        kept = [one.number for one in before.snapshots]
        assert seen <= {*kept, kept[-1] + 1}
        if act == "add":
            gone = len(set(kept) - seen)
            assert after.dropped == before.dropped + gone
        else:
            assert kept[-1] in seen
            assert after.dropped == before.dropped
        assert spool.add("next") > max([*seen, kept[-1]]) - (not killed)
        assert not list((home.folder / SPOOL).glob(f"{files.TEMPORARY}*"))


def _die(home: Home, operation: str, kill_at: int, act: str) -> bool:
    """Do it in a process that is killed before the numbered change of that kind; whether it came that far."""

    def run() -> None:
        left = [kill_at]

        def kill(seen: str, path: Path) -> None:
            if seen == operation and SPOOL in path.parts:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1

        files.observe = kill
        spool = Spool(home, limit_bytes=THREE)
        spool.add("killed") if act == "add" else spool.forget(numbers(spool)[-2])

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def test_processes_at_once_take_numbers_of_their_own(home: Home) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add_many, args=(home,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert numbers(Spool(home)) == list(range(1, 41))


def _add_many(home: Home) -> None:
    for _ in range(10):
        Spool(home).add("text")


def test_the_command_prints_and_forgets(home: Home) -> None:
    Spool(home).add("# nothing yet\n", at=0.0)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["device", "spool", *arguments, "--home", str(home.folder)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "1 snapshots; 0 dropped" in run()
    assert json.loads(run("--json")) == {
        "snapshots": [{"number": 1, "at": 0.0, "text": "# nothing yet\n"}], "dropped": 0, "damaged": 0
    }  # fmt: skip
    assert run("--forget", "1") == "1 snapshots removed\n"
    assert json.loads(run("--json"))["snapshots"] == []
