"""Npz: rows streamed out of real files, in flat memory, and every damage named."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeopt.data.npz import Npz, NpzDataset, input_names
from edgeopt.errors import DataError


def images(count: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 3, 4), np.uint8)


def write(folder: Path, compressed: bool = True, **arrays: Any) -> Path:
    path = folder / "split.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def write_member(folder: Path, name: str, content: bytes) -> Path:
    path = folder / "split.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def open_split(path: Path, inputs: tuple[str, ...] = ("image",), classes: tuple[str, ...] | None = None) -> NpzDataset:
    return Npz().open(path, inputs, classes)


def fault(path: Path, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(open_split(path, **arguments).read())
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("compressed", [True, False])
def test_rows_come_out_as_they_were_stored(tmp_path: Path, compressed: bool) -> None:
    split = open_split(write(tmp_path, compressed, image=images(), labels=[3, 1, 4, 1, 5, 9]))
    assert len(split) == 6
    labels = split.labels()
    assert labels is not None
    assert labels.tolist() == [3, 1, 4, 1, 5, 9]
    assert np.array_equal([row["image"] for row in split.read()], images())
    assert split.name(2) == f"row 2 of `{tmp_path / 'split.npz'}`"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(rows=st.sets(st.integers(0, 5)), compressed=st.booleans())
def test_any_increasing_choice_of_rows_can_be_read_twice(tmp_path: Path, rows: set[int], compressed: bool) -> None:
    split = open_split(write(tmp_path, compressed, image=images()))
    for _ in range(2):
        read = [row["image"] for row in split.read(sorted(rows))]
        assert np.array_equal(np.array(read).reshape(-1, 1, 3, 4), images()[sorted(rows)])


@pytest.mark.parametrize("rows", [[2, 1], [1, 1], [0, 6], [-1]])
def test_rows_out_of_order_or_range_are_refused(tmp_path: Path, rows: list[int]) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list(open_split(write(tmp_path, image=images())).read(rows))


def test_several_inputs_are_read_side_by_side(tmp_path: Path) -> None:
    split = open_split(write(tmp_path, a=np.arange(6.0), b=images(), unused=np.zeros(2)), inputs=("b", "a"))
    rows = list(split.read([1, 4]))
    assert [row["a"].item() for row in rows] == [1.0, 4.0]
    assert np.array_equal(rows[1]["b"], images()[4])


@pytest.mark.parametrize("compressed", [True, False])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, compressed: bool) -> None:
    def peak_bytes(count: int) -> int:
        path = write(tmp_path, compressed, image=np.zeros((count, 64, 1024), np.uint8))
        tracemalloc.start()
        for row in open_split(path).read():
            assert row["image"].shape == (64, 1024)
        for _ in open_split(path).read([count - 1]):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(4)
    assert peak_bytes(200) < 1.1 * peak_bytes(20) < 2e6


def test_equal_rows_have_equal_digests_and_others_have_not(tmp_path: Path) -> None:
    first = images()
    first[3] = first[0]
    digests = list(open_split(write(tmp_path, image=first)).digests())
    assert digests[3] == digests[0]
    assert len(set(digests)) == 5
    assert (
        list(open_split(write(tmp_path, False, image=first[::-1].copy(), labels=range(6))).digests()) == digests[::-1]
    )


def test_labels_may_be_absent(tmp_path: Path) -> None:
    assert open_split(write(tmp_path, image=images()), classes=("a", "b")).labels() is None


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, 2, 0, 3, 9], "the label of row 4 of `{path}` is 3, allowed: 0 to 2"),
        ([0, -1, 2, 0, 1, 1], "the label of row 1 of `{path}` is -1, allowed: 0 to 2"),
        (np.array([0, 0, 0, 0, 0, 2**63], np.uint64), "row 5 of `{path}` is 9223372036854775808"),
        ([0.0, 1.0, 2.0, 0.0, 1.0, 1.0], "dtype `float64`"),
        ([[0]] * 6, "shape (6, 1)"),
        ([0, 1], "different numbers of rows: `image` 6, `labels` 2"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, labels: Any, says: str) -> None:
    path = write(tmp_path, image=images(), labels=labels)
    assert says.format(path=path) in fault(path, classes=("a", "b", "c"))


def test_a_missing_array_or_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, image=images())
    with pytest.raises(DataError, match="no array `imgae`") as caught:
        open_split(path, ("imgae",))
    assert caught.value.hint == "did you mean `image`?"
    with pytest.raises(DataError, match="there is no file") as caught:
        open_split(tmp_path / "spilt.npz")
    assert caught.value.hint == "did you mean `split.npz`?"


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([{}, {}]), "Python objects"),
        (np.array(["a", "b"]), "dtype `<U1`"),
        (np.zeros(2, [("x", "f4")]), "not numbers"),
        (np.asfortranarray(np.zeros((2, 3))), "Fortran order"),
        (np.float32(3), "a single number"),
    ],
)
def test_arrays_that_cannot_be_streamed_are_refused(tmp_path: Path, array: Any, says: str) -> None:
    assert says in fault(write(tmp_path, image=array))


def test_a_pickle_inside_is_never_loaded(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (canary,)

    path = write(tmp_path, image=np.array([Evil()], object))
    assert "Python objects" in fault(path)
    assert not canary.exists()


def test_every_cut_of_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path, image=images(), labels=range(6))
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert str(path) in fault(path)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_flipped_byte_is_noticed(tmp_path: Path, compressed: bool) -> None:
    path = write(tmp_path, compressed, image=images())
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    whole[info.header_offset + 30 + len(info.filename) + info.compress_size - 5] ^= 0x55
    path.write_bytes(whole)
    assert str(path) in fault(path)


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)})
    assert "does not have the size" in fault(write_member(tmp_path, "image", content.getvalue() + b"\0" * 64))


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\x93NUMPY\x09\x00", b"\x93NUMPY\x01\x00\x10\x00{'shape': (2,)\n"]
)
def test_a_member_that_is_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    assert str(tmp_path) in fault(write_member(tmp_path, "image", content))


def test_other_compressions_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.npz"
    content = io.BytesIO()
    np.save(content, images())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("image.npy", content.getvalue())
    assert "compressed in an unknown way" in fault(path)
    write(tmp_path, False, image=images())
    whole = bytearray(path.read_bytes())
    for offset in (6, whole.index(b"PK\x01\x02") + 8):
        whole[offset] |= 1
    path.write_bytes(whole)
    assert "encrypted" in fault(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_any_bytes_changed_gives_its_rows_or_a_named_fault(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "fuzzed.npz"
    np.savez(path, image=images(2), labels=[0, 1])
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    # Whatever else is raised, a traceback for the user, fails the test.
    with contextlib.suppress(DataError):
        assert len(list(open_split(path, classes=("a", "b")).read())) <= 2


def test_an_array_that_nothing_uses_is_named_where_there_are_no_labels(tmp_path: Path) -> None:
    rows = np.zeros(6, np.int64)
    with pytest.raises(DataError, match="has no `labels`, and `y`, which nothing uses"):
        open_split(write(tmp_path, image=images(), y=rows))
    assert open_split(write(tmp_path, image=images(), labels=rows, names=rows)).labels() is not None


def test_the_arrays_of_a_file_but_its_labels_are_its_inputs(tmp_path: Path) -> None:
    assert input_names(write(tmp_path, left=images(), labels=np.zeros(6, int), right=images())) == ["left", "right"]
    with pytest.raises(DataError, match=r"is not a sound \.npz file"):
        input_names(tmp_path / "nowhere.npz")
