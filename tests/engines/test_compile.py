"""`edgeopt compile` for a GPU: planned where there is none, else built, timed, judged and shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import PATH, GpuInPlace

from edgeopt.bundle.verify import load_bundle
from tests.end_to_end.conftest import Job, job  # noqa: F401

TARGET = """
  - name: gpu
    backends: [tensorrt]
    variants: {fp32: [], int8: [quantize_int8: {}]}
budgets:"""


@pytest.fixture
def gpu_job(job: Job, fake_gpu: GpuInPlace, monkeypatch: pytest.MonkeyPatch) -> Job:  # noqa: F811
    """The job of the end-to-end tests, for a GPU instead of a CPU."""
    monkeypatch.setenv("PYTHONPATH", PATH)
    text = job.recipe.read_text()
    start, end = text.index("\n  - name: cpu"), text.index("\nbudgets:")
    job.recipe.write_text(text[:start] + TARGET + text[end + len("\nbudgets:") :])
    return job


def target_of(job: Job) -> dict[str, Any]:  # noqa: F811
    found: dict[str, Any] = json.loads((job.out / "report.json").read_text())["targets"][0]
    return found


@pytest.mark.slow
def test_an_engine_is_planned_without_a_gpu_and_built_judged_and_shipped_once_there_is_one(
    gpu_job: Job, fake_gpu: GpuInPlace
) -> None:
    fake_gpu.set(devices=0)
    planned = gpu_job.compile()
    assert planned.code == 3, planned.out + planned.err
    told = " ".join(planned.out.split())
    assert "tensorrt/int8 is planned and not built: there is no NVIDIA GPU here" in told
    assert "`edgeopt device build gpu/tensorrt/int8/build --out engine`" in told
    assert "simulated, which proves nothing" in told
    left = gpu_job.out / "gpu/tensorrt/int8/build"
    assert {path.name for path in left.iterdir()} == {"artifact.json", "build.json", "expected.npz", "model.onnx"}
    assert gpu_job.run("gate", "out").code == 3

    fake_gpu.set(devices=1)
    ran = gpu_job.compile()
    assert ran.code == 0, ran.out + ran.err
    target = target_of(gpu_job)
    by_name = {one["id"]: one for one in target["candidates"]}
    assert {one["verdict"] for one in by_name.values()} == {"pass"}
    requires = by_name[target["winner"]]["artifact"]["requires"]
    assert (requires["gpu"], requires["compute_capability"]) == ("Fake Orin", "8.7")
    figures = {one["metric"]: one for one in by_name["tensorrt/int8"]["measurements"]}
    assert not any(one["simulated"] for one in figures.values())
    assert 0 < figures["latency.device_ms"]["value"] < figures["latency.p90_ms"]["high"]

    bundle = load_bundle(gpu_job.out / "gpu/bundle")
    assert [file.path for file in bundle.manifest.artifact.files] == ["engine.plan"]
    assert bundle.manifest.compatible.items() >= requires.items()
    refuse_elsewhere(gpu_job, fake_gpu, gpu_job.out / target["bundle"])
    refuse_changed(gpu_job, gpu_job.out / "gpu/bundle")


def refuse_elsewhere(job: Job, fake_gpu: GpuInPlace, bundle: Path) -> None:  # noqa: F811
    fake_gpu.set(name="Fake Xavier", capability=(7, 2))
    other = job.run("bench", str(bundle), str(bundle), "--sets", "6")
    fake_gpu.set(name="Fake Orin", capability=(8, 7))
    assert other.code == 5, other.out + other.err
    assert "was built for compute capability 8.7 and not 7.2, GPU Fake Orin and not Fake Xavier" in other.err
    assert "build it anew on this machine" in other.err


def refuse_changed(job: Job, bundle: Path) -> None:  # noqa: F811
    (path,) = bundle.rglob("engine.plan")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    changed = job.run("bench", str(bundle), str(bundle), "--sets", "6")
    assert changed.code == 4, changed.out + changed.err
    assert "engine.plan" in changed.err
