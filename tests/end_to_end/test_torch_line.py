"""The whole line from a torch network to a winner: prune, fine-tune, export, quantize; also when it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import NETWORKS
from tests.end_to_end.conftest import Job
from tests.end_to_end.test_interruption import leftovers, workers_of

RECIPE = """\
edgeopt: 1
name: line
seed: 3
model:
  factory: residual.py:make_residual
  options: {width: 16}
  weights: residual.safetensors
  inputs: {image: {shape: [1, 16, 16]}}
data:
  format: npz
  classes: [a, b, c, d]
  preprocess: {scale: 0.00392157, mean: [0.5], std: [0.25]}
  calibration: {path: calibration.npz}
  validation: {path: validation.npz}
  training: {path: training.npz}
passes:
  - prune_channels: {ratio: 0.25}
  - fine_tune: {epochs: 4}
  - export_onnx: {}
  - simplify_onnx: {}
targets:
  - name: cpu
    backends: [onnxruntime_cpu]
    variants:
      fp32: []
      int8: [quantize_int8: {}]
budgets:
  size: {max_mb: 1.0}
"""

#: how the run ends whose main process, or whose worker, is killed
ENDINGS = {"main": -signal.SIGKILL, "worker": 5}


@pytest.fixture
def line(tmp_path: Path) -> Job:
    """A job that starts from a torch network and has one candidate: no race, so one winner however fast it runs."""
    job = make_line(tmp_path)
    job.edit("      fp32: []\n", "")
    return job


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with two candidates that was compiled."""
    job = make_line(tmp_path_factory.mktemp("line"))
    ran = job.compile()
    assert ran.code == 0, ran.out + ran.err
    return job


def make_line(folder: Path) -> Job:
    """A torch network, whose own answers are the labels of random images."""
    import torch
    from safetensors.torch import save_file

    from edgeopt.network import call_factory

    torch.set_num_threads(1)
    shutil.copy(NETWORKS / "residual.py", folder)
    network = call_factory(folder, "residual.py:make_residual", {"width": 16}).eval()
    save_file(network.state_dict(), folder / "residual.safetensors")
    for seed, (name, count) in enumerate({"calibration": 64, "validation": 200, "training": 1500}.items()):
        random = np.random.default_rng(seed)
        coarse = random.integers(0, 256, (count, 1, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
        images = np.clip(coarse + random.normal(0, 30, (count, 1, 16, 16)), 0, 255).astype(np.uint8)
        with torch.no_grad():
            scores = network(torch.from_numpy((images * np.float32(0.00392157) - 0.5) / 0.25).float())
        np.savez(folder / f"{name}.npz", image=images, labels=scores.argmax(dim=1).numpy())
    (folder / "recipe.yaml").write_text(RECIPE)
    return Job(folder)


def kill_in_training(job: Job, choose: Callable[[int], int]) -> int:
    """Compile, and kill a process once the first checkpoint is there; returns the exit code."""
    (job.folder / "tmp").mkdir(exist_ok=True)
    command = job.command("compile", "recipe.yaml", "--out", "out")
    with open(job.folder / "killed.log", "wb") as log:
        process = subprocess.Popen(command, cwd=job.folder, env=job.environ(), stdout=log, stderr=log)
    while not checkpoints(job):
        assert process.poll() is None, (job.folder / "killed.log").read_text()
        time.sleep(0.005)
    os.kill(choose(process.pid), signal.SIGKILL)
    return process.wait(timeout=120)


def checkpoints(job: Job) -> list[Path]:
    return list((job.folder / "store" / "checkpoints").glob("*/*.checkpoint"))


def worker_of(main: int) -> int:
    """The process id of the worker that a run has at work."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == main and b"edgeopt/workers/child" in (process / "cmdline").read_bytes():
                return int(process.name)
        except OSError:
            continue  # it ended while we looked
    raise AssertionError("no worker is alive")


def networks_of(job: Job, step: str) -> list[Path]:
    """The folders that the step left its network in."""
    entries = (job.folder / "store/steps").glob("[0-9a-f]*/entry.json")
    return [path.parent / "files" for path in entries if json.loads(path.read_text())["step"] == step]


def made_of(job: Job) -> tuple[str, bytes]:
    """The files of the int8 candidate, by their digests, and the weights that came of training."""
    target = json.loads((job.out / "report.json").read_text())["targets"][0]
    (int8,) = (one for one in target["candidates"] if one["id"] == "onnxruntime_cpu/int8")
    (trained,) = networks_of(job, "fine_tune")
    return str(int8["artifact"]["files"]), (trained / "weights.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_torch_network_is_pruned_trained_quantized_and_shipped(compiled: Job) -> None:
    report = json.loads((compiled.out / "report.json").read_text())
    facts = {step["name"]: step["facts"] for step in report["steps"]}
    assert {"prune_channels", "fine_tune", "export_onnx", "simplify_onnx", "quantize_int8"} <= facts.keys()
    (target,) = report["targets"]
    assert {one["id"] for one in target["candidates"]} == {"onnxruntime_cpu/fp32", "onnxruntime_cpu/int8"}
    assert all(one["error"] is None for one in target["candidates"])
    assert (compiled.out / target["bundle"]).is_file()
    assert compiled.compile().code == 0
    assert all(step["cached"] for step in json.loads((compiled.out / "report.json").read_text())["steps"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pruned_network_loads_in_two_lines_and_gives_numbers(compiled: Job) -> None:
    code = "from edgeopt.network import load_network\nnetwork = load_network('out/cpu/network')\n"
    code += "import torch\nscores = network(torch.randn(3, 1, 16, 16))\n"
    code += "assert scores.shape == (3, 4) and scores.isfinite().all()\nprint(network.blocks[1].conv1.out_channels)\n"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=compiled.folder, env=compiled.environ(), capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    assert int(ran.stdout) < 32, "the edits of pruning were not made again"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["main", "worker"])
def test_killed_in_the_midst_of_training_the_next_run_ends_with_the_same_candidate(
    line: Job, compiled: Job, victim: str
) -> None:
    code = kill_in_training(line, worker_of if victim == "worker" else int)
    said = (line.folder / "killed.log").read_text()
    assert code == ENDINGS[victim], said
    assert checkpoints(line), "training had ended before it was killed"
    assert not line.out.exists()
    resumed = line.compile()
    assert resumed.code == 0, resumed.out + resumed.err
    assert checkpoints(line) == leftovers(line) == []
    assert workers_of(line) == []
    assert made_of(line) == made_of(compiled)


def test_pruning_that_no_pass_wins_back_is_told_before_anything_runs(tmp_path: Path) -> None:
    job = make_line(tmp_path)
    job.edit("  - fine_tune: {epochs: 4}\n", "")
    job.edit("  inputs:", "  expect: {top1: 0.0}\n  inputs:")  # the run ends early
    ran = job.compile()
    assert ran.code == 2
    told = [line for line in ran.err.splitlines() if "add `fine_tune`, or set `reestimate_bn: true`" in line]
    assert [line.partition("`: it is pruned")[0] for line in told] == [
        "note: candidate `cpu/onnxruntime_cpu/fp32", "note: candidate `cpu/onnxruntime_cpu/int8",
    ]  # fmt: skip
