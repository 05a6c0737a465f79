"""Bundles on disks that people carry: whole or not there, gone on with, and never beside the disk."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt import files
from edgeopt.bundle.verify import verify_bundle
from edgeopt.errors import DeviceError, DiskError, TrustError, UsageError
from edgeopt.transports import folder as folder_module
from edgeopt.transports import open_transport


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    (tmp_path / "stick").mkdir()
    return tmp_path / "stick"


def send(bundle: Path, stick: Path) -> Path:
    with open_transport(f"folder://{stick}") as transport:
        return Path(transport.send(bundle))


def test_a_bundle_is_named_after_what_it_is(bundle: Path, stick: Path) -> None:
    path = send(bundle, stick)
    assert path.name == f"digits-1-{verify_bundle(bundle).manifest.digest()[:12]}.edgeopt"
    assert path.read_bytes() == bundle.read_bytes()
    assert list(stick.iterdir()) == [path]


def test_a_bundle_that_is_there_is_left_alone(bundle: Path, stick: Path) -> None:
    before = send(bundle, stick).stat()
    after = send(bundle, stick).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_bundle_that_was_damaged_there_is_replaced(bundle: Path, stick: Path) -> None:
    path = send(bundle, stick)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert send(bundle, stick).read_bytes() == bundle.read_bytes()


@pytest.mark.parametrize("fault", ["cut", "changed", "longer"])
def test_what_was_cut_off_is_gone_on_with_where_it_is_the_same(fault: str, bundle: Path, stick: Path) -> None:
    content, told = bundle.read_bytes(), list[int]()
    part = stick / f"{send(bundle, stick).name}.part"
    (stick / part.name.removesuffix(".part")).unlink()
    half = content[: len(content) // 2]
    part.write_bytes({"cut": half, "changed": half[:-1] + b"\0\0", "longer": content + b"more"}[fault])
    with open_transport(f"folder://{stick}") as transport:
        path = Path(transport.send(bundle, lambda done, size: told.append(done)))
    assert path.read_bytes() == content
    assert not part.exists()
    assert told in ([len(content)], [])


def test_a_kill_at_any_point_leaves_no_torn_bundle(bundle: Path, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = 0
    for allowed in range(20):
        left = iter(range(allowed))

        def kill(operation: str, path: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(files, "observe", kill)
            with contextlib.suppress(KeyboardInterrupt):
                send(bundle, stick)
                break
        points += 1
        assert all(path.suffix == ".part" for path in stick.iterdir())
    assert points >= 2
    assert send(bundle, stick).read_bytes() == bundle.read_bytes()


def test_a_disk_that_is_not_there_is_refused_and_its_folder_not_made(bundle: Path, stick: Path) -> None:
    with pytest.raises(DeviceError, match="is not there"):
        send(bundle, stick / "none")
    assert list(stick.iterdir()) == []


def test_a_mount_point_with_nothing_mounted_is_refused(
    bundle: Path, stick: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "fstab"
    table.write_text(f"# disks\nLABEL=ship {stick} vfat noauto 0 0\n\n")
    monkeypatch.setattr(folder_module, "MOUNT_TABLE", table)
    with pytest.raises(DeviceError, match="nothing is mounted"):
        send(bundle, stick)
    assert list(stick.iterdir()) == []


def test_what_no_device_would_take_is_not_sent(bundle: Path, stick: Path) -> None:
    content = bundle.read_bytes()
    bundle.write_bytes(content[:-200])
    with pytest.raises(TrustError):
        send(bundle, stick)
    unsigned = next(path for path in bundle.parent.glob("*.edgeopt") if path != bundle)
    with pytest.raises(TrustError, match="is not signed"):
        send(unsigned, stick)
    with pytest.raises(UsageError):
        send(stick / "none.edgeopt", stick)
    assert list(stick.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(bundle: Path, stick: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", stick]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        (stick / "other").write_bytes(b"x" * 4096)
        with pytest.raises(DiskError, match="no space left on the disk of"):
            send(bundle, stick)
        assert sum(path.stat().st_size for path in stick.glob("*.part")) == 0
    finally:
        subprocess.run(["umount", "-l", stick], check=True)


@pytest.mark.parametrize("address", ["folder://stick", "folder:stick", "folder:///mnt?x=1"])
def test_what_is_no_folder_of_this_machine_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        open_transport(address)


def test_a_file_is_no_folder(bundle: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        send(bundle, bundle)
