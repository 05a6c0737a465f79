"""The user's own Python: named in a recipe as `path/to/file.py:callable`, and the only code of a recipe that ever runs.

What it raises becomes a usage error that says in which of the user's lines, so that a mistake there reads like a
mistake in the recipe and not like one in edgeopt.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeopt.errors import UsageError, did_you_mean


def call(root: Path, name: str, options: Mapping[str, Any], fault: type[UsageError]) -> Any:
    """Import `path/to/file.py:callable`, relative to `root`, and call it with the options.

    Files beside it can be imported by it, then and while it is called.

    Raises:
        fault: there is no such file or callable, or it raises.
    """
    function = load(root, name, fault)
    called = ", ".join(f"{key}={value!r}" for key, value in options.items())
    with named(root, name, fault, f"it was called as `{locate(root, name)[1]}({called})`"):
        return function(**options)


def load(root: Path, name: str, fault: type[UsageError]) -> Callable[..., Any]:
    """What `path/to/file.py:callable`, relative to `root`, stands for.

    Raises:
        fault: there is no such file or callable, or importing the file raises.
    """
    path, attribute = locate(root, name)
    if not path.is_file():
        raise fault(f"there is no file `{path}`", did_you_mean(path.name, _neighbours(path)))
    with _importable(path.parent):
        try:
            module = _import(path)
        except (Exception, SystemExit) as error:
            raise fault(f"importing `{path}` raised {where(error, path.parent)}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise fault(f"`{path}` has no callable `{attribute}`", did_you_mean(attribute, known))
    loaded: Callable[..., Any] = function
    return loaded


@contextlib.contextmanager
def named(root: Path, name: str, fault: type[UsageError], hint: str = "") -> Iterator[None]:
    """Name what the user's callable raises while it is called, with its line; files beside it can be imported.

    Raises:
        fault: it raised something.
    """
    path, attribute = locate(root, name)
    with _importable(path.parent):
        try:
            yield
        except (Exception, SystemExit) as error:
            raise fault(f"`{path.name}:{attribute}` raised {where(error, path.parent)}", hint) from error


def locate(root: Path, name: str) -> tuple[Path, str]:
    """The file and the attribute that `path/to/file.py:callable` stands for."""
    file, _, attribute = name.rpartition(":")
    return (root / file).resolve(), attribute


def where(error: BaseException, folder: Path) -> str:
    """What was raised, and the innermost file and line inside the user's `folder` that it passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(Path(frame.filename), folder)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _is_own(path: Path, folder: Path) -> bool:
    installed = "site-packages" in path.parts or path.is_relative_to(Path(__file__).parent)
    return path.is_relative_to(folder) and not installed


def _neighbours(path: Path) -> list[str]:
    return [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []


def _import(path: Path) -> object:
    # The name holds the whole path, so that two recipes' `network.py` in one process stay apart.
    name = f"edgeopt_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
