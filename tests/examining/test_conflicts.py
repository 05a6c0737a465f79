"""Wheels that do not go together are found by their metadata, each with what resolves it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import pytest

from edgeopt.examining.conflicts import OVERLAID, Conflict, find_conflicts

#: what releases of `onnxruntime-gpu` say that they need
NEEDS_12 = ['nvidia-cuda-runtime-cu12~=12.0; extra == "cuda"', 'nvidia-cudnn-cu12~=9.0; extra == "cudnn"']
NEEDS_13 = ['nvidia-cuda-runtime~=13.0; extra == "cuda"', 'nvidia-cudnn-cu13~=9.0; extra == "cudnn"']

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """What is installed, and nothing else is: distribution → version, and what `onnxruntime-gpu` requires."""
    requirements = list[str]()
    versions = dict[str, str]()

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    def install(here: dict[str, str], needs: list[str] | None = None) -> None:
        versions.update(here)
        requirements.extend(["numpy>=1.21.6", 'sympy; extra == "symbolic"', *(needs or [])])

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    return install


def find(built_for: str = "", driver: str = "", runs_cuda: bool = False) -> list[Conflict]:
    return find_conflicts(built_for, driver, runs_cuda)


def test_nothing_installed_is_no_conflict(install: Install) -> None:
    install({})
    assert find(driver="13.0") == []


@pytest.mark.parametrize("row", OVERLAID, ids=lambda row: row[0])
def test_wheels_that_overwrite_each_other_are_named(row: tuple[str, ...], install: Install) -> None:
    for name in row[:-1]:
        install({name: "1.2.3"})
        conflicts = [one for one in find() if "over each other" in one.what]
        expected = (
            [] if name == row[0] else [f"{' and '.join(row[: row.index(name) + 1])} are installed over each other"]
        )
        assert [one.what for one in conflicts] == expected
        assert all(one.remedy.startswith("uninstall all of them") for one in conflicts)


def test_tensorrt_wheels_of_two_cudas_are_a_conflict_even_of_one_release(install: Install) -> None:
    install({"tensorrt": "11.4.0", "tensorrt-cu13": "11.4.0"})
    install({f"tensorrt-cu{cuda}-{part}": "11.4.0" for cuda in (12, 13) for part in ("bindings", "libs")})
    assert [one.what for one in find()] == [
        "tensorrt-cu12-bindings and tensorrt-cu13-bindings are installed over each other",
        "tensorrt-cu12-libs and tensorrt-cu13-libs are installed over each other",
    ]


def test_bindings_of_another_release_than_tensorrt_are_a_conflict(install: Install) -> None:
    install({"tensorrt": "10.16.1", "tensorrt-cu12-bindings": "11.4.0", "tensorrt-cu12-libs": "10.16.1"})
    (conflict,) = find()
    assert conflict.what.endswith("tensorrt 10.16.1, tensorrt-cu12-bindings 11.4.0, tensorrt-cu12-libs 10.16.1")
    assert "edgeopt[tensorrt]" in conflict.remedy


@pytest.mark.parametrize(
    ("needs", "here"),
    [
        (NEEDS_12, {"nvidia-cuda-runtime-cu12": "12.9.79", "nvidia-cudnn-cu12": "9.27.0.42"}),
        (NEEDS_13, {"nvidia-cuda-runtime": "13.5.37", "nvidia-cudnn-cu13": "9.27.0.42"}),
        (NEEDS_13, {"nvidia-cuda-runtime": "13.5.37", "nvidia-cuda-runtime-cu12": "12.9.79"}),
        (['nvidia-cuda-runtime-cu13~=13.0; extra == "cuda"'], {"nvidia-cuda-runtime": "13.5.37"}),
        (NEEDS_13, {}),
        ([], {"nvidia-cudnn-cu12": "8.9.7.29"}),
    ],
)
def test_libraries_that_go_with_onnxruntime_are_no_conflict(
    needs: list[str], here: dict[str, str], install: Install
) -> None:
    install({"onnxruntime-gpu": "1.31.1", **here}, needs)
    assert find() == []


@pytest.mark.parametrize(
    ("needs", "here", "what"),
    [
        (
            NEEDS_13,
            {"nvidia-cuda-runtime-cu12": "12.9.79"},
            "onnxruntime-gpu 1.31.1 needs nvidia-cuda-runtime~=13.0, and there is nvidia-cuda-runtime-cu12 12.9.79",
        ),
        (
            NEEDS_12,
            {"nvidia-cuda-runtime": "13.5.37"},
            "onnxruntime-gpu 1.31.1 needs nvidia-cuda-runtime-cu12~=12.0, and there is nvidia-cuda-runtime 13.5.37",
        ),
        (
            NEEDS_13,
            {"nvidia-cudnn-cu12": "9.27.0.42"},
            "onnxruntime-gpu 1.31.1 needs nvidia-cudnn-cu13~=9.0, and there is nvidia-cudnn-cu12 9.27.0.42",
        ),
        (
            NEEDS_12,
            {"nvidia-cudnn-cu12": "8.9.7.29"},
            "onnxruntime-gpu 1.31.1 needs nvidia-cudnn-cu12~=9.0, and there is nvidia-cudnn-cu12 8.9.7.29",
        ),
    ],
)
def test_libraries_of_another_cuda_or_an_older_cudnn_are_a_conflict(
    needs: list[str], here: dict[str, str], what: str, install: Install
) -> None:
    install({"onnxruntime-gpu": "1.31.1", **here}, needs)
    assert find() == [Conflict(what, "pip install 'onnxruntime-gpu[cuda,cudnn]'")]
    assert find(runs_cuda=True) == [], "libraries of the system serve it"


@pytest.mark.parametrize(
    ("here", "built_for", "what", "other"),
    [
        ({"onnxruntime-gpu": "1.31.1"}, "13.0", "onnxruntime-gpu 1.31.1 is for CUDA 13", "'onnxruntime-gpu<1.27'"),
        ({"tensorrt-cu13-libs": "11.4.0"}, "", "tensorrt 11.4.0 is for CUDA 13", "tensorrt-cu12"),
        ({"cuda-bindings": "13.5.0"}, "", "cuda-bindings 13.5.0 is for CUDA 13", "'cuda-bindings<13'"),
    ],
)
def test_what_is_for_a_newer_cuda_than_the_driver_takes_is_a_conflict(
    here: dict[str, str], built_for: str, what: str, other: str, install: Install
) -> None:
    install(here)
    (conflict,) = find(built_for, driver="12.8")
    assert conflict.what == f"{what}, and the NVIDIA driver takes CUDA up to 12.8"
    assert conflict.remedy == f"update the driver, or `pip install {other}`"
    assert find(built_for, driver="13.2") == find(built_for, driver="14.0") == []
    assert find(built_for) == [], "where there is no driver, nothing is beyond it"
    (older,) = find(built_for, driver="11.4")
    assert older.remedy == "update the driver"


def test_what_is_for_an_older_cuda_runs_on_a_newer_driver(install: Install) -> None:
    install({"onnxruntime-gpu": "1.26.0", "tensorrt-cu12-libs": "11.4.0", "cuda-bindings": "12.9.10"}, NEEDS_12)
    assert find("12.8", driver="13.0") == []
