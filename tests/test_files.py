"""Whatever fails, and whenever a process is killed: the old content or the new, and nothing left lying about."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeopt import files
from edgeopt.errors import DiskError, EdgeoptError, MissingError, UsageError

Act = Callable[[Path], object]


def write(place: Path) -> None:
    files.write_bytes(place / "folder" / "file", b"new")


def copy(place: Path) -> None:
    files.copy(place / "source", place / "folder" / "file")


def publish(place: Path) -> None:
    with files.scratch(place) as made:
        files.write_bytes(made / "deep" / "file", b"new")
        with files.create(made / "streamed") as stream:
            stream.write(b"new")
        files.publish(made, place / "folder")


def publish_file(place: Path) -> None:
    files.publish_file(place / "source", place / "folder" / "file")


def remove(place: Path) -> None:
    files.remove(place / "folder")


ACTS = [write, copy, publish, publish_file, remove]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder in which every act has something to do, and something old to lose."""
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "file").write_bytes(b"old")
    (tmp_path / "folder" / "deep" / "file").write_bytes(b"old")
    (tmp_path / "source").write_bytes(b"new")
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def every_state(act: Act, place: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What `place` holds before the act, and in a copy of it, after."""
    copied = place.parent / f"{place.name}-after"
    subprocess.run(["cp", "-r", place, copied], check=True)
    act(copied)
    return tree(place), tree(copied)


def failures_of(
    act: Act, place: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EdgeoptError | OSError]:
    """Run the act with a fault at its first write, then at its second and so on, until it runs without meeting one."""
    for allowed in itertools.count():
        writes = itertools.count()

        def fail(operation: str, path: Path, allowed: int = allowed, writes: Iterator[int] = writes) -> None:
            if next(writes) >= allowed:
                raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(files, "observe", fail)
            try:
                act(place)
            except (EdgeoptError, OSError) as error:
                yield error
            else:
                return


@pytest.mark.parametrize("act", ACTS)
def test_a_full_disk_at_any_write_leaves_the_old_content_and_no_rest(
    act: Act, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = every_state(act, place)
    failures = 0
    for error in failures_of(act, place, errno.ENOSPC, monkeypatch):
        assert isinstance(error, DiskError)
        assert "no space left on the disk" in error.message
        assert tree(place) == before
        failures += 1
    assert failures >= 1
    assert tree(place) == after


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EDQUOT, DiskError), (errno.EIO, MissingError), (errno.EROFS, UsageError)]
)
def test_a_fault_of_the_disk_is_told_by_what_to_do_about_it(
    number: int, kind: type[EdgeoptError], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in failures_of(write, place, number, monkeypatch):
        assert type(error) is kind
        assert error.hint


def test_a_fault_that_is_a_bug_stays_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(error) for error in failures_of(remove, place, errno.EBADF, monkeypatch)] == [OSError]


def run_until_killed(act: Act, place: Path, allowed: int) -> bool:
    """Run the act in a child that is killed before one write more than `allowed`; tells whether it came to that."""
    child = os.fork()
    if child == 0:
        writes = itertools.count()

        def kill(operation: str, path: Path) -> None:
            if next(writes) >= allowed:
                os.kill(os.getpid(), signal.SIGKILL)

        files.observe = kill
        act(place)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("act", ACTS)
def test_a_kill_at_any_write_leaves_the_old_content_or_the_new(act: Act, place: Path) -> None:
    before, after = every_state(act, place)
    kills = 0
    while run_until_killed(act, place, kills):
        kills += 1
        for folder in [place, *(path for path in place.rglob("*") if path.is_dir())]:
            files.sweep(folder)
        assert tree(place) == before
    assert kills >= 1
    assert tree(place) == after


def test_a_reader_sees_the_old_content_or_the_new_and_nothing_between(tmp_path: Path) -> None:
    contents = [bytes([number]) * 300_000 for number in (1, 2)]
    files.write_bytes(tmp_path / "file", contents[0])
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(lambda: [files.write_bytes(tmp_path / "file", contents[n % 2]) for n in range(100)])
        reads = 0
        while not writing.done():
            assert (tmp_path / "file").read_bytes() in contents
            reads += 1
    writing.result()
    assert reads > 10


def test_a_written_file_has_its_content_and_the_usual_mode(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b" / "file", "één")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == "één".encode()
    (tmp_path / "usual").touch()
    assert (tmp_path / "a" / "b" / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        files.write_bytes(tmp_path / "file" / "inside", b"")
    with pytest.raises(UsageError, match="cannot write"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot write"):
        files.write_bytes(tmp_path, b"")
    with pytest.raises(UsageError, match="cannot write"):
        files.write_bytes(tmp_path / ("x" * 300), b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert files.hash_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_new_file_is_never_made_through_a_link_or_over_another(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "there").write_bytes(b"old")
    for name in ("link", "there"):
        with pytest.raises(UsageError, match="cannot write"), files.create(tmp_path / name):
            pass
    assert not (tmp_path / "outside").exists()
    assert (tmp_path / "there").read_bytes() == b"old"


def test_a_file_that_grows_keeps_what_it_held_when_it_was_cut_off(tmp_path: Path) -> None:
    with contextlib.suppress(KeyError), files.append(tmp_path / "new" / "part") as stream:
        stream.write(b"first ")
        raise KeyError
    with files.append(tmp_path / "new" / "part") as stream:
        stream.seek(0)
        assert stream.read() == b"first "
        stream.seek(0)
        stream.write(b"second")
    assert (tmp_path / "new" / "part").read_bytes() == b"first second"


def test_a_file_grows_for_one_at_a_time_and_never_through_a_link_or_once_it_is_published(tmp_path: Path) -> None:
    part, late = tmp_path / "part", tmp_path / "late"
    with files.append(part), pytest.raises(UsageError, match="another process writes"), files.append(part):
        pass
    late.symlink_to(part)
    with pytest.raises(UsageError, match="cannot write"), files.append(late):
        pass
    code = "import fcntl, os, sys; fcntl.flock(0, fcntl.LOCK_EX); os.rename(sys.argv[1], sys.argv[2])"
    real = files.fcntl.flock

    def overtaken(stream: object, mode: int) -> None:  # between its opening and its locking, another one is done
        with part.open("rb") as other:
            subprocess.run([sys.executable, "-c", code, part, tmp_path / "published"], stdin=other, check=True)
        real(stream, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.fcntl, "flock", overtaken)
        with pytest.raises(UsageError, match="another process writes"), files.append(part) as stream:
            stream.write(b"too late")
    assert (tmp_path / "published").read_bytes() == b""


def test_a_scratch_folder_is_gone_whatever_happens(tmp_path: Path) -> None:
    with contextlib.suppress(KeyError), files.scratch(tmp_path) as folder:
        (folder / "file").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_where_the_kernel_cannot_swap(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = every_state(publish, place)
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    publish(place)
    assert tree(place) == after != before


def test_a_folder_that_cannot_be_replaced_is_put_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(place)
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    with pytest.raises(FileNotFoundError):
        files._exchange(place / "absent", place / "folder")
    assert tree(place) == before


def test_removing_a_link_leaves_what_it_points_to(place: Path) -> None:
    (place / "link").symlink_to(place / "folder")
    files.remove(place / "link")
    assert not (place / "link").is_symlink()
    assert (place / "folder" / "file").read_bytes() == b"old"


def test_removing_what_is_not_there_is_no_fault(tmp_path: Path) -> None:
    files.remove(tmp_path / "absent")


#: what users and other programs name their files
OTHERS = [
    ".tmp-20240101", ".tmp-20240101123456", ".tmp-7-0-0123456789ab", ".tmp-of somebody else",
    f"{files.TEMPORARY}20240101", f"{files.TEMPORARY}{'0' * 12}-20240101123456-1-{'0' * 12}",
    f"{files.TEMPORARY}{'0' * 12}-1-1-{'0' * 12}.txt", f"{files.TEMPORARY}{'0' * 12}-1-1-{'0' * 11}", files.TEMPORARY,
]  # fmt: skip


@pytest.fixture
def leftover(tmp_path: Path) -> Callable[..., Path]:
    """Makes what a process of this number, in this place unless another is named, might have left."""
    with files.scratch(tmp_path) as folder:
        here, number, started, token = folder.name.removeprefix(files.TEMPORARY).split("-")

    def leave(process: str = number, place: str = here) -> Path:
        path = tmp_path / f"{files.TEMPORARY}{place}-{process}-{int(started) - 1}-{token}"
        path.mkdir()
        (path / "file").touch()
        return path

    return leave


def test_sweeping_spares_the_living_and_what_is_not_temporary(tmp_path: Path) -> None:
    names = sorted(["kept", *OTHERS])
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    with files.scratch(tmp_path) as folder:
        os.utime(folder, (0, 0))
        assert files.sweep(tmp_path) == 0
        assert folder.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("process", [None, "9999999"])
def test_sweeping_removes_what_a_dead_process_left_even_where_its_number_lives_on(
    process: str | None, tmp_path: Path, leftover: Callable[..., Path]
) -> None:
    leftover() if process is None else leftover(process)
    assert files.sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_sweeping_leaves_what_another_container_is_at_for_a_day(tmp_path: Path, leftover: Callable[..., Path]) -> None:
    path = leftover("9999999", place="0" * 12)
    assert files.sweep(tmp_path) == 0
    an_hour_short = time.time() - files.FOREIGN_SECONDS + 3600
    os.utime(path, (an_hour_short, an_hour_short))
    assert files.sweep(tmp_path) == 0
    os.utime(path, (an_hour_short - 7200, an_hour_short - 7200))
    assert files.sweep(tmp_path) == 1
    assert not path.exists()


def test_what_cannot_be_swept_stays_and_is_no_fault(
    tmp_path: Path, leftover: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leftover()

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(files, "_delete", refuse)
    assert files.sweep(tmp_path) == 0
    assert path.is_dir()


def test_sweeping_a_folder_that_is_not_there_finds_nothing(tmp_path: Path) -> None:
    assert files.sweep(tmp_path / "absent") == 0


def test_a_lock_is_exclusive_and_free_after_its_block(tmp_path: Path) -> None:
    with files.lock(tmp_path / "lock", wait=False) as first, files.lock(tmp_path / "lock", wait=False) as second:
        assert (first, second) == (True, False)
    with files.lock(tmp_path / "lock", wait=False) as again:
        assert again


def test_shared_locks_go_together_and_keep_writers_out(tmp_path: Path) -> None:
    with (
        files.lock(tmp_path / "lock", shared=True) as first,
        files.lock(tmp_path / "lock", shared=True, wait=False) as second,
        files.lock(tmp_path / "lock", wait=False) as writer,
    ):
        assert (first, second, writer) == (True, True, False)


def test_a_lock_is_free_once_its_holder_is_killed(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from edgeopt import files
        with files.lock(Path(sys.argv[1])):
            sys.stdout.write("held\\n")
            sys.stdout.flush()
            time.sleep(60)
    """
    command = [sys.executable, "-c", code, tmp_path / "lock"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with files.lock(tmp_path / "lock", wait=False) as taken:
            assert not taken
        holder.kill()
        holder.wait()
        with files.lock(tmp_path / "lock", wait=False) as taken:
            assert taken


def test_a_lock_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(UsageError, match="cannot write"), files.lock(tmp_path / "lock"):
        pass
