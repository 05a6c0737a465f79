"""What a step depends on, as digests: files, the code that will run, and the libraries that it calls.

Nothing is imported to find out: imports are read from the syntax tree, so that a plan can be made where torch is not
installed and no user code ever runs.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeopt import environment, files
from edgeopt.errors import UsageError
from edgeopt.model import canonical_json

PACKAGE = Path(__file__).parent

#: import name → distribution name, where they differ
DISTRIBUTIONS = {
    "PIL": "pillow", "ruamel": "ruamel.yaml", "torch_pruning": "torch-pruning", "google": "protobuf",
    "cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip

#: a file that changed so lately may change again without its time telling
SETTLED_NS = 2_000_000_000


def digest(parts: object) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def code_parts(modules: Iterable[str]) -> dict[str, str]:
    """Key parts for code: one for each file of ours that the modules import, transitively, and one for each library.

    `modules` are dotted names. Ours is what lies in edgeopt and, where a module is a third party's plug-in, in its
    package, with what is beside it unless that is where everything is installed: a plug-in under development changes
    without its version telling.
    """
    code, libraries, seen = dict[str, str](), set[str](), set[str]()
    waiting = list(modules)
    homes = [PACKAGE.parent, *dict.fromkeys(home for name in waiting if (home := _home_of(name)))]
    plugins = {name.split(".")[0] for name in waiting}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        home, path = _locate(name, homes, plugins)
        if name.split(".")[0] != "edgeopt":
            libraries.add(name.split(".")[0])
        if path is not None:
            source = _read_source(path, home, path.stat().st_mtime_ns)
            code[f"code {path.relative_to(home)}"] = source.sha256
            waiting += [name.rpartition(".")[0], *source.imports]
    return code | {f"library {name}": version for name in libraries if (version := _library_version(name))}


def user_parts(file: Path) -> dict[str, str]:
    """Key parts for a user's Python file: one for each file of `local_closure`, and one for each library."""
    parts: dict[str, str] = {}
    for path in local_closure(file):
        source = _read_source(path, file.parent, path.stat().st_mtime_ns)
        parts[f"file {path.relative_to(file.parent)}"] = source.sha256
        for name in source.imports:
            if version := _library_version(name.split(".")[0]):
                parts[f"library {name.split('.')[0]}"] = version
    return parts


def local_closure(file: Path) -> list[Path]:
    """A user's Python file with the files beside and below it that it imports, transitively; sorted."""
    found, waiting = set[Path](), [file]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for name in _read_source(path, file.parent, path.stat().st_mtime_ns).imports:
            words = name.split(".")
            for base in (file.parent.joinpath(*words[:count]) for count in range(1, len(words) + 1) if words[0]):
                waiting += [base.with_suffix(".py"), base / "__init__.py"]  # importing `a.b` runs `a/__init__.py` too
    return sorted(found)


class FileDigests:
    """Digests of files, memoized by path, size, mtime and inode: a plan need not read ten thousand images twice."""

    def __init__(self, memo: Path) -> None:
        self._memo = memo
        self._known = _read_memo(memo)
        self._used: dict[str, list[int | str]] = {}

    def of(self, path: Path) -> str:
        """The digest of a file.

        Raises:
            UsageError: it cannot be read.
        """
        try:
            status = path.stat()
            identity = [status.st_size, status.st_mtime_ns, status.st_ino]
            known = self._known.get(str(path))
            digest = known[3] if known is not None and known[:3] == identity else files.hash_file(path)
        except OSError as error:
            what = f"cannot read `{path}`: {(error.strerror or '').lower()}"
            raise UsageError(what, "see that it is a file that you may read") from error
        if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
            self._used[str(path)] = [*identity, digest]
        return str(digest)

    def of_all(self, paths: Iterable[Path], root: Path) -> str:
        """One digest over many files, by their names relative to `root`."""
        return digest([[_relative(path, root), self.of(path)] for path in paths])

    def save(self) -> None:
        if self._used != self._known:
            files.write_bytes(self._memo, canonical_json(self._used))


def _read_memo(path: Path) -> dict[str, list[int | str]]:
    try:
        memo = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # a memo only saves time: without it the files are read
    entries = memo.items() if isinstance(memo, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 4}


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


@dataclass(frozen=True)
class _Source:
    """A Python file: its digest, and the dotted names that it may import. A name too many only costs time."""

    sha256: str
    imports: tuple[str, ...]


@functools.cache
def _read_source(path: Path, root: Path, _mtime_ns: int) -> _Source:
    """A file below `root`, from which its imports are resolved."""
    text = path.read_bytes()
    try:
        imports = tuple(dict.fromkeys(_imported(ast.parse(text), path.parent.relative_to(root).parts)))
    except (SyntaxError, ValueError):
        imports = ()  # importing it will say what is wrong
    return _Source(hashlib.sha256(text).hexdigest(), imports)


def _imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: max(0, len(package) - node.level + 1)] if node.level else ()
            base = ".".join((*parents, node.module) if node.module else parents)
            yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)  # each may be a module


def _locate(name: str, homes: list[Path], plugins: set[str]) -> tuple[Path, Path | None]:
    """The file of a module of edgeopt or of a plug-in, and the folder that its package lies in; None for all others.

    None for edgeopt itself too, whose names are lazy.
    """
    first = name.split(".")[0]
    if first == "edgeopt":
        return PACKAGE.parent, None if name == first else _module_path(PACKAGE.parent, name)
    for home in homes[1:]:
        installed = {"site-packages", "dist-packages"} & set(home.parts)
        path = _module_path(home, name) if first in plugins or not installed else None
        if path is not None and first not in sys.stdlib_module_names:
            return home, path
    return PACKAGE.parent, None


def _home_of(name: str) -> Path | None:
    """The folder that a plug-in's package lies in; None for edgeopt, and for what has no file."""
    if name.split(".")[0] == "edgeopt":
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # not there, or made by hand
        return None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    depth = name.count(".") + (spec.submodule_search_locations is not None)
    return Path(spec.origin).parents[depth]


def _module_path(home: Path, name: str) -> Path | None:
    base = home.joinpath(*name.split("."))
    files_of = (base.with_suffix(".py"), base / "__init__.py") if name else ()
    return next((path for path in files_of if path.is_file()), None)


@functools.cache
def _library_version(name: str) -> str | None:
    if name in sys.stdlib_module_names or not name:
        return None
    return environment.library_version(DISTRIBUTIONS.get(name, name))
