"""Backends and libraries are asked where a crash, a hang or a broken import costs their own answer and no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt import registry
from edgeopt.errors import BuildError
from edgeopt.examining import asking
from edgeopt.examining.asking import Found, ask
from edgeopt.examining.libraries import LIBRARIES
from edgeopt.workers import Limits

CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
HANG = "import time\ntime.sleep(60)\n"
EXIT = "import sys\nsys.exit(3)\n"
RAISE = "raise OSError('libbroken.so: cannot open shared object file')\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a module in place of the installed one, for the processes that are started from now on."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf8")

    return install


def by_name(rows: list[Found]) -> dict[str, Found]:
    return {row["name"]: row for row in rows}


def test_every_backend_and_library_answers_in_the_order_of_the_question() -> None:
    names = registry.names("backends")
    backends, libraries = ask(names, LIBRARIES)
    assert [row["name"] for row in backends] == list(names)
    assert [row["name"] for row in libraries] == list(LIBRARIES)
    assert by_name(backends)["null"]["available"]
    for row in backends:
        assert row["available"] == (not row["missing"])
        assert row["about"]
    for row in libraries:
        assert (row["version"] is None) == bool(row["missing"])


@pytest.mark.parametrize(("text", "how"), [(CRASH, "crashed with SIGSEGV"), (EXIT, "ended early with exit code 3")])
def test_a_library_that_ends_its_process_is_named_and_the_others_answer(
    text: str, how: str, install: Callable[[str, str], None]
) -> None:
    install("openvino", text)
    backends, libraries = ask(["null", "openvino_cpu", "onnxruntime_cpu"], ["openvino", "onnxruntime"])
    rows, found = by_name(backends), by_name(libraries)
    assert not rows["openvino_cpu"]["available"]
    assert how in rows["openvino_cpu"]["missing"]
    assert "`openvino_cpu`" in rows["openvino_cpu"]["missing"]
    assert (found["openvino"]["version"], how in found["openvino"]["missing"]) == (None, True)
    assert rows["null"]["available"]
    assert rows["onnxruntime_cpu"]["available"]
    assert found["onnxruntime"]["version"]


def test_the_last_lines_of_a_crashed_process_are_kept(install: Callable[[str, str], None]) -> None:
    install("openvino", CRASH)
    (row,), _ = ask(["openvino_cpu"])
    assert "asking.py" in row["log"]


def test_a_library_that_hangs_is_ended_and_named(
    install: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LIMITS", Limits(seconds=4))
    install("onnxruntime", HANG)
    started = time.monotonic()
    rows = by_name(ask(["null", "onnxruntime_cpu"])[0])
    assert "did not answer within 4 s and was ended" in rows["onnxruntime_cpu"]["missing"]
    assert rows["null"]["available"]
    assert time.monotonic() - started < 30


def test_a_library_that_cannot_be_loaded_is_shown_with_what_it_raised(install: Callable[[str, str], None]) -> None:
    install("torch", RAISE)
    install("onnxruntime", RAISE)
    (row,), (found,) = ask(["torch_eager"], ["onnxruntime"])
    assert not row["available"]
    assert "OSError: libbroken.so: cannot open shared object file" in row["missing"]
    assert found["missing"] == "OSError: libbroken.so: cannot open shared object file"


def test_what_torch_loads_is_not_there_when_the_others_are_asked(install: Callable[[str, str], None]) -> None:
    install("torch", "import os\nos.environ['TORCH_WAS_HERE'] = 'yes'\n")
    install("onnxruntime", "import os\nassert 'TORCH_WAS_HERE' not in os.environ\n")
    rows = by_name(ask(["torch_eager", "onnxruntime_cpu"])[0])
    assert rows["torch_eager"]["available"]
    assert rows["onnxruntime_cpu"]["available"]


def test_a_library_that_takes_all_memory_is_named(install: Callable[[str, str], None]) -> None:
    install("onnxruntime", "held = bytearray(1 << 60)\n")
    rows = by_name(ask(["null", "onnxruntime_cpu"])[0])
    assert rows["onnxruntime_cpu"]["missing"].startswith("out of memory when `onnxruntime_cpu` was loaded")
    assert rows["null"]["available"]


def test_an_error_that_is_none_of_theirs_is_not_laid_at_their_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LIMITS", Limits(seconds=20, memory_bytes=1))
    with pytest.raises(BuildError, match="out of memory"):
        ask(["null"])
