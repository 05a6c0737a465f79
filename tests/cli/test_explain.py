"""`explain`: what it prints, as text and as JSON, and that no bad input gives a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeopt.report import Report
from edgeopt.report.json import Json
from tests.cli.test_cli import Run, run
from tests.end_to_end.conftest import Job, job
from tests.report.conftest import CRASHED, FP32, INT8, make_report, make_target

__all__ = ["job", "run"]


def write(report: Report, folder: Path) -> Path:
    (folder / "report.json").write_text(Json().render(report), encoding="utf8")
    return folder


def test_a_report_is_explained_though_all_that_it_tells_of_is_gone(run: Run, tmp_path: Path) -> None:
    folder = write(make_report(make_target(FP32, INT8, CRASHED)), tmp_path)
    for path in (folder, folder / "report.json"):
        ran = run("explain", str(path))
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.count("its artifact is neither beside the report nor in the store") == 2
        assert "it could not be built: `openvino_cpu` is not installed" in ran.out
        assert max(map(len, ran.out.splitlines())) <= 100


def test_one_candidate_alone_as_json(run: Run, tmp_path: Path) -> None:
    folder = write(make_report(make_target(FP32, INT8)), tmp_path)
    ran = run("explain", str(folder), "--candidate", INT8.id, "--json")
    (told,) = json.loads(ran.out)
    assert (told["target"], told["candidate"]) == ("x86", INT8.id)
    assert told["measured"].startswith("4.0× as fast as float [3.9, 4.1]")
    assert (told["slow"], told["noise"]) == ([], None)


def test_an_unknown_candidate_comes_with_the_nearest_one(run: Run, tmp_path: Path) -> None:
    ran = run("explain", str(write(make_report(make_target(FP32, INT8)), tmp_path)), "--candidate", "onnxruntime_cpu")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: the report has no candidate `onnxruntime_cpu`\n\nhint: did you mean")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "\0", '{"format": 1}'])
def test_what_is_no_report_is_refused(content: str | None, run: Run, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    ran = run("explain", str(tmp_path))
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    assert "\nhint: " in ran.err


@pytest.mark.slow
def test_a_real_run_is_explained_from_its_bundle_and_the_store(job: Job) -> None:
    compiled = job.compile()
    assert compiled.code == 0, compiled.err
    ran = job.run("explain", "out")
    assert (ran.code, ran.err) == (0, "")
    assert "onnxruntime_cpu/fp32: " in ran.out
    assert "dB signal to noise at the output · 16 calibration samples" in ran.out
    assert "note: " not in ran.out.replace("note: it is the float network itself", "")
