"""Kills, full disks, signals and neighbours: the next run goes on, repeats only what was in flight, and agrees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Job

#: runs edgeopt with a fault at the n-th mutation of a file: argv[1] is the fault, argv[2] is n
FAULTY = """
import errno, os, signal, sys
from edgeopt import files
fault, left = sys.argv[1], int(sys.argv[2])
def observe(operation, path):
    global left
    left -= 1
    if left == 0 and fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if left <= 0 and fault == "full" and operation != "remove":
        raise OSError(errno.ENOSPC, "No space left on device")
files.observe = observe
sys.argv = ["edgeopt", *sys.argv[3:]]
from edgeopt.cli import main
main()
"""

COMPILE = ("compile", "recipe.yaml", "--out", "out")

KILLS = 20


def faulty(job: Job, fault: str, at: int) -> subprocess.CompletedProcess[str]:
    (job.folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-c", FAULTY, fault, str(at), *COMPILE]
    return subprocess.run(command, cwd=job.folder, env=job.environ(), capture_output=True, text=True, timeout=240)


def winner_digest(job: Job) -> str:
    target = json.loads((job.out / "report.json").read_text())["targets"][0]
    winner = next(one for one in target["candidates"] if one["id"] == target["winner"])
    return str(winner["artifact"]["files"])


def stored(job: Job) -> dict[str, float]:
    """The finished steps of the store: key → when they were made."""
    entries = (job.folder / "store/steps").glob("[0-9a-f]*/entry.json")
    return {path.parent.name: path.stat().st_mtime for path in entries}


def leftovers(job: Job) -> list[Path]:
    return list(job.folder.rglob(".edgeopt-tmp-*"))


def workers_of(job: Job) -> list[str]:
    """Command lines of worker processes that were started from the folder of this job and are still alive."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "edgeopt/workers/child" in line and os.readlink(process / "cwd") == str(job.folder):
                found.append(line)
        except OSError:
            continue  # it ended while we looked
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_moment_the_next_run_goes_on_and_agrees(job: Job) -> None:
    """Kills spread over the mutations of runs that each go on where the last one died."""
    kills, digests = 0, set()
    while kills < KILLS:
        before = stored(job)
        ran = faulty(job, "kill", 1 + kills * 5 % 23)
        assert {key: stored(job).get(key) for key in before} == before, "a finished step was done again"
        if ran.returncode == 0:
            digests.add(winner_digest(job))
            shutil.rmtree(job.folder / "store")
            continue
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        if job.out.exists():
            digests.add(winner_digest(job))  # the result of an earlier run, still whole
        kills += 1
    assert job.compile().code == 0
    assert leftovers(job) == []
    assert workers_of(job) == []
    assert digests | {winner_digest(job)} == {winner_digest(job)}


@pytest.mark.parametrize("at", [1, 4, 9, 16, 30])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(job: Job, at: int) -> None:
    ran = faulty(job, "full", at)
    assert ran.returncode == 5, ran.stdout + ran.stderr
    assert "error: no space left on the disk" in ran.stderr
    assert "\nhint: " in ran.stderr
    assert "Traceback" not in ran.stderr
    assert leftovers(job) == []
    assert not job.out.exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cleans_up_and_the_next_run_goes_on(job: Job, sent: signal.Signals, code: int) -> None:
    (job.folder / "tmp").mkdir()
    process = subprocess.Popen(
        job.command(*COMPILE),
        cwd=job.folder,
        env=job.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (workers_of(job) and stored(job)) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    # A worker that was only just being started ends by itself, as soon as it sees that its parent is gone.
    deadline = time.monotonic() + 30
    while workers_of(job) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_of(job) == []
    assert leftovers(job) == []
    assert not job.out.exists()
    before = stored(job)
    assert job.compile().code == 0
    assert {key: stored(job)[key] for key in before} == before


def test_two_compiles_at_once_share_the_store(job: Job) -> None:
    (job.folder / "tmp").mkdir()
    both = [
        subprocess.Popen(
            job.command("compile", "recipe.yaml", "--out", f"out{number}"),
            cwd=job.folder,
            env=job.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    reports = [json.loads((job.folder / f"out{number}/report.json").read_text()) for number in range(2)]
    assert reports[0]["targets"] == reports[1]["targets"]
    cached = [[step["cached"] for step in report["steps"]] for report in reports]
    shared = [one or other for one, other in zip(*cached, strict=True)]
    assert all(shared), "a step was done by both"


def test_a_damaged_step_is_told_and_done_again(done: Job) -> None:
    digest = winner_digest(done)
    for path in (done.folder / "store/steps").rglob("model.onnx"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert done.run("cache", "verify").code == 4
    ran = done.compile()
    assert ran.code == 0, ran.err
    assert "does not have its digest: done again" in " ".join(ran.err.split())
    assert winner_digest(done) == digest
