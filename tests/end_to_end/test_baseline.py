"""An earlier release in the same run, and metrics other than top-1."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from tests.end_to_end.conftest import Job, write_network, write_split


def target_of(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.out / "report.json").read_text())["targets"][0]
    return found


@pytest.fixture
def released(done: Job) -> Job:
    """A job whose last release lies beside it as `old.edgeopt`."""
    shutil.copy(done.out / target_of(done)["bundle"], done.folder / "old.edgeopt")
    return done


def test_the_last_release_is_measured_in_the_same_run_and_its_budgets_are_judged(released: Job) -> None:
    released.edit("size: {max_mb: 1.0}", "latency: {max_ratio_baseline: 3.0}")
    released.edit("{max_drop_pp: 5.0}", "{max_drop_baseline_pp: 1.0}")
    without = released.compile()
    assert without.code == 3
    assert "no --baseline was given" in " ".join(without.out.split())
    ran = released.compile("--baseline", "old.edgeopt")
    assert ran.code == 0, ran.out + ran.err
    assert "baseline (onnxruntime_cpu)" in ran.out
    target = target_of(released)
    winner = next(one for one in target["candidates"] if one["id"] == target["winner"])
    found = {one["metric"]: one for one in winner["measurements"]}
    baseline = next(one for one in target["baseline"]["measurements"] if one["metric"] == "latency.p50_ms")
    assert found["latency.ratio_baseline"]["baseline"] == baseline["subject"]
    assert found["latency.ratio_baseline"]["samples"] >= 10
    assert found["accuracy.drop_baseline_pp"]["value"] == 0
    assert released.run("gate", "out").code == 0


def test_a_worse_network_misses_the_budget_against_the_baseline(released: Job) -> None:
    write_network(released.folder / "model.onnx", scale=-1.0)
    released.edit("{max_drop_pp: 5.0}", "{max_drop_baseline_pp: 1.0}")
    ran = released.compile("--baseline", "cpu=old.edgeopt")
    assert ran.code == 1, ran.out + ran.err
    assert "drop against the baseline" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.edgeopt"], 2, "none.edgeopt"),
        (["gpu=old.edgeopt"], 2, "has no target `gpu`"),
        (["model.onnx"], 4, "model.onnx"),
        (["old.edgeopt", "--baseline", "cpu=old.edgeopt"], 2, "target `cpu` has two baselines"),
        (["old.edgeopt", "--set", "targets.0.name=other"], 2, "is for target `cpu`, not for `other`"),
        (["old.edgeopt", "--set", "data.classes=[d, c, b, a]"], 2, "has other classes than the recipe"),
    ],
)
def test_a_baseline_that_cannot_stand_beside_the_candidates_is_refused(
    arguments: list[str], code: int, said: str, released: Job
) -> None:
    shutil.rmtree(released.out)
    ran = released.compile("--baseline", *arguments)
    assert ran.code == code, ran.err
    assert said in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert not released.out.exists()


OWN = """
import numpy as np

def margin(outputs, labels):
    scores = outputs["scores"]
    best = np.sort(scores, axis=1)
    right = scores.argmax(axis=1) == labels
    return np.where(right, np.clip((best[:, -1] - best[:, -2]) / 4, 0, 1), 0)
"""


@pytest.mark.parametrize(("metric", "title"), [("macro_f1", "macro F1"), ("own.py:margin", "margin")])
def test_another_metric_is_recorded_judged_shown_and_judged_again(metric: str, title: str, job: Job) -> None:
    (job.folder / "own.py").write_text(OWN)
    job.edit("{max_drop_pp: 5.0}", f'{{metric: "{metric}", max_drop_pp: 5.0}}')
    ran = job.compile()
    assert ran.code == 0, ran.out + ran.err
    assert title in ran.out
    label = metric.rpartition(":")[2]
    found = {one["metric"]: one for one in target_of(job)["candidates"][1]["measurements"]}
    assert found[f"accuracy.{label}"]["value"] is not None
    drop = found["accuracy.drop_pp"]
    assert drop["low"] <= drop["value"] <= drop["high"] <= 5.0
    (job.folder / "own.py").unlink()
    again = job.run("gate", "out")
    assert again.code == 0, again.err


def test_a_users_metric_is_read_again_when_its_file_changes(job: Job) -> None:
    (job.folder / "own.py").write_text(OWN)
    job.edit("{max_drop_pp: 5.0}", '{metric: "own.py:margin", max_drop_pp: 5.0}')
    write_split(job.folder, "validation", 500, 3)
    assert job.compile().code == 0
    (job.folder / "own.py").write_text(OWN.replace("/ 4", "* np.nan"))
    ran = job.compile()
    assert ran.code == 2, ran.out
    assert "`own.py:margin` returned nan, allowed: 0 to 1" in " ".join(ran.err.split())
