"""How long and under what load a job is measured is what its recipe says."""

from __future__ import annotations

import json

import pytest

from edgeopt.validation.energy import find_counter
from tests.end_to_end.conftest import Job
from tests.end_to_end.test_bad_input import write_plugin

pytestmark = pytest.mark.slow


def test_streams_and_long_runs_are_measured_stored_and_judged_again(job: Job) -> None:
    job.edit("budgets:", "measure: {minutes: 0.05, concurrency: 2}\nbudgets:\n  throughput: {min_per_s: 1}")
    job.edit("      int8: [quantize_int8: {}]\n", "")
    ran = job.compile()
    assert ran.code == 0, ran.out + ran.err
    (target,) = json.loads((job.out / "report.json").read_text())["targets"]
    protocol = target["protocol"]
    assert (protocol["concurrency"], protocol["clock"]) == (2, "host arrays in, host arrays out")
    assert protocol["blocks"] > protocol["dropped_blocks"] >= 0
    assert "samples/cpu/sustained.npz" in target["samples"]
    (candidate,) = target["candidates"]
    found = {one["metric"]: one for one in candidate["measurements"]}
    assert found["throughput.per_s"]["note"] == "2 streams at once through one session"
    assert found["latency.first_ms"]["value"] > 0
    assert found["latency.open_ms"]["value"] > found["latency.p50_ms"]["value"]
    assert found["latency.drift_ratio"]["raw"] == "samples/cpu/sustained.npz"
    assert found["latency.drift_ratio"]["samples"] >= 2
    assert job.run("gate", "out/report.json").code == 0

    again = job.run("compile", "recipe.yaml", "--out", "again")
    assert again.code == 0, again.err
    (stored,) = json.loads((job.folder / "again" / "report.json").read_text())["targets"]
    assert stored["samples"] == target["samples"]


def test_a_candidate_that_dies_in_its_long_run_does_not_ship(job: Job) -> None:
    write_plugin(
        job,
        "    artifact = super().build(model, context, folder)\n"
        "    return artifact.model_copy(update={'backend': 'broken'})\n"
        "  def open(self, artifact):\n"
        "    session, runs = super().open(artifact), iter(range(3000))\n"
        "    run = session.run\n"
        "    session.run = lambda inputs: run(inputs) if next(runs, None) is not None else os.abort()\n"
        "    return session",
    )
    job.edit("[onnxruntime_cpu]", "[onnxruntime_cpu, broken]")
    job.edit("      int8: [quantize_int8: {}]\n", "")
    job.edit("budgets:", "measure: {minutes: 0.2}\nbudgets:")
    ran = job.compile()
    assert ran.code == 0, ran.out + ran.err
    (target,) = json.loads((job.out / "report.json").read_text())["targets"]
    assert target["winner"] == "onnxruntime_cpu/fp32"
    errors = {one["id"]: one["error"] for one in target["candidates"]}
    assert errors["onnxruntime_cpu/fp32"] is None
    assert "`broken/fp32` could not be timed" in errors["broken/fp32"]
    assert "SIGABRT" in errors["broken/fp32"]


def test_an_energy_budget_is_measured_or_says_why_not(job: Job) -> None:
    job.edit("size: {max_mb: 1.0}", "energy: {max_mj: 1000.0}")
    ran = job.compile()
    told = " ".join(ran.out.split())
    (target,) = json.loads((job.out / "report.json").read_text())["targets"]
    measured = [one for one in target["candidates"][1]["measurements"] if one["metric"] == "energy.mj"]
    assert len(measured) == 1
    if find_counter() is None:
        assert ran.code == 3, ran.out + ran.err
        assert "energy was not measured: no counter of the energy of the CPU" in told
        assert measured[0]["value"] is None
    else:
        assert (job.out / measured[0]["raw"]).is_file()
    assert job.run("gate", "out").code == ran.code
