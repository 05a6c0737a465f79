from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scripted_backend import script

from edgeopt.errors import BackendError, WorkerError
from edgeopt.validation import subject
from edgeopt.validation.subject import Subject, thread_environment
from edgeopt.workers import Limits, Worker

pytestmark = pytest.mark.usefixtures("scripted")

INPUTS = [{"image": np.full((1, 1, 2, 2), index, np.float32)} for index in range(3)]


@pytest.fixture
def _collector() -> Iterator[None]:
    yield
    gc.enable()


def hosted(**settings: object) -> Worker:
    return Worker(
        "edgeopt.validation.subject:Subject",
        script(**settings),
        INPUTS,
        limits=Limits(20),
        environ=thread_environment(1),
    )


def test_a_block_has_as_many_times_as_asked_and_each_is_that_of_one_run() -> None:
    with hosted(microseconds=800) as worker:
        block = worker.call("time_block", 2, 30)
    assert len(block.times_ns) == len(block.waited_ns) == 30
    assert min(block.times_ns) >= 800_000
    assert np.median(np.subtract(block.times_ns, block.waited_ns)) < 1_200_000
    assert min(block.waited_ns) >= 0


@pytest.fixture
def hog() -> Iterator[int]:
    """A core that two other processes want all the time."""
    if not Path("/proc/thread-self/schedstat").exists():
        pytest.skip("this system does not tell how long a process waits")
    core = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    yield core
    for process in hogs:
        process.kill()
        process.wait()


def test_waiting_for_a_core_that_others_hold_is_told_apart_from_running(hog: int) -> None:
    with hosted(microseconds=3000) as worker:
        worker.call("pin", (hog,))
        blocks = [worker.call("time_block", 2, 40) for _ in range(3)]
    block = next(block for block in blocks if block.correctable)  # a single one may be odd by chance
    assert np.mean(block.times_ns) > 1.2 * np.mean(np.subtract(block.times_ns, block.waited_ns))
    assert np.median(np.subtract(block.times_ns, block.waited_ns)) == pytest.approx(3_050_000, rel=0.25)


@pytest.mark.parametrize("elsewhere", ["helper_microseconds", "sleep_microseconds"])
def test_waiting_is_told_but_may_not_be_taken_off_where_work_is_done_elsewhere(hog: int, elsewhere: str) -> None:
    with hosted(**{"microseconds": 3000, elsewhere: 6000}) as worker:
        worker.call("pin", (hog,))
        block = worker.call("time_block", 2, 20)
    assert not block.correctable
    assert sum(block.waited_ns) > 0.1 * sum(block.times_ns)


@pytest.mark.usefixtures("_collector")
@pytest.mark.parametrize(("others", "kept"), [(0, 1.0), (1_000_000, 0.75), (3_900_000, 0.025), (4_100_000, 1.0)])
def test_what_other_threads_worked_is_not_taken_for_waiting(
    others: int, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Subject(script(), INPUTS)
    monkeypatch.setattr(ours, "_time", lambda *arguments: ([20_000_000] * 4, [1_000_000] * 4))
    process, thread = iter([0, 76_000_000 + others]), iter([0, 76_000_000])
    monkeypatch.setattr(time, "process_time_ns", lambda: next(process))
    monkeypatch.setattr(time, "thread_time_ns", lambda: next(thread))
    block = ours.time_block(0, 4)
    assert block.waited_ns == [int(1_000_000 * kept)] * 4
    assert block.correctable == (others <= 4_000_000)


@pytest.mark.usefixtures("_collector")
def test_every_block_goes_through_the_same_inputs_in_order() -> None:
    seen: list[float] = []
    ours = Subject(script(), INPUTS)
    run = ours._session.run
    ours._session.run = lambda inputs: (seen.append(float(inputs["image"][0, 0, 0, 0])), run(inputs))[1]  # type: ignore[method-assign]
    ours.time_block(1, 3)
    ours.time_block(1, 3)
    assert seen == [0, 1, 2, 0] * 2


@pytest.mark.usefixtures("_collector")
def test_no_garbage_is_collected_while_a_clock_runs() -> None:
    Subject(script(), INPUTS)
    assert not gc.isenabled()


def test_peak_memory_is_what_opening_took_and_not_the_process_itself() -> None:
    with hosted(hoard_mb=80) as large, hosted() as small:
        peaks = [worker.call("figures").peak_bytes / 1e6 for worker in (large, small)]
    assert peaks[0] - peaks[1] == pytest.approx(80, abs=8)
    assert 0 <= peaks[1] < 20


def test_the_times_of_opening_and_of_the_first_inference_are_told_apart() -> None:
    with hosted(microseconds=300_000) as worker:
        figures = worker.call("figures")
    assert 0 < figures.open_ns < 300_000_000 <= figures.first_ns


def test_a_process_can_start_before_its_session_opens() -> None:
    worker = Worker("edgeopt.validation.subject:Subject", script(refuse=True), INPUTS, True, limits=Limits(20))
    with worker, pytest.raises(BackendError, match="the script says no"):
        worker.call("open")


def test_warm_up_of_a_steady_session_is_short() -> None:
    with hosted(microseconds=100) as worker:
        warm = worker.call("warm_up")
    assert warm.settled
    assert subject.WARM_ITERATIONS <= len(warm.times_ns) <= subject.WARM_ITERATIONS + 10 * subject.WINDOW


def test_warm_up_goes_on_until_the_speed_has_settled() -> None:
    with hosted(sleep_microseconds=4000, faster_after=36) as worker:
        warm = worker.call("warm_up")
    assert warm.settled
    assert len(warm.times_ns) > subject.WARM_ITERATIONS
    assert np.median(warm.times_ns[:35]) > 2 * np.median(warm.times_ns[-subject.WINDOW :])


def test_warm_up_of_a_slow_session_takes_fewer_runs_and_settles_all_the_same() -> None:
    with hosted(sleep_microseconds=300_000) as worker:
        warm = worker.call("warm_up")
    assert warm.settled
    assert 2 * subject.LEAST_WINDOW <= len(warm.times_ns) < subject.WINDOW


@pytest.mark.usefixtures("_collector")
def test_warm_up_ends_with_its_time_and_tells_that_it_did_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MOST_WARM_SECONDS", 0.2)
    monkeypatch.setattr(subject, "_settled", lambda times: False)
    warm = Subject(script(sleep_microseconds=5000), INPUTS).warm_up()
    assert not warm.settled
    assert subject.WARM_ITERATIONS <= len(warm.times_ns) <= subject.WARM_ITERATIONS + 2


@pytest.mark.parametrize(
    ("times", "settled"),
    [
        ([10] * 40, True), ([20] * 20 + [10] * 20, False), ([10] * 20 + [20] * 20, True), ([10] * 6, True),
        ([20, 20, 20, 10, 10, 10], False), ([10] * 5, False), ([20] * 30 + [10] * 11, False),
    ],
)  # fmt: skip
def test_it_is_warm_when_it_gains_no_more_speed(times: list[int], settled: bool) -> None:
    assert subject._settled(times) == settled


def test_a_pinned_session_stays_on_its_core() -> None:
    core = min(os.sched_getaffinity(0))
    with hosted() as worker:
        worker.call("pin", (core,))
        assert os.sched_getaffinity(worker.process_id) == {core}
        worker.call("warm_up")
        assert worker.call("time_block", 0, 20).moves == 0


@pytest.mark.usefixtures("_collector")
def test_a_thread_that_is_moved_in_a_block_is_told() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("a thread cannot be moved on one core")
    ours, moves = Subject(script(), INPUTS), iter(cores * 8)
    ours._session.run = lambda inputs: os.sched_setaffinity(0, {next(moves)}) or {}  # type: ignore[method-assign]
    try:
        assert ours.time_block(1, 3).moves > 0
        ours._session.run = lambda inputs: {}  # type: ignore[method-assign]
        assert ours.time_block(1, 3).moves == 0
    finally:
        os.sched_setaffinity(0, set(cores))


@pytest.mark.usefixtures("_collector")
def test_a_window_of_time_holds_all_runs_that_fit_and_one_at_least() -> None:
    ours = Subject(script(sleep_microseconds=5000), INPUTS)
    block = ours.time_for(0.1)
    assert 1 < len(block.times_ns) == len(block.waited_ns) <= 20, "room for 20 runs of 5 ms, for fewer if busy"
    assert not block.correctable
    assert len(ours.time_for(0).times_ns) == 1


@pytest.mark.usefixtures("_collector")
def test_streams_call_one_session_at_once() -> None:
    streams = Subject(script(sleep_microseconds=20_000), INPUTS).stream(4, 0.3)
    assert len(streams) == 4
    for stream in streams:
        assert stream.time_ns >= 300_000_000
        assert stream.runs == pytest.approx(stream.time_ns / 20_500_000, abs=4)


@pytest.mark.usefixtures("_collector")
def test_streams_of_a_session_that_runs_one_at_a_time_share_its_speed() -> None:
    streams = Subject(script(sleep_microseconds=10_000, alone=True), INPUTS).stream(3, 0.3)
    assert sum(stream.runs for stream in streams) < 40


@pytest.mark.usefixtures("_collector")
@pytest.mark.parametrize("bug_at", [2, 3, 4, 12])
def test_a_stream_that_fails_is_told_by_its_own_error_and_keeps_nobody_waiting(bug_at: int) -> None:
    ours = Subject(script(bug_at=bug_at, sleep_microseconds=1000), INPUTS)
    with pytest.raises(BackendError, match="`scripted` could not run: ValueError: no such kernel"):
        ours.stream(3, 0.1)


def test_a_session_that_cannot_be_opened_says_why() -> None:
    with pytest.raises(BackendError, match="the script says no"), hosted(refuse=True):
        pass


def test_a_task_that_ends_while_its_process_is_pinned_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task: int, cores: object) -> None:
        raise ProcessLookupError(task)

    ours = Subject.__new__(Subject)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    ours.pin((0,))


def test_a_bug_of_a_backend_is_an_error_with_its_name() -> None:
    with pytest.raises(BackendError, match="`scripted` could not open its artifact: KeyError"), hosted(buggy=True):
        pass
    for first, method, arguments in ((1, "figures", ()), (2, "warm_up", ()), (2, "time_block", (0, 3))):
        with pytest.raises(BackendError, match="`scripted` could not run: ValueError: no such kernel"), \
             hosted(bug_at=first) as worker:  # fmt: skip
            worker.call(method, *arguments)


def test_a_crash_is_an_error_with_a_name() -> None:
    with hosted(crash_at=5) as worker, pytest.raises(WorkerError, match="SIGABRT"):
        worker.call("time_block", 2, 5)


def test_thread_pools_are_held_to_the_number_of_threads() -> None:
    assert set(thread_environment(3).values()) == {"3"}
    assert "OMP_NUM_THREADS" in thread_environment(3)
