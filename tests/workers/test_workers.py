"""A child may crash, hang, be killed or run wild: the parent learns it as a typed error and is left with no process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.errors import (
    BuildError,
    DataError,
    DiskError,
    EdgeoptError,
    MissingError,
    PassError,
    UsageError,
    WorkerError,
)
from edgeopt.workers import Limits, RemoteBug, Worker, run


@pytest.fixture(autouse=True)
def _import_hosted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def is_running(process: int) -> bool:
    """Whether a process lives; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_a_function_runs_in_another_process_and_gives_its_result() -> None:
    assert run("hosted:double", 21) == 42


def test_a_function_asks_its_parent_and_may_handle_what_goes_wrong_there() -> None:
    def answer(question: int, process: str) -> int:
        if question < 0:
            raise DataError("no negatives", "count up")
        return question * 2 + (process == str(os.getpid()))

    assert run("hosted:ask", 20, str(os.getpid()), lend=answer) == 41
    assert run("hosted:ask", -1, "", lend=answer) == "was told: no negatives"


def test_the_time_that_an_answer_takes_is_not_the_functions() -> None:
    def answer() -> str:
        time.sleep(1.5)
        return "slow"

    assert run("hosted:ask", lend=answer, limits=Limits(seconds=1.2)) == "slow"


def test_an_object_lives_between_calls_and_ends_with_its_block() -> None:
    with Worker("hosted:Counter", 40) as worker:
        process = worker.call("process_id")
        assert process == worker.process_id != os.getpid()
        assert [worker.call("add", 1), worker.call("add", 1)] == [41, 42]
        assert is_running(process)
    assert not is_running(process)


def test_several_workers_start_side_by_side() -> None:
    workers = [Worker("hosted:Counter", start) for start in range(3)]
    with contextlib.ExitStack() as stack:
        for worker in workers:
            stack.callback(worker.close)
            worker.start()
        for worker in workers:
            worker.wait_ready()
        assert [worker.call("add", 1) for worker in workers] == [1, 2, 3]


def test_an_error_raised_on_purpose_is_raised_again_with_its_hint() -> None:
    with pytest.raises(DataError) as caught:
        run("hosted:refuse")
    assert caught.value.message == "row 7 has label `12`, at most 9 is allowed"
    assert caught.value.hint == "mend the labels"


def test_an_error_keeps_its_further_fields() -> None:
    with pytest.raises(WorkerError) as caught:
        run("hosted:refuse_with_log")
    assert caught.value.log == "its log"


def test_an_error_crosses_with_the_traceback_of_its_cause() -> None:
    with pytest.raises(PassError) as caught:
        run("hosted:refuse_because")
    assert (caught.value.message, caught.value.hint) == ("it failed", "look")
    assert "in divide_by_zero" in caught.value.log
    assert caught.value.log.endswith("ZeroDivisionError: division by zero")


def test_an_error_without_a_cause_has_no_log() -> None:
    with pytest.raises(DataError) as caught:
        run("hosted:refuse")
    assert caught.value.log == ""


@pytest.mark.parametrize(
    ("function", "kind", "message", "hint"),
    [
        ("import_torch_where_it_is_not", MissingError, "`torch` is not installed", "pip install 'edgeopt[compile]'"),
        ("import_what_is_unknown", MissingError, "`unheard_of` is not installed", "install it into the Python"),
        ("fill_the_disk", DiskError, "no space left on the disk", "free some space"),
        ("open_what_is_not_there", UsageError, "cannot use `nowhere/at_all`: no such file or directory", "check"),
    ],
)
def test_what_the_surroundings_lack_is_named_and_no_bug(
    function: str, kind: type[EdgeoptError], message: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        run(f"hosted:{function}")
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)
    assert f"in {function}" in caught.value.log


def test_an_object_that_cannot_be_made_leaves_no_process() -> None:
    worker = Worker("hosted:Counter", -1)
    with pytest.raises(DataError, match="at least 0"), worker:
        pass
    assert not is_running(worker.process_id)


def test_a_worker_serves_on_after_an_error() -> None:
    with Worker("edgeopt.workers.child:Once", "hosted:double") as worker:
        with pytest.raises(RemoteBug, match="TypeError"):
            worker.call("run", None, None)
        assert worker.call("run", 4) == 8


def test_a_bug_comes_with_the_traceback_of_the_child() -> None:
    with pytest.raises(RemoteBug, match=r"(?s)hosted\.py.*in divide_by_zero.*ZeroDivisionError"):
        run("hosted:divide_by_zero")


@pytest.mark.parametrize("function", ["hosted:absent", "edgeopt.absent:absent"])
def test_a_function_that_is_not_there_is_a_bug(function: str) -> None:
    with pytest.raises(RemoteBug, match="absent"):
        run(function)


def test_a_result_that_cannot_cross_is_a_bug() -> None:
    with pytest.raises(RemoteBug, match="pickle"):
        run("hosted:give_a_lambda")


@pytest.mark.parametrize(("function", "name"), [("hosted:segfault", "SIGSEGV"), ("hosted:abort", "SIGABRT")])
def test_a_crash_is_named_with_the_last_lines_of_its_log(function: str, name: str) -> None:
    with pytest.raises(WorkerError, match=f"the process of `{function}` crashed with {name}") as caught:
        run(function)
    assert f"in {function.partition(':')[2]}" in caught.value.log
    assert caught.value.exit_code == 5


def test_an_early_end_is_named() -> None:
    with pytest.raises(WorkerError, match="ended early with exit code 3"):
        run("hosted:exit_early")


def test_a_kill_is_told_as_a_lack_of_memory() -> None:
    with pytest.raises(WorkerError, match="was killed") as caught:
        run("hosted:kill_itself")
    assert "memory" in caught.value.hint


def test_a_hang_is_ended_at_its_limit() -> None:
    worker = Worker("edgeopt.workers.child:Once", "hosted:hang", limits=Limits(seconds=2), name="hosted:hang")
    with worker, pytest.raises(WorkerError, match=r"`hosted:hang` did not answer within 2 s and was ended"):
        worker.call("run")
    assert not is_running(worker.process_id)


def test_a_child_that_closes_its_pipe_and_stays_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeopt.workers.GRACE_S", 0.2)
    with pytest.raises(WorkerError, match="was killed"):
        run("hosted:close_pipe_and_hang", limits=Limits(seconds=30))


def test_memory_beyond_the_limit_is_a_named_error_and_the_limit_is_the_childs_own() -> None:
    limits = Limits(memory_bytes=300_000_000)
    assert run("hosted:allocate", 10_000_000, limits=limits) == 10_000_000
    with pytest.raises(BuildError, match="out of memory") as caught:
        run("hosted:allocate", 400_000_000, limits=limits)
    assert "smaller" in caught.value.hint
    assert run("hosted:allocate", 400_000_000) == 400_000_000


def test_a_library_for_which_there_is_no_memory_is_told_as_such_and_one_that_must_not_run_is_not() -> None:
    unmapped = "numpy failed: /lib/libx.so: failed to map segment from shared object"
    with pytest.raises(BuildError, match="out of memory"):
        run("hosted:fail_to_import", unmapped)
    with pytest.raises(RemoteBug, match="not permitted"):
        run("hosted:fail_to_import", unmapped + ": Operation not permitted")


def test_a_hundred_megabytes_of_log_neither_block_nor_fill_the_parent() -> None:
    assert run("hosted:write_to_stderr", 100_000_000) == "done"
    with pytest.raises(WorkerError) as caught:
        run("hosted:write_to_stderr_and_abort", 100_000_000)
    assert "the last line" in caught.value.log
    assert len(caught.value.log) < 10_000


def test_progress_arrives_in_order_and_before_the_result() -> None:
    told: list[tuple[str, float | None]] = []
    assert run("hosted:work_in_steps", progress=lambda text, fraction: told.append((text, fraction))) == "done"
    assert told == [("step 0", 0.0), ("step 1", 0.5), ("step 2", 1.0), ("no idea how far", None)]


def test_progress_outside_a_worker_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    from hosted import work_in_steps

    assert work_in_steps() == "done"
    assert capfd.readouterr() == ("", "")


def test_what_the_child_writes_does_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    run("hosted:write_to_stderr", 2_000)
    assert capfd.readouterr() == ("", "")


def test_the_environment_of_a_child_can_be_set() -> None:
    assert run("hosted:environ", "OMP_NUM_THREADS", environ={"OMP_NUM_THREADS": "3"}) == "3"


def test_a_file_in_the_working_folder_shadows_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("random.py", "select.py", "edgeopt.py"):
        (tmp_path / name).write_text("raise RuntimeError('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    assert run("hosted:double", 2) == 4


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="SIGABRT"):
        run("hosted:start_a_grandchild", str(tmp_path / "process"))
    grandchild = int((tmp_path / "process").read_text())
    assert wait_until(lambda: not is_running(grandchild))


def test_closing_twice_is_no_fault() -> None:
    worker = Worker("hosted:Counter", 0)
    worker.start()
    worker.close()
    worker.close()
    assert not is_running(worker.process_id)


PARENT = """if True:
    import sys, time
    from edgeopt.workers import Worker
    def tell(*progress):
        sys.stdout.write(str(worker.process_id) + chr(10))
        sys.stdout.flush()
    worker = Worker("hosted:Counter", 0, progress=tell)
    with worker:
        {act}
"""


@pytest.mark.parametrize("act", ["tell(); time.sleep(600)", "worker.call('hang')"])
def test_a_child_dies_with_its_killed_parent_and_nothing_is_left(act: str, tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", PARENT.format(act=act)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not is_running(child))
    assert list(tmp_path.iterdir()) == []
