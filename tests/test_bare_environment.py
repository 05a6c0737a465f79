"""What runs on a device needs the base install and a runtime: no torch, no onnx, nothing of the compiler's."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

import edgeopt

ROOT = Path(__file__).parents[1]

#: what a device imports; folders with all their files
BASE = (
    "errors", "files", "model", "registry", "environment", "workers", "data", "recipe", "context", "engines", "bundle",
    "device", "store", "backends.tensorrt",
)  # fmt: skip

BLOCKED = """if True:
    import importlib, sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in blocked:
                raise ModuleNotFoundError(f"`{name}` is not in the base install", name=name)

    blocked = set(sys.argv[1].split(","))
    sys.meta_path.insert(0, Blocker())
    for module in sys.argv[2].split(","):
        importlib.import_module(module)
"""


def base_modules() -> list[str]:
    found = []
    for name in BASE:
        found.append(f"edgeopt.{name}")
        folder = Path(edgeopt.__path__[0]) / name
        found += [module.name for module in pkgutil.iter_modules([str(folder)], f"edgeopt.{name}.")]
    return found


def declared() -> list[Requirement]:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        return [Requirement(line) for line in tomllib.load(stream)["project"]["dependencies"]]


def installed_by(requirements: list[Requirement]) -> set[str]:
    """The distributions that come with these requirements, themselves and what they require in turn."""
    found: set[str] = set()
    waiting = [requirement.name for requirement in requirements]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in found:
            found.add(name)
            needed = map(Requirement, importlib.metadata.requires(name) or [])
            waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def other_modules(base: set[str]) -> Iterator[str]:
    """The importable names of all that is installed here and does not come with `base`."""
    for module, owners in importlib.metadata.packages_distributions().items():
        if not (base | {"edgeopt"}) & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}:
            yield module


def test_what_a_device_runs_imports_from_the_base_install_alone() -> None:
    blocked = set(other_modules(installed_by(declared())))
    assert {"torch", "onnx", "onnxruntime", "scipy", "rich"} <= blocked
    assert not {"numpy", "pydantic", "click", "PIL"} & blocked
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, ",".join(blocked), ",".join(base_modules())],
        env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", base_modules())
def test_what_a_device_runs_is_written_for_python_310(module: str) -> None:
    path = ROOT.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf8")
    tree = ast.parse(source, feature_version=(3, 10))
    new_in_311 = {"tomllib", "Self", "StrEnum", "ExceptionGroup", "file_digest", "assert_never", "chdir", "UTC"}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    assert not used & new_in_311
