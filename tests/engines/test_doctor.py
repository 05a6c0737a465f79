"""`doctor` on a machine with a GPU and TensorRT, which are the fakes here."""

from __future__ import annotations

import json

import pytest
from conftest import GpuInPlace

from tests.cli.test_cli import Run, run

__all__ = ["run"]


def library(shown: dict[str, list[dict[str, object]]], name: str) -> dict[str, object]:
    return next(row for row in shown["libraries"] if row["name"] == name)


def test_the_gpu_and_the_libraries_around_it_are_told(fake_gpu: GpuInPlace, run: Run) -> None:
    ran = run("doctor")
    assert (ran.code, ran.err) == (0, "")
    for line in (
        "gpu        Fake Orin            compute capability 8.7, driver unknown, power limit unknown",
        "backend    tensorrt             ready",
        f"library    tensorrt             {fake_gpu.now.version}",
        "library    nvidia-driver        unknown; cuda 13.0",
    ):
        assert f"{line}\n" in ran.out
    shown = json.loads(run("doctor", "--json").out)
    gpu = {"name": "Fake Orin", "compute_capability": "8.7"}
    assert shown["gpus"] == [gpu | {"driver": "unknown", "power": "unknown"}]
    assert library(shown, "cuda-bindings")["finds"] == {"runtime": "13.5", "gpus": [gpu]}
    assert library(shown, "nvidia-driver")["finds"] == {"cuda": "13.0"}


@pytest.mark.parametrize("fake_gpu", [10], indirect=True)
def test_an_older_tensorrt_is_told_by_its_version(fake_gpu: GpuInPlace, run: Run) -> None:
    assert f"library    tensorrt             {fake_gpu.now.version}\n" in run("doctor").out


def test_without_a_gpu_the_driver_and_the_library_are_told_all_the_same(fake_gpu: GpuInPlace, run: Run) -> None:
    fake_gpu.set(devices=0)
    ran = run("doctor")
    assert ran.code == 0
    assert "gpu        none that NVIDIA's driver shows\n" in ran.out
    assert "backend    tensorrt             there is no NVIDIA GPU here; " in ran.out
    assert "library    nvidia-driver        unknown; cuda 13.0\n" in ran.out


def test_a_driver_that_is_older_than_the_bindings_is_a_conflict(fake_gpu: GpuInPlace, run: Run) -> None:
    fake_gpu.set(driver=12080)
    ran = run("doctor")
    assert ran.code == 5
    assert "library    nvidia-driver        unknown; cuda 12.8\n" in ran.out
    assert ran.err.startswith(
        "error: cuda-bindings 13.5.0 is for CUDA 13, and the NVIDIA driver takes CUDA up to 12.8\n"
    )
    assert "hint: update the driver, or `pip install 'cuda-bindings<13'`\n" in ran.err


def test_a_tensorrt_that_edgeopt_does_not_build_on_is_told(fake_gpu: GpuInPlace, run: Run) -> None:
    fake_gpu.set(version="8.6.1")
    out = run("doctor").out
    assert "library    tensorrt             TensorRT 8.6.1 is installed, edgeopt builds on 10 and 11; " in out
