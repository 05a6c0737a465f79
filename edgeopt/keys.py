"""What a step depends on, as digests: files, the code that will run, and the libraries that it calls.

Nothing is imported to find out: imports are read from the syntax tree, so that a plan can be made where torch is not
installed and no user code ever runs.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeopt import environment, files
from edgeopt.model import canonical_json

PACKAGE = Path(__file__).parent

#: import name → distribution name, where they differ
DISTRIBUTIONS = {"PIL": "pillow", "ruamel": "ruamel.yaml", "torch_pruning": "torch-pruning", "google": "protobuf"}


def digest(parts: object) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def code_parts(modules: Iterable[str]) -> dict[str, str]:
    """Key parts for code: one for each edgeopt file that the modules import, transitively, and one for each library.

    `modules` are dotted names; those outside edgeopt stand for third-party code, known by its distribution's version.
    """
    sources, libraries = set[Path](), set[str]()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name.split(".")[0] != "edgeopt":
            libraries.add(name.split(".")[0])
            continue
        path = _module_path(name)
        if path is not None and path not in sources:
            sources.add(path)
            waiting += _imports(path, path.stat().st_mtime_ns)
    code = {f"code {path.relative_to(PACKAGE.parent)}": files.hash_file(path) for path in sources}
    return code | {f"library {name}": version for name in libraries if (version := _library_version(name))}


def local_closure(file: Path) -> list[Path]:
    """A user's Python file with the files beside it that it imports, transitively; sorted."""
    found, waiting = set[Path](), [file]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for name in _imports(path, path.stat().st_mtime_ns):
            base = file.parent / Path(*name.split("."))
            waiting += [base.with_suffix(".py"), base / "__init__.py"]
    return sorted(found)


class FileDigests:
    """Digests of files, memoized by path, size, mtime and inode: a plan need not read ten thousand images twice."""

    def __init__(self, memo: Path) -> None:
        self._memo = memo
        self._known = _read_memo(memo)
        self._used: dict[str, list[int | str]] = {}

    def of(self, path: Path) -> str:
        status = path.stat()
        identity = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._known.get(str(path))
        digest = known[3] if known is not None and known[:3] == identity else files.hash_file(path)
        self._used[str(path)] = [*identity, digest]
        return str(digest)

    def of_all(self, paths: Iterable[Path], root: Path) -> str:
        """One digest over many files, by their names relative to `root`."""
        return digest([[_relative(path, root), self.of(path)] for path in paths])

    def save(self) -> None:
        if self._used != self._known:
            files.write_bytes(self._memo, canonical_json(self._used))


def _read_memo(path: Path) -> dict[str, list[int | str]]:
    import json

    try:
        memo = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # a memo only saves time: without it the files are read
    return memo if isinstance(memo, dict) else {}


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


@functools.cache
def _imports(path: Path, _mtime_ns: int) -> tuple[str, ...]:
    """The dotted names that a file may import, at its top or inside functions; type-checking imports are left out."""
    tree = ast.parse(path.read_bytes())
    package = _package_of(path)
    return tuple(dict.fromkeys(_imported(tree, package)))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if base.split(".")[0] == "edgeopt" or node.level)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _package_of(path: Path) -> str:
    return ".".join(path.parent.relative_to(PACKAGE.parent).parts) if path.is_relative_to(PACKAGE) else ""


def _module_path(name: str) -> Path | None:
    """The file of an edgeopt module; None for the package itself, whose names are lazy, and for other names."""
    base = PACKAGE.parent.joinpath(*name.split("."))
    if base == PACKAGE:
        return None
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@functools.cache
def _library_version(name: str) -> str | None:
    if name in sys.stdlib_module_names or not name:
        return None
    return environment.library_version(DISTRIBUTIONS.get(name, name))
