"""`edgeopt device build` as a user types it, on a device that has the fakes, which need onnx, and no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PATH, GpuInPlace

from edgeopt.backends import build_artifact, opened
from edgeopt.context import Context
from edgeopt.device.build import build_planned
from edgeopt.model import Artifact, Model, load_artifact, write_artifact
from edgeopt.workers import Limits

#: a finder that has never heard of these
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnxscript", "onnxslim"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def planned(fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path) -> Artifact:
    """What a machine without a GPU leaves; then there is one."""
    fake_gpu.set(devices=0)
    (tmp_path / "planned").mkdir()
    artifact = build_artifact("tensorrt", onnx_model, Context(folder=tmp_path / "planned", target="orin", batch=2))
    write_artifact(artifact, artifact.folder)
    fake_gpu.set(devices=1)
    return artifact


def run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    (home / "site").mkdir(exist_ok=True)
    (home / "site/sitecustomize.py").write_text(WITHOUT, encoding="utf8")
    path = os.pathsep.join([str(home / "site"), PATH, *filter(None, sys.path)])
    environ = os.environ | {"PYTHONPATH": path, "EDGEOPT_CACHE": str(home / "store"), "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-m", "edgeopt", *words]
    return subprocess.run(command, env=environ, cwd=home, capture_output=True, text=True, check=False)


def test_the_device_builds_what_was_planned_and_opens_it(planned: Artifact, tmp_path: Path) -> None:
    done = run("device", "build", "planned", "--out", "engine", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Fake Orin" in done.stdout
    built = load_artifact(tmp_path / "engine")
    assert sorted(path.name for path in (tmp_path / "engine").iterdir()) == ["artifact.json", "engine.plan"]
    images = {"image": np.random.default_rng(1).standard_normal((2, 1, 16, 16)).astype(np.float32)}
    with opened(planned) as expected, opened(built) as session:
        np.testing.assert_allclose(session.run(images)["output"], expected.run(images)["output"], rtol=1e-3, atol=1e-4)


def test_what_was_built_is_told_as_json_and_how_far_it_is_meanwhile(planned: Artifact, tmp_path: Path) -> None:
    done = run("device", "build", "planned", "--out", "engine", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["path"], told["requires"]["gpu"]) == ("engine", "Fake Orin")
    assert [file["path"] for file in told["files"]] == ["engine.plan"]
    assert done.stderr == "", "it is no terminal"
    seen: list[tuple[str, float | None]] = []
    build_planned(planned.folder, tmp_path / "again", Limits(seconds=120), lambda *told: seen.append(told))
    assert seen[-1] == ("building Engine", 1.0)


def test_what_cannot_be_built_is_said_in_one_line_and_leaves_nothing(
    planned: Artifact, fake_gpu: GpuInPlace, tmp_path: Path
) -> None:
    for words, code, told in (
        (("planned", "--out", "planned"), 2, "is there already"),
        (("nothing", "--out", "engine"), 2, "there is no `nothing/artifact.json`"),
    ):
        done = run("device", "build", *words, home=tmp_path)
        assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    fake_gpu.set(build="segfault")
    crashed = run("device", "build", "planned", "--out", "engine", home=tmp_path)
    assert (crashed.returncode, "SIGSEGV" in crashed.stderr) == (5, True), crashed.stderr
    fake_gpu.set(build="", devices=0)
    absent = run("device", "build", "planned", "--out", "engine", home=tmp_path)
    assert (absent.returncode, "there is no NVIDIA GPU here" in absent.stderr) == (5, True), absent.stderr
    fake_gpu.set(devices=1)
    (tmp_path / "planned/model.onnx").write_bytes(b"another")
    changed = run("device", "build", "planned", "--out", "engine", home=tmp_path)
    assert (changed.returncode, "is not the file that was built" in changed.stderr) == (4, True), changed.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if "engine" in path.name or "tmp" in path.name) == []
