"""Checkpoints: real files, sound, damaged and hostile. Nothing in one ever runs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from edgeopt.checkpoint import find_state_dicts, read_tensors
from edgeopt.errors import EdgeoptError, SourceError, TrustError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(3), "n": torch.tensor(7)}


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def fault(path: Path, kind: type[EdgeoptError] = SourceError, **arguments: Any) -> EdgeoptError:
    with pytest.raises(kind) as caught:
        read_tensors(path, **arguments)
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message
    return caught.value


def assert_equal(read: dict[str, torch.Tensor]) -> None:
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".PTH"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_read(tmp_path: Path, suffix: str, legacy: bool) -> None:
    assert_equal(read_tensors(save(tmp_path / f"c{suffix}", TENSORS, _use_new_zipfile_serialization=not legacy)))


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "c.safetensors")
    assert_equal(read_tensors(tmp_path / "c.safetensors"))
    assert "has no `state_dict`" in fault(tmp_path / "c.safetensors", key="state_dict").message


def test_a_nested_state_dict_is_found_by_key_and_its_prefix_taken_off(tmp_path: Path) -> None:
    nested = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in TENSORS.items()}}
    path = save(tmp_path / "c.pth", nested)
    assert_equal(read_tensors(path, "state_dict", "module."))
    assert fault(path, key="state_dct").hint == "did you mean `state_dict`?"
    error = fault(path)
    assert "`epoch` is a int; `state_dict` is a dict" in error.message
    assert error.hint == "say where the state dict lies: `key: state_dict`"
    message = fault(path, key="state_dict", strip_prefix="model.").message
    assert "begins with `model.`; the first is `module.a.weight`" in message


def test_names_that_become_the_same_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", {"module.a": torch.ones(1), "a": torch.ones(1)})
    assert "two tensors" in fault(path, strip_prefix="module.").message


@pytest.mark.parametrize("content", [torch.ones(2), [torch.ones(2)], 3, {"a": [torch.ones(2)]}, {1: torch.ones(2)}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    assert "not a state dict" in fault(save(tmp_path / "c.pth", content)).message


def test_many_wrong_values_are_counted(tmp_path: Path) -> None:
    assert "`n4` is a int; 3 more" in fault(save(tmp_path / "c.pth", {f"n{i}": i for i in range(8)})).message


@pytest.mark.parametrize(
    "write",
    [
        lambda path, evil: torch.save({"a": torch.ones(1), "b": evil}, path),
        lambda path, evil: torch.save({"b": evil}, path, _use_new_zipfile_serialization=False),
        *(
            lambda path, evil, protocol=protocol: path.write_bytes(pickle.dumps({"b": evil}, protocol))
            for protocol in range(6)
        ),
    ],
)
def test_a_pickle_with_code_is_refused_and_its_code_never_runs(tmp_path: Path, write: Callable[..., None]) -> None:
    canary = tmp_path / "canary"
    write(tmp_path / "c.pth", Evil(canary))
    error = fault(tmp_path / "c.pth", TrustError)
    assert "wants to run `posix.system`" in error.message
    assert error.exit_code == 4
    assert not canary.exists()
    pickle.loads(pickle.dumps(Evil(canary)))
    assert canary.exists(), "the canary itself must work for this test to mean anything"


def test_a_pickled_network_is_refused_with_the_way_to_save_it(tmp_path: Path) -> None:
    error = fault(save(tmp_path / "c.pth", torch.nn.Linear(2, 2)), TrustError)
    assert "`torch.nn.modules.linear.Linear`" in error.message
    assert "state dict" in error.hint


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"net/{name}", b"\x80\x02}.")
    (tmp_path / "c.pt").write_bytes(stream.getvalue())
    assert "TorchScript" in fault(tmp_path / "c.pt", TrustError).message


def rewrite(path: Path, change: Callable[[zipfile.ZipFile, str, bytes], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            change(archive, name, content)
    return path


def test_a_compression_bomb_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", {"a": torch.zeros(1 << 20)})
    rewrite(path, lambda archive, name, content: archive.writestr(name, content, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 20_000
    assert "compressed members" in fault(path).message


def test_members_that_claim_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", {"a": torch.zeros(1000)})
    whole = path.read_bytes()
    place = whole.rindex(b"PK\x01\x02") + 20  # compressed and uncompressed size of the last member in the directory
    path.write_bytes(whole[:place] + b"\xff\xff\xff\x7f" * 2 + whole[place + 8 :])
    assert "claims" in fault(path).message


def test_other_zip_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("holiday.txt", "sun")
    assert "not one that `torch.save` wrote" in fault(tmp_path / "c.pth").message


@pytest.mark.parametrize(
    "tensor", [torch.ones(1).expand(10**6), torch.eye(3).to_sparse(), torch.ones(2, device="meta")]
)
def test_tensors_that_are_not_dense_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    assert "`a` " in fault(save(tmp_path / "c.pth", {"a": tensor})).message


@pytest.mark.parametrize("legacy", [False, True])
def test_every_cut_of_a_checkpoint_is_named(tmp_path: Path, legacy: bool) -> None:
    path = save(tmp_path / "c.pth", TENSORS, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:size])
        # An old pickle that ends inside a name asks for the beginning of that name, which is refused as code.
        with pytest.raises((SourceError, TrustError)) as caught:
            read_tensors(path)
        assert str(path) in caught.value.message


def test_every_cut_of_safetensors_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    whole = safetensors.torch.save(TENSORS)
    for size in range(0, len(whole), 9):
        path.write_bytes(whole[:size])
        assert str(path) in fault(path).message


def test_garbage_and_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    for content in (b"garbage", b"\x80\x02garbage", b"PK\x03\x04garbage", b"\x00" * 100, b"<html>not found</html>"):
        (tmp_path / "c.pth").write_bytes(content)
        fault(tmp_path / "c.pth")
    (tmp_path / "c.h5").write_bytes(b"")
    assert fault(tmp_path / "c.h5").hint == "known: .safetensors, .pt, .pth, .th"


def test_a_missing_file_comes_with_the_nearest(tmp_path: Path) -> None:
    save(tmp_path / "resnet.pth", TENSORS)
    assert fault(tmp_path / "renset.pth").hint == "did you mean `resnet.pth`?"
    assert fault(tmp_path / "absent" / "resnet.pth").hint == ""


def test_state_dicts_are_found_with_what_their_names_begin_with(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in TENSORS.items()}
    assert find_state_dicts(save(tmp_path / "plain.pt", TENSORS)) == {None: ""}
    assert find_state_dicts(save(tmp_path / "wrapped.pt", wrapped)) == {None: "module."}
    content = {"epoch": 3, "model": TENSORS, "ema": wrapped, "optimizer": {"state": {}}, "empty": {}}
    assert find_state_dicts(save(tmp_path / "many.pt", content)) == {"model": "", "ema": "module."}


def test_a_checkpoint_without_a_state_dict_is_refused_where_it_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a state dict: `epoch` is a int"):
        find_state_dicts(save(tmp_path / "none.pt", {"epoch": 3}))
    with pytest.raises(TrustError):
        find_state_dicts(save(tmp_path / "evil.pt", {"model": Evil(tmp_path / "canary")}))
    assert not (tmp_path / "canary").exists()
