"""Finished steps come back as they were put, damaged ones do not come back at all, and no fault leaves a half one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeopt import files
from edgeopt.errors import EdgeoptError, MissingError, UsageError
from edgeopt.store import Found, Store, default_root, recipe_slot, size_of, why

KEY = "0123456789abcdef" * 4
OTHER = "f" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    operations: list[str] = []
    monkeypatch.setattr(files, "observe", lambda operation, path: operations.append(operation))
    return operations


def do_step(store: Store, key: str = KEY, **result: Any) -> Found:
    """One step as a run does it: it leaves two files."""
    with store.hold(key), store.workspace() as folder:
        files.write_bytes(folder / "model.onnx", b"graph")
        files.write_bytes(folder / "inner" / "note.txt", b"note")
        return store.put(key, "export_onnx", {"seed": "0"}, result or {"facts": {"nodes": 3}}, 1.5, folder)


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob(f"{files.TEMPORARY}*"))


def test_a_step_comes_back_as_it_was_put(store: Store) -> None:
    put = do_step(store)
    assert store.has(KEY)
    found = store.find(KEY)
    assert found == put
    assert found is not None
    assert found.entry.step == "export_onnx"
    assert found.entry.result == {"facts": {"nodes": 3}}
    assert found.entry.seconds == 1.5
    assert (found.folder / "model.onnx").read_bytes() == b"graph"
    assert (found.folder / "inner" / "note.txt").read_bytes() == b"note"
    assert not leftovers(store.root)


def test_what_was_not_put_is_not_found(store: Store) -> None:
    assert store.find(KEY) is None
    assert not store.has(KEY)
    assert list(store.entries()) == []
    assert not store.notes


def test_a_step_that_failed_leaves_nothing(store: Store) -> None:
    with contextlib.suppress(ZeroDivisionError), store.workspace() as folder:
        files.write_bytes(folder / "model.onnx", b"half")
        raise ZeroDivisionError
    assert store.find(KEY) is None
    assert not leftovers(store.root)


@pytest.mark.parametrize("damage", ["flip", "cut", "lose", "gain", "entry", "entry result", "no entry", "other key"])
def test_a_damaged_step_is_removed_with_a_note_and_done_again(damage: str, store: Store) -> None:
    found = do_step(store)
    model, entry = found.folder / "model.onnx", found.folder.parent / "entry.json"
    if damage == "flip":
        model.write_bytes(b"grapx")
    elif damage == "cut":
        model.write_bytes(b"gra")
    elif damage == "lose":
        (found.folder / "inner" / "note.txt").unlink()
    elif damage == "gain":
        (found.folder / "extra").touch()
    elif damage == "entry":
        entry.write_bytes(b"{")
    elif damage == "entry result":
        entry.write_bytes(entry.read_bytes().replace(b'"nodes":3', b'"nodes":4'))
    elif damage == "no entry":
        entry.unlink()
    elif damage == "other key":
        store.root.joinpath("steps", KEY).rename(store.root / "steps" / OTHER)
    key = OTHER if damage == "other key" else KEY
    assert store.find(key) is None
    if damage != "no entry":
        (note,) = store.notes
        assert note.endswith(": done again")
        assert not (store.root / "steps" / key).exists()
    do_step(store, key)
    assert store.find(key) is not None


def test_verify_names_what_is_damaged_and_leaves_it(store: Store) -> None:
    do_step(store)
    assert store.verify() == []
    (do_step(store, OTHER).folder / "model.onnx").write_bytes(b"wrong")
    (wrong,) = store.verify()
    assert wrong == f"`model.onnx` of the stored step `export_onnx` ({OTHER[:12]}) does not have its digest"
    assert store.has(OTHER)


def test_a_step_on_a_failing_disk_is_damaged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    do_step(store)

    def fail(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "hash_file", fail)
    assert len(store.verify()) == 1


def test_a_step_done_afresh_replaces_the_old_one(store: Store) -> None:
    do_step(store, nodes=1)
    do_step(store, nodes=2)
    found = store.find(KEY)
    assert found is not None
    assert found.entry.result == {"nodes": 2}
    assert not leftovers(store.root)


def test_checkpoints_live_until_the_step_is_put(store: Store) -> None:
    files.write_bytes(store.checkpoints(KEY) / "000001.checkpoint", b"state")
    files.write_bytes(store.checkpoints(OTHER) / "000001.checkpoint", b"state")
    do_step(store)
    assert not store.checkpoints(KEY).exists()
    assert store.checkpoints(OTHER).exists()


def test_checkpoints_that_a_kill_left_behind_go_when_the_step_is_found(store: Store) -> None:
    do_step(store)
    files.write_bytes(store.checkpoints(KEY) / "000001.checkpoint", b"state")
    assert store.find(KEY) is not None
    assert not store.checkpoints(KEY).exists()


# faults


def count_operations(tmp_path: Path, observed: list[str]) -> int:
    """How many mutations one step makes."""
    do_step(Store(tmp_path / "counted"))
    return len(observed)


def test_a_full_disk_at_any_moment_leaves_the_old_step_or_none(
    tmp_path: Path, observed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = count_operations(tmp_path, observed)
    assert count > 5
    for fault in range(count):
        store, left = Store(tmp_path / f"store{fault}"), iter(range(fault, -1, -1))

        def full(operation: str, path: Path, left: Iterator[int] = left) -> None:
            if next(left, 0) == 0 and operation != "remove":
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files, "observe", full)
        with pytest.raises(MissingError, match="no space left on the disk"):
            do_step(store)
        monkeypatch.setattr(files, "observe", lambda operation, path: None)
        assert not store.has(KEY)
        assert not leftovers(store.root)
        do_step(store)
        assert store.find(KEY) is not None


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeopt import files
from edgeopt.store import Store
root, key, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def observe(operation, path):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
files.observe = observe
store = Store(root)
with store.in_use(), store.hold(key), store.workspace() as folder:
    files.write_bytes(folder / "model.onnx", b"graph")
    files.write_bytes(store.checkpoints(key) / "000001.checkpoint", b"state")
    store.put(key, "export_onnx", {}, {}, 0.0, folder)
"""


def test_a_kill_at_any_moment_leaves_nothing_broken_and_the_next_run_sweeps_up(store: Store) -> None:
    do_step(store, OTHER)
    finished = False
    for moment in range(60):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(store.root), KEY, str(moment)], check=False)
        finished = killed.returncode == 0
        assert finished or killed.returncode == -signal.SIGKILL
        with store.in_use():
            assert not leftovers(store.root)
        assert store.verify() == []
        if finished:
            break
        if store.find(KEY) is not None:
            files.remove(store.root / "steps" / KEY)
    assert finished, "more mutations than thought"
    assert not store.notes
    assert store.find(KEY) is not None
    assert store.find(OTHER) is not None


def test_a_run_sweeps_only_while_no_other_uses_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[Path] = []
    monkeypatch.setattr(files, "sweep", swept.append)
    with store.in_use():
        assert store.root / "steps" in swept
        swept.clear()
        with Store(store.root).in_use():
            assert not swept


COMPETING = """
import sys, time
from pathlib import Path
from edgeopt import files
from edgeopt.store import Store
root, key = Path(sys.argv[1]), sys.argv[2]
store = Store(root)
with store.in_use(), store.hold(key):
    if store.find(key) is None:
        with store.workspace() as folder:
            with open(root / "done", "a") as stream:
                stream.write("x")
            time.sleep(0.3)
            files.write_bytes(folder / "file", b"content")
            store.put(key, "step", {}, {}, 0.3, folder)
"""


def test_processes_that_want_one_step_do_it_once(store: Store) -> None:
    store.root.mkdir()
    command = [sys.executable, "-c", COMPETING, str(store.root), KEY]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert (store.root / "done").read_text() == "x"
    assert store.find(KEY) is not None


def test_a_kill_of_whoever_holds_a_step_lets_the_next_one_in(store: Store) -> None:
    code = "import sys,time; from pathlib import Path; from edgeopt.store import Store\n"
    code += "with Store(Path(sys.argv[1])).hold(sys.argv[2]):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(store.root), KEY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
        process.wait()
    started = time.monotonic()
    do_step(store)
    assert time.monotonic() - started < 5


# gc


def test_gc_removes_what_is_old_and_tells_how_much(store: Store) -> None:
    old, new = do_step(store), do_step(store, OTHER)
    files.write_bytes(store.checkpoints("c" * 64) / "000001.checkpoint", b"x" * 1000)
    for folder in (old.folder.parent, store.checkpoints("c" * 64)):
        os.utime(folder, (time.time() - 10 * 86400,) * 2)
    size = size_of(old.folder.parent) + 1000
    assert store.collect(11) == (0, 0)
    assert store.collect(9) == (2, size)
    assert store.find(KEY) is None
    assert store.find(OTHER) == new
    assert not store.checkpoints("c" * 64).exists()
    assert not leftovers(store.root)


def test_gc_refuses_while_a_run_uses_the_store(store: Store) -> None:
    do_step(store)
    with store.in_use():
        assert Store(store.root).collect(0) is None
        with Store(store.root).in_use():  # runs do not keep each other out
            pass
    assert store.find(KEY) is not None
    time.sleep(0.01)
    removed = store.collect(0)
    assert removed is not None
    assert removed[0] == 1


def test_gc_of_a_store_that_is_not_there_removes_nothing(store: Store) -> None:
    assert store.collect(0) == (0, 0)
    assert store.verify() == []


# why


def test_why_says_what_changed_came_and_went() -> None:
    old = {"options": "a", "seed": "0", "file network.py": "x"}
    new = {"options": "b", "seed": "0", "library torch": "2.13"}
    assert why(old, new) == ["options changed", "library torch is new", "file network.py is gone"]
    assert why(old, old) == []


def test_recipes_of_one_name_in_two_places_are_remembered_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    slot = recipe_slot(Path("recipe.yaml"), "digits")
    assert slot == recipe_slot(tmp_path / "a" / "recipe.yaml", "digits")
    assert slot != recipe_slot(tmp_path / "b" / "recipe.yaml", "digits")
    assert slot.startswith("digits-")


def test_what_is_remembered_is_recalled(store: Store) -> None:
    assert store.recall("digits") == {}
    parts = {"load original": {"file network.py": "x"}, "export_onnx": {}}
    store.remember("digits", parts)
    assert store.recall("digits") == parts
    assert store.recall("other") == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": 3}', b'{"step": {"part": 1}}', b"\xff\xfe", b"null"])
def test_a_damaged_memory_is_noted_and_left_out(content: bytes, store: Store) -> None:
    store.remember("digits", {})
    (store.root / "latest" / "digits.json").write_bytes(content)
    assert store.recall("digits") == {}
    (note,) = store.notes
    assert "damaged" in note


# where


def test_the_store_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path))
    assert Store().root == tmp_path
    monkeypatch.delenv("EDGEOPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "edgeopt"


def test_without_a_home_folder_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEOPT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UsageError) as caught:
        default_root()
    assert "EDGEOPT_CACHE" in caught.value.hint


def test_a_store_where_no_store_can_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgeoptError, match="cannot write"), Store(tmp_path / "file").in_use():
        pass


def test_an_entry_is_plain_json_that_says_what_the_step_was(store: Store) -> None:
    entry = json.loads((do_step(store).folder.parent / "entry.json").read_bytes())
    assert entry["step"] == "export_onnx"
    assert set(entry["files"]) == {"model.onnx", "inner/note.txt"}
