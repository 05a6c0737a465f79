"""A small bundle, made by the packer from files on the disk."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import EdgeoptError
from edgeopt.model import Artifact, TensorSpec, list_files

FILES = {"model.onnx": bytes(range(256)) * 9, "parts/first.bin": b"", "parts/second.bin": b"weights"}


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    """A bundle's contents, with three files of the artifact in two folders, one of them empty."""
    built = tmp_path / "built"
    for name, content in FILES.items():
        (built / name).parent.mkdir(parents=True, exist_ok=True)
        (built / name).write_bytes(content)
    artifact = Artifact(
        target="x86",
        backend="onnxruntime_cpu",
        files=list_files(built, list(FILES)),
        inputs=(TensorSpec(name="image", shape=("batch", 1, 4, 4)),),
        outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
        requires={"onnxruntime": ">=1.23"},
        settings={"threads": 1},
        facts={"build_seconds": 1.25},
        folder=built,
    )
    sample = Golden({"image": np.arange(16, dtype=np.uint8)}, {"logits": np.arange(10, dtype=np.float32)})
    return Contents(
        name="digits",
        target="x86",
        candidate="onnxruntime_cpu/int8",
        artifact=artifact,
        preprocess=Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,)),
        classes=("null", "één", "two"),
        compatible={"machine": "x86_64"},
        recipe=b"edgeopt: 1\nname: digits\n",
        golden=(sample, sample),
        measurements=({"metric": "latency.p50_ms", "unit": "ms", "value": 0.24},),
        verdicts=({"budget": "size.max_mb", "verdict": "pass", "margin": 0.1, "sentence": "small"},),
    )


@pytest.fixture
def bundle(contents: Contents, tmp_path: Path) -> Bundle:
    """The bundle's folder."""
    return pack_bundle(contents, tmp_path / "bundle")


@pytest.fixture
def file(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle's one file."""
    pack_file(bundle.folder, tmp_path / "digits.edgeopt")
    return tmp_path / "digits.edgeopt"


@pytest.fixture
def pack_again(contents: Contents, tmp_path: Path) -> Callable[..., bytes]:
    """Packs the same contents into another folder, with some fields changed, and gives the bytes of the file."""

    def pack(**changes: Any) -> bytes:
        pack_bundle(replace(contents, **changes), tmp_path / "again")
        pack_file(tmp_path / "again", tmp_path / "again.edgeopt")
        return (tmp_path / "again.edgeopt").read_bytes()

    return pack


@pytest.fixture
def fail_at_each_write(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Iterator[EdgeoptError]]:
    """Runs an action with the disk full at its first write, then at its second and so on; gives each error in turn."""

    def fail(act: Callable[[], object]) -> Iterator[EdgeoptError]:
        for allowed in itertools.count():
            writes = itertools.count()

            def full(operation: str, path: Path, allowed: int = allowed, writes: Iterator[int] = writes) -> None:
                if next(writes) >= allowed:
                    raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(files, "observe", full)
            try:
                act()
            except EdgeoptError as error:
                yield error
            else:
                return

    return fail
