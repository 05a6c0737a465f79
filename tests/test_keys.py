"""A key changes exactly when something that the step depends on does: code, user code, libraries, files."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt import environment, files, keys
from edgeopt.errors import UsageError
from edgeopt.keys import FileDigests, code_parts, local_closure, user_parts

PACKAGE_FILES = {
    "__init__.py": "from edgeopt import unrelated",
    "base.py": "import json\nVALUE = 1",
    "middle/__init__.py": "",
    "middle/inner.py": "from edgeopt.base import VALUE\n",
    "top.py": "def run():\n    from edgeopt.middle import inner\n    import numpy as np\n    from PIL import Image\n",
    "relative.py": "from . import base\nimport edgeopt.middle.inner\n",
    "unrelated.py": "",
    "broken.py": "def (",
}


TICKS = itertools.count(10**18)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package called edgeopt of a few small files."""
    folder = tmp_path / "site" / "edgeopt"
    for name, text in PACKAGE_FILES.items():
        write(folder / name, text)
    monkeypatch.setattr(keys, "PACKAGE", folder)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(0, next(TICKS)))  # twice within one tick of the real clock would be no change to anybody


def named(parts: dict[str, str], kind: str) -> set[str]:
    return {name.removeprefix(f"{kind} ") for name in parts if name.startswith(f"{kind} ")}


# edgeopt's own code


def test_the_code_of_a_step_is_what_it_imports_and_what_that_imports(package: Path) -> None:
    parts = code_parts(["edgeopt.top"])
    assert named(parts, "code") == {
        "edgeopt/top.py", "edgeopt/middle/__init__.py", "edgeopt/middle/inner.py", "edgeopt/base.py",
    }  # fmt: skip
    assert parts["code edgeopt/top.py"] == files.hash_file(package / "top.py")


def test_relative_imports_are_followed_and_the_packages_on_the_way_are_run(package: Path) -> None:
    assert named(code_parts(["edgeopt.relative"]), "code") == {
        "edgeopt/relative.py", "edgeopt/base.py", "edgeopt/middle/__init__.py", "edgeopt/middle/inner.py",
    }  # fmt: skip


def test_libraries_are_known_by_their_versions_under_the_name_they_are_imported_by(package: Path) -> None:
    parts = code_parts(["edgeopt.top"])
    assert named(parts, "library") == {"numpy", "PIL"}
    assert parts["library PIL"] == environment.library_version("pillow")
    assert not named(parts, "library") & {"json", "edgeopt"}


@pytest.mark.parametrize(
    ("changed", "matters"),
    [("base.py", True), ("middle/inner.py", True), ("middle/__init__.py", True), ("top.py", True),
     ("unrelated.py", False), ("__init__.py", False)],
)  # fmt: skip
def test_the_key_changes_when_a_file_does_that_is_imported_however_far_down(
    changed: str, matters: bool, package: Path
) -> None:
    before = code_parts(["edgeopt.top"])
    write(package / changed, PACKAGE_FILES[changed] + "\n# changed")
    after = code_parts(["edgeopt.top"])
    assert [name for name in before if before[name] != after[name]] == [f"code edgeopt/{changed}"] * matters
    write(package / changed, PACKAGE_FILES[changed])
    assert code_parts(["edgeopt.top"]) == before


def test_an_import_that_is_added_brings_its_file_in(package: Path) -> None:
    write(package / "base.py", "from edgeopt.unrelated import nothing")
    assert "edgeopt/unrelated.py" in named(code_parts(["edgeopt.top"]), "code")


def test_a_file_that_does_not_parse_is_in_the_key_and_stops_nothing(package: Path) -> None:
    assert named(code_parts(["edgeopt.broken"]), "code") == {"edgeopt/broken.py"}


def test_the_real_package_is_read_without_importing_torch() -> None:
    parts = code_parts(["edgeopt.passes.prune_channels", "edgeopt.sources.torch_factory"])
    assert {"edgeopt/network.py", "edgeopt/model.py", "edgeopt/pruning/groups.py"} <= named(parts, "code")
    assert "torch" in named(parts, "library")
    assert not any(name.startswith("edgeopt/cli") for name in named(parts, "code"))


# third parties' code

PLUGIN_FILES = {
    "acme/__init__.py": "",
    "acme/passes/__init__.py": "",
    "acme/passes/shrink.py": "import torch, json\nfrom edgeopt import base\nfrom ..tools import cut\nimport beside",
    "acme/tools.py": "",
    "acme/other.py": "",
    "beside.py": "",
    "json.py": "",
}


@pytest.fixture(params=["source", "site-packages"])
def plugin(
    request: pytest.FixtureRequest, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A plug-in whose distribution has another name than its module, in a source folder or installed."""
    folder = tmp_path / "plugin" / str(request.param)
    for name, text in PLUGIN_FILES.items():
        write(folder / name, text)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "acme"]:
        del sys.modules[name]  # `find_spec` imports the packages on the way


def test_the_code_of_a_plug_in_is_what_it_imports_from_its_package_and_from_edgeopt(plugin: Path) -> None:
    parts = code_parts(["acme.passes.shrink"])
    own = {"acme/__init__.py", "acme/passes/__init__.py", "acme/passes/shrink.py", "acme/tools.py", "edgeopt/base.py"}
    beside = {"beside.py"} if plugin.name == "source" else set()  # what is installed has a version
    assert named(parts, "code") == own | beside
    assert named(parts, "library") == {"torch"}


@pytest.mark.parametrize("changed", ["acme/passes/shrink.py", "acme/tools.py"])
def test_a_plug_in_that_is_edited_has_another_key_though_its_version_stays(changed: str, plugin: Path) -> None:
    before = code_parts(["acme.passes.shrink"])
    write(plugin / changed, PLUGIN_FILES[changed] + "\n# changed")
    after = code_parts(["acme.passes.shrink"])
    assert [name for name in before if before[name] != after[name]] == [f"code {changed}"]


@pytest.mark.parametrize("name", ["absent", "absent.inner", "sys", "__main__", "json.absent"])
def test_a_module_without_a_file_stops_no_plan(name: str) -> None:
    assert named(code_parts([name]), "code") <= {"__main__.py"}


# the user's code

USER_FILES = {
    "network.py": "import torch\nimport blocks\nfrom parts import head\nimport parts.deep.neck\nimport missing\n",
    "blocks.py": "import json, numpy",
    "parts/__init__.py": "",
    "parts/head.py": "from .tail import x\nfrom . import ear",
    "parts/tail.py": "",
    "parts/ear.py": "from ..blocks import y",
    "parts/deep/__init__.py": "from . import inner",
    "parts/deep/inner.py": "",
    "parts/deep/neck.py": "",
    "other.py": "",
    "json.py": "",
}


@pytest.fixture
def user(tmp_path: Path) -> Path:
    for name, text in USER_FILES.items():
        write(tmp_path / "user" / name, text)
    return tmp_path / "user"


def test_the_users_code_is_the_file_and_what_it_imports_beside_and_below_it(user: Path) -> None:
    closure = [str(path.relative_to(user)) for path in local_closure(user / "network.py")]
    assert closure == sorted(set(USER_FILES) - {"other.py"})


def test_the_parts_of_user_code_tell_files_of_one_name_apart(user: Path) -> None:
    parts = user_parts(user / "network.py")
    assert {"network.py", "parts/__init__.py", "parts/deep/__init__.py"} <= named(parts, "file")
    assert named(parts, "library") == {"torch", "numpy"}
    write(user / "parts" / "__init__.py", "# changed")
    changed = user_parts(user / "network.py")
    assert [name for name in parts if parts[name] != changed[name]] == ["file parts/__init__.py"]


def test_user_code_that_does_not_parse_or_is_not_there_stops_no_plan(tmp_path: Path) -> None:
    write(tmp_path / "broken.py", "import blocks\ndef (")
    (tmp_path / "zeros.py").write_bytes(b"\x00\x00")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\nimport x")
    for name in ("broken.py", "zeros.py", "latin.py"):
        assert local_closure(tmp_path / name) == [tmp_path / name]
    assert local_closure(tmp_path / "nowhere.py") == []
    assert user_parts(tmp_path / "nowhere.py") == {}


def test_files_that_import_each_other_end(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "import b")
    write(tmp_path / "b.py", "import a")
    assert local_closure(tmp_path / "a.py") == [tmp_path / "a.py", tmp_path / "b.py"]


def test_reading_code_runs_none_of_it(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    write(tmp_path / "network.py", f"open({str(canary)!r}, 'w')")
    user_parts(tmp_path / "network.py")
    assert not canary.exists()


# digests of files


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read whole."""
    paths: list[Path] = []
    hash_file = files.hash_file

    def noted(path: Path) -> str:
        paths.append(path)
        return hash_file(path)

    monkeypatch.setattr(files, "hash_file", noted)
    return paths


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def digest_again(memo: Path, path: Path) -> str:
    """As another process would: with a memo that was saved."""
    digests = FileDigests(memo)
    digest = digests.of(path)
    digests.save()
    return digest


def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path: Path, read: list[Path]) -> None:
    memo, path = tmp_path / "memo.json", tmp_path / "file"
    path.write_bytes(b"content")
    age(path, 100)
    first = digest_again(memo, path)
    assert digest_again(memo, path) == first == files.hash_file(path)
    assert read == [path, path], "once by us, once by this test"


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_a_file_that_changed_in_any_way_is_read_again(change: str, tmp_path: Path, read: list[Path]) -> None:
    memo, path = tmp_path / "memo.json", tmp_path / "file"
    path.write_bytes(b"content")
    age(path, 100)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    first = digest_again(memo, path)
    if change == "inode":
        (tmp_path / "new").write_bytes(b"CONTENT")
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(b"longer content" if change == "size" else b"CONTENT")
    if change != "mtime":
        os.utime(path, ns=times)
    assert digest_again(memo, path) != first
    assert len(read) == 2


def test_a_file_that_changed_a_moment_ago_is_not_trusted(tmp_path: Path, read: list[Path]) -> None:
    memo, path = tmp_path / "memo.json", tmp_path / "file"
    path.write_bytes(b"content")
    status = path.stat()
    first = digest_again(memo, path)
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as within one tick of a coarse clock
    assert digest_again(memo, path) != first


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b'{"PATH": 3}', b'{"PATH": []}', b'{"PATH": [7, null, null]}']
)
def test_a_damaged_memo_only_costs_time(content: bytes, tmp_path: Path) -> None:
    memo, path = tmp_path / "memo.json", tmp_path / "file"
    path.write_bytes(b"content")
    age(path, 100)
    memo.write_bytes(content.replace(b"PATH", str(path).encode()))
    assert digest_again(memo, path) == files.hash_file(path)
    assert str(path) in json.loads(memo.read_bytes())


def test_a_memo_forgets_what_is_not_asked_for_any_more(tmp_path: Path) -> None:
    memo = tmp_path / "memo.json"
    for name in ("a", "b"):
        (tmp_path / name).touch()
        age(tmp_path / name, 100)
        digest_again(memo, tmp_path / name)
    assert list(json.loads(memo.read_bytes())) == [str(tmp_path / "b")]


def test_the_digest_of_many_files_depends_on_names_order_and_content_and_not_on_the_folder(tmp_path: Path) -> None:
    def digest(folder: str, contents: dict[str, bytes]) -> str:
        for name, content in contents.items():
            files.write_bytes(tmp_path / folder / name, content)
        paths = [tmp_path / folder / name for name in contents]
        return FileDigests(tmp_path / "memo.json").of_all(paths, tmp_path / folder)

    base = digest("one", {"cat/1.png": b"1", "dog/1.png": b"2"})
    assert digest("two", {"cat/1.png": b"1", "dog/1.png": b"2"}) == base
    assert digest("three", {"cat/1.png": b"1", "dog/2.png": b"2"}) != base
    assert digest("four", {"cat/1.png": b"2", "dog/1.png": b"1"}) != base
    assert digest("five", {"dog/1.png": b"2", "cat/1.png": b"1"}) != base


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_is_no_file_is_an_error_that_names_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(UsageError, match=r"cannot read `.*thing`"):
        FileDigests(tmp_path / "memo.json").of(path)
