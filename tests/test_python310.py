"""What runs on a device runs, really, on Python 3.10 with the base install and a runtime alone, as on JetPack 6."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomllib

from tests.device.conftest import Releases, digest_of, holders, releases, root

__all__ = ["holders", "releases", "root"]

ROOT = Path(__file__).parents[1]

#: names a Python 3.10 that has the base install and onnxruntime; without it one is made, which takes minutes
READY = "EDGEOPT_PYTHON310"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IMPORT_ALL = """if True:
    import importlib, pkgutil, sys
    assert sys.version_info[:2] == (3, 10)
    for folder in ("edgeopt.bundle", "edgeopt.device", "edgeopt.cli.device"):
        package = importlib.import_module(folder)
        for module in pkgutil.iter_modules(package.__path__, folder + "."):
            importlib.import_module(module.name)
    assert not {"torch", "onnx", "onnxruntime"} & sys.modules.keys()
"""


def is_usable(path: str) -> bool:
    """Whether it is a Python 3.10 that makes environments: what stands on the PATH may be a shim of one that is not."""
    script = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 10))"
    return subprocess.run([path, "-c", script], capture_output=True, timeout=60, check=False).returncode == 0


@pytest.fixture(scope="module")
def python310(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python 3.10 with what pyproject.toml asks for on a device, and a runtime."""
    if ready := os.environ.get(READY):
        return Path(ready)
    found = [shutil.which("python3.10"), *sorted(map(str, Path.home().glob(".pyenv/versions/3.10*/bin/python")))]
    base = next((path for path in filter(None, found) if is_usable(path)), None)
    if base is None:
        pytest.skip(f"no Python 3.10 here, and {READY} names none")
    folder = tmp_path_factory.mktemp("python310")
    subprocess.run([base, "-m", "venv", str(folder)], check=True, timeout=300)
    with (ROOT / "pyproject.toml").open("rb") as stream:
        project = tomllib.load(stream)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    python = folder / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, timeout=800)
    if done.returncode:
        pytest.skip(f"the base install cannot be had here for Python 3.10: {done.stderr.strip()[-300:]}")
    return python


@pytest.fixture
def device(python310: Path, tmp_path: Path) -> Any:
    """Runs `edgeopt device` there and gives what it printed."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "EDGEOPT_DEVICE": str(tmp_path / "device")}

    def run(*arguments: str) -> str:
        command = [str(python310), "-m", "edgeopt", "device", *arguments]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_module_of_a_device_is_imported(python310: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python310, "-c", IMPORT_ALL], env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_release_is_installed_tested_used_and_left(
    device: Any, releases: Releases, root: bytes, tmp_path: Path
) -> None:
    (tmp_path / "root.json").write_bytes(root)
    bundles = [releases.make(counter, kind) for counter, kind in ((1, "sound"), (2, "close"))]
    assert ": key " in device("init", "--root", "root.json", "--board", "orin")
    for bundle in bundles:
        assert json.loads(device("install", str(bundle), "--json"))["digest"] == digest_of(bundle)
        assert json.loads(device("activate", "--json"))["smoke"]["difference"] < 0.001
    assert "digits on orin, channel stable, counter 2" in device("status")
    assert "in use again" in device("rollback")
    status = json.loads(device("status", "--json"))
    assert status["state"]["current"] == digest_of(bundles[0])
    assert status["environment"]["python"].startswith("3.10")
    assert device("gc").startswith("0 releases")
