"""`edgeopt device run`: one line for each image, and one named failure for each that cannot be read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeopt.device.home import Home
from edgeopt.device.run import find_images
from edgeopt.errors import UsageError
from tests.device.pictures import BLUE, GREEN, RED, encode, make_release, use_release
from tests.signers import Holders

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images in two folders, and a hidden file."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    (folder / "a.png").write_bytes(encode(RED))
    (folder / "b.bmp").write_bytes(encode(GREEN, "BMP"))
    (folder / "more" / "c.png").write_bytes(encode(BLUE))
    (folder / ".hidden").write_bytes(b"not looked at")
    return folder


def run(home: Home, images: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeopt", "device", "run", "--home", str(home.folder), "--images", str(images)]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def test_each_image_has_its_line_in_the_order_of_names(
    home: Home, holders: Holders, images: Path, tmp_path: Path
) -> None:
    use_release(home, make_release(tmp_path, holders, 1, batch=2, fixed=True), unseen=True)
    done = run(home, images, "--top", "2")
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(images / name) for name in ("a.png", "b.bmp", "more/c.png")]
    assert [[part.split()[0] for part in line[1].split(", ")] for line in lines] == [
        ["red", "green"], ["green", "blue"], ["blue", "green"],
    ]  # fmt: skip
    assert home.state().starts == 0


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_answered(
    home: Home, holders: Holders, images: Path, tmp_path: Path
) -> None:
    use_release(home, make_release(tmp_path, holders, 1, batch=2, fixed=True), unseen=True)
    (images / "b.bmp").write_bytes(encode(GREEN, "BMP")[:100])
    (images / "notes.txt").write_text("not an image")
    done = run(home, images, "--json")
    assert done.returncode == 2
    told = {Path(line["image"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(told) == ["a.png", "b.bmp", "notes.txt", "c.png"]
    assert (told["a.png"]["label"], told["c.png"]["label"]) == ("red", "blue")
    for name in ("b.bmp", "notes.txt"):
        assert f"{name}` cannot be read as an image" in told[name]["error"]
        assert f"{name}` cannot be read as an image" in done.stderr
    assert "2 of 4 files could not be answered" in done.stderr


def test_a_network_that_is_no_classifier_gives_its_outputs(
    home: Home, holders: Holders, images: Path, tmp_path: Path
) -> None:
    use_release(home, make_release(tmp_path, holders, 1, "two outputs", classes=None), unseen=True)
    assert run(home, images).stdout.splitlines()[0] == f"{images / 'a.png'}  scores [3], map [3, 1, 1]"
    first = json.loads(run(home, images, "--json").stdout.splitlines()[0])
    assert np.shape(first["outputs"]["map"]) == (3, 1, 1)


def test_where_there_is_nothing_to_answer_it_says_so(home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no file in"):
        find_images(tmp_path / "empty")
    with pytest.raises(UsageError, match="there is no folder"):
        find_images(tmp_path / "none")
    done = run(home, tmp_path / "empty")
    assert done.returncode == 2
    assert "there is no file in" in done.stderr


def test_a_device_without_a_release_answers_nothing(home: Home, images: Path) -> None:
    done = run(home, images)
    assert done.returncode == 6
    assert "no release is active" in done.stderr
