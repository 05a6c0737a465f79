"""`doctor`: what this machine has, read from what edgeopt declares; and with `--aa`, how noisy it is."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeopt import environment
from edgeopt.cli import doctor
from edgeopt.examining import conflicts, examine
from edgeopt.store import Store
from edgeopt.validation import noise
from edgeopt.validation.latency_samples import LatencySamples
from tests.cli.test_cli import Run, raising, refused, run
from tests.validation.test_latency import disturb, fabricate

__all__ = ["run"]


@pytest.fixture(scope="module")
def examined() -> tuple[dict[str, Any], str]:
    """What is found here, and how it is shown."""
    found, shown = examine(), io.StringIO()
    with contextlib.redirect_stdout(shown):
        doctor.show(found)
    return found, shown.getvalue()


def test_doctor_names_what_the_compile_extra_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "click>=8.1",
        "rich>=13; extra == 'compile'",
        'torch-pruning>=1.6; extra == "compile"',
        "x; extra == 'y'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    assert examine()["compile"].keys() == {"rich", "torch-pruning"}


def test_doctor_works_where_edgeopt_is_not_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", raising(importlib.metadata.PackageNotFoundError("edgeopt")))
    ran = run("doctor")
    assert ran.code == 0
    assert "compile    not known: " in ran.out


def test_doctor_names_every_energy_counter_and_why_it_cannot_be_read_here(examined: tuple[dict[str, Any], str]) -> None:
    found, shown = examined
    rows = {row["name"]: row for row in found["counters"]}
    assert {"ina", "nvml", "rapl"} <= rows.keys()
    for name, row in rows.items():
        assert row["available"] == (not row["missing"])
        assert f"energy     {name:20} {row['what'] if row['available'] else row['missing']}\n" in shown


def test_doctor_says_of_each_backend_whether_it_is_ready_or_what_is_missing(
    examined: tuple[dict[str, Any], str], run: Run
) -> None:
    _, shown = examined
    rows = json.loads(run("backends", "--json").out)
    assert {row["name"] for row in rows} >= {"null", "onnxruntime_cpu", "tensorrt"}
    for row in rows:
        assert f"backend    {row['name']:20} {'ready' if row['available'] else row['missing']}\n" in shown


def test_doctor_tells_libraries_by_version_and_what_they_find(examined: tuple[dict[str, Any], str]) -> None:
    import onnxruntime

    _, shown = examined
    assert f"library    onnxruntime          {onnxruntime.__version__}; providers " in shown
    found = next(line for line in shown.splitlines() if line.startswith("library    onnxruntime "))
    assert "cpu" in found.partition("providers ")[2].split(", ")


def test_doctor_tells_of_each_instruction_set_whether_it_is_here(examined: tuple[dict[str, Any], str]) -> None:
    found, shown = examined
    for one in found["isa"]:
        assert f"isa        {one['name']:20} {'yes' if one['here'] else 'no '}  {one['does']}\n" in shown


def test_conflicting_wheels_are_shown_with_all_the_rest_and_end_with_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = environment.library_version
    others = {"onnxruntime-gpu": "1.26.0", "tensorrt-cu12-libs": "11.4.0", "tensorrt-cu13-libs": "11.4.0"}
    monkeypatch.setattr(environment, "library_version", lambda name: others.get(name) or real(name))
    monkeypatch.setattr(conflicts.importlib.metadata, "requires", lambda name: [])
    ran = run("doctor", "--json")
    assert ran.code == 5
    assert ran.err == (
        "error: onnxruntime and onnxruntime-gpu are installed over each other\n"
        "error: tensorrt-cu12-libs and tensorrt-cu13-libs are installed over each other\n"
        "\nhint: uninstall all of them, then install the one that you need\n"
    )
    shown = json.loads(ran.out)
    assert [f"error: {one['what']}" for one in shown["conflicts"]] == ran.err.splitlines()[:2]
    assert {row["name"] for row in shown["backends"]} >= {"null", "tensorrt"}


def test_a_library_that_crashes_leaves_doctor_standing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text("import os\nos.abort()\n", encoding="utf8")
    monkeypatch.syspath_prepend(tmp_path)
    ran = run("doctor")
    assert ran.code == 0
    assert "backend    openvino_cpu         the process of `doctor` crashed with SIGABRT " in ran.out
    assert "backend    onnxruntime_cpu      ready\n" in ran.out


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> LatencySamples:
    """What `--aa` finds here: samples of two equal networks, with little noise, that nothing was timed for."""
    samples = fabricate({"a": 1.0, "b": 1.0}, sets=40, noise=0.02)
    samples = replace(samples, environment=environment.fingerprint_digest())
    monkeypatch.setattr(noise, "time_copies", lambda backend, progress: samples)
    return samples


def find_floor() -> noise.NoiseFloor:
    found = noise.find_noise_floor(Store())
    assert found is not None
    return found


def test_a_quiet_machine_is_fit_and_the_check_is_remembered(run: Run, timed: LatencySamples) -> None:
    ran = run("doctor", "--aa")
    assert (ran.code, ran.err) == (0, "")
    floor = find_floor()
    assert floor == noise.judge_copies(timed).model_copy(update={"created": floor.created})
    lines = ran.out.splitlines()
    assert lines[1].startswith(
        f"ratio      {floor.ratio:.3f} [{floor.low:.3f}, {floor.high:.3f}] at 98.33 % confidence: "
    )
    assert lines[2].endswith(" after 40 sets")
    assert lines[-1] == f"verdict    {floor.sentence}"
    assert floor.sentence.startswith("fit for budgets down to ")


def test_a_noisy_machine_is_unfit_with_the_exit_code_of_what_could_not_be_decided(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = fabricate({"a": 1.0, "b": 1.0}, sets=40, process=0.3)
    monkeypatch.setattr(noise, "time_copies", lambda backend, progress: noisy)
    ran = run("doctor", "--aa")
    assert ran.code == 3
    assert ran.out.splitlines()[-1].startswith("verdict    unfit: two equal networks may seem ")


@pytest.mark.parametrize("sets", [20, 40])
def test_a_machine_that_held_the_processes_back_is_unfit_and_told_so(
    sets: int, run: Run, timed: LatencySamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "time_copies", lambda backend, progress: disturb(timed, blocks=10, sets=sets))
    ran = run("doctor", "--aa")
    assert ran.code == 3
    assert f"seen       {10 * sets} of 400 blocks were dropped for all sides: the CPU quota was spent" in ran.out
    assert "unknown after 40 sets" in ran.out
    shown = json.loads(run("doctor", "--aa", "--json").out)
    assert (shown["fit"], shown["low"], shown["width"]) == (False, None, None)
    assert shown["sentence"].startswith("unfit: ")


def test_the_check_is_printed_as_json(run: Run, timed: LatencySamples) -> None:
    ran = run("doctor", "--aa", "--json")
    shown, floor = json.loads(ran.out), find_floor()
    assert ran.code == 0
    assert {name: shown[name] for name in noise.NoiseFloor.model_fields} == floor.model_dump()
    assert (shown["fit"], shown["width"], shown["half_width"]) == (True, floor.width, floor.half_width)
    assert shown["conditions"] == []


def test_a_backend_is_only_for_the_check(run: Run) -> None:
    hint = "without it, doctor looks at every backend"
    refused(run("doctor", "--backend", "null"), 2, "`--backend` goes with `--aa`", hint)


@pytest.mark.parametrize(
    ("backend", "message", "hint"),
    [
        ("onnxruntime_cp", "unknown backend `onnxruntime_cp`", "did you mean `onnxruntime_cpu`?"),
        ("null", "`null` is simulated, which says nothing of this machine", "`edgeopt backends` lists what there is"),
    ],
)
def test_a_backend_that_tells_nothing_is_refused(backend: str, message: str, hint: str, run: Run) -> None:
    refused(run("doctor", "--aa", "--backend", backend), 2, message, hint)


def test_without_onnx_the_extra_that_brings_it_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise ModuleNotFoundError('no onnx', name='onnx')\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused(run("doctor", "--aa"), 5, "`onnx` is not installed", "pip install 'edgeopt[compile]'")
