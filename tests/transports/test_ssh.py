"""A real sshd, and the edgeopt of this environment behind it: what arrives, what is refused, and what a cut costs."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeopt.errors import DeviceError, DiskError, EdgeoptError, MissingError, TrustError, UsageError
from edgeopt.transports import DeviceTransport, device_transport
from edgeopt.transports.host import Place, parse_place
from tests.sshd import EDGEOPT, CuttingProxy, Server, make_ssh_key, start_server

Open = Callable[..., DeviceTransport]


@pytest.fixture
def reach(server: Server, place: Path) -> Open:
    """Opens the way to the device, by another port or with other pins where they are given."""

    def reach(port: int | None = None, **pins: object) -> DeviceTransport:
        return device_transport(server.address(place, port), server.pins.model_copy(update=pins))

    return reach


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who knows no host; returns where their known hosts would stand."""
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    (tmp_path / "nobody" / ".ssh").mkdir(parents=True)
    return tmp_path / "nobody" / ".ssh" / "known_hosts"


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Makes a program that stands where edgeopt should."""

    def make(script: str) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def write_random(path: Path, size_bytes: int) -> Path:
    path.write_bytes(random.Random(size_bytes).randbytes(size_bytes))
    return path


def refused(act: Callable[[], object]) -> EdgeoptError:
    with pytest.raises(EdgeoptError) as caught:
        act()
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_device_answers_what_it_is_asked(reach: Open) -> None:
    with reach() as device:
        assert device.run("status")["app"] is None


def test_a_bundle_goes_there_and_is_installed(reach: Open, place: Path, bundle: Path) -> None:
    with reach() as device:
        path = device.send(bundle)
        assert Path(path).parent == place / "incoming"
        assert Path(path).read_bytes() == bundle.read_bytes()
        assert device.run("install", path)["is_new"]
        device.discard(path)
        device.discard(path)
        assert list((place / "incoming").iterdir()) == []


def test_what_a_device_made_is_fetched(reach: Open, tmp_path: Path) -> None:
    made = write_random(tmp_path / "it's made", 1_000_000)
    with reach() as device:
        device.get(str(made), tmp_path / "fetched")
        assert (tmp_path / "fetched").read_bytes() == made.read_bytes()
        assert "No such file" in refused(lambda: device.get("/nowhere", tmp_path / "other")).message
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_there_is_not_sent_again(reach: Open, tmp_path: Path) -> None:
    file, told = write_random(tmp_path / "file", 300_000), list[int]()
    with reach() as device:
        first = device.put(file, "file")
        assert device.put(file, "file", lambda done, size: told.append(done)) == first
    assert told == []


def test_what_came_before_a_cut_is_not_sent_again(reach: Open, server: Server, tmp_path: Path) -> None:
    file = write_random(tmp_path / "file", 16_000_000)
    proxy = CuttingProxy(server.port, iter([12_000_000]))
    with reach(proxy.port) as device:
        path = device.put(file, "file")
    assert proxy.cuts == 1
    # what was under way is sent again: SSH's window, and what both ends hold in memory
    assert proxy.passed_bytes < 23_000_000
    assert Path(path).read_bytes() == file.read_bytes()


def test_what_lies_there_and_is_something_else_is_sent_anew(reach: Open, place: Path, tmp_path: Path) -> None:
    file = write_random(tmp_path / "file", 300_000)
    with reach() as device:
        part = Path(device.put(file, "file"))
        sha256 = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout[:64]
        part.unlink()
        (place / "incoming" / f"{sha256}.part").write_bytes(b"x" * 200_000)
        assert Path(device.put(file, "file")).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("wanted", [6, pytest.param(15, marks=pytest.mark.slow)])
def test_no_cut_ever_tears_a_file(wanted: int, reach: Open, server: Server, place: Path, tmp_path: Path) -> None:
    """Two hundred of them: `benchmarks/cut_transfers.py`."""
    chance, cuts = random.Random(wanted), 0
    file = write_random(tmp_path / "file", 1_500_000)
    seen, done = set[bytes](), threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            path = place / "incoming" / "file"
            with contextlib.suppress(FileNotFoundError):
                seen.add(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    while cuts < wanted:
        proxy = CuttingProxy(server.port, (chance.randrange(1_200_000) for _ in range(3)))
        with reach(proxy.port) as device:
            path = Path(device.put(file, "file"))
        assert path.read_bytes() == file.read_bytes()
        path.unlink()
        cuts += proxy.cuts
        proxy.close()
    done.set()
    watcher.join()
    assert seen <= {file.read_bytes()}


def test_a_server_that_is_gone_is_told_and_goes_on_once_it_is_back(tmp_path: Path, server: Server, place: Path) -> None:
    own, file, told = start_server(tmp_path / "own"), write_random(tmp_path / "file", 20_000_000), list[int]()

    def kill(done: int, size: int) -> None:
        told.append(done)
        if done > 8_000_000:
            own.stop()

    with device_transport(own.address(place), own.pins) as device:
        assert isinstance(error := refused(lambda: device.put(file, "file", kill)), DeviceError)
    assert "5 times in a row" in error.message
    assert not (place / "incoming" / "file").exists()
    told.clear()
    with device_transport(server.address(place), server.pins) as device:
        path = device.put(file, "file", lambda done, size: told.append(done))
    assert told[0] > 1_000_000
    assert Path(path).read_bytes() == file.read_bytes()


def test_a_key_that_is_not_known_is_shown_and_not_trusted(reach: Open, server: Server, nobody: Path) -> None:
    error = refused(lambda: reach(host_key=None).__enter__())
    assert isinstance(error, DeviceError)
    assert "is not known: SHA256:" in error.message
    assert server.host_key in error.hint
    assert not nobody.exists()


def test_a_known_host_is_trusted_without_a_pin(reach: Open, server: Server, nobody: Path) -> None:
    nobody.write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
    with reach(host_key=None) as device:
        assert device.run("status")


@pytest.mark.parametrize("is_pinned", [True, False])
def test_another_key_than_the_known_one_is_refused(
    is_pinned: bool, reach: Open, server: Server, nobody: Path, tmp_path: Path
) -> None:
    other = make_ssh_key(tmp_path / "other")
    nobody.write_text(f"[127.0.0.1]:{server.port} {server.host_key if is_pinned else other}\n")
    error = refused(lambda: reach(host_key=other if is_pinned else None).__enter__())
    assert isinstance(error, TrustError)
    assert "shows another key than is known" in error.message


def test_a_host_without_a_key_of_the_pinned_kind_is_refused(reach: Open, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "ecdsa"], check=True)
    other = " ".join((tmp_path / "ecdsa.pub").read_text().split()[:2])
    assert isinstance(refused(lambda: reach(host_key=other).__enter__()), TrustError)


def test_who_is_not_let_in_is_told(reach: Open, tmp_path: Path) -> None:
    make_ssh_key(tmp_path / "other")
    error = refused(lambda: reach(identity=tmp_path / "other").__enter__())
    assert isinstance(error, DeviceError)
    assert "does not let" in error.message


def test_a_key_that_is_no_key_is_told(reach: Open, tmp_path: Path) -> None:
    assert isinstance(refused(lambda: reach(identity=tmp_path / "none").__enter__()), UsageError)
    assert isinstance(refused(lambda: reach(host_key="ssh-ed25519 AAAA").__enter__()), UsageError)


def test_a_host_that_is_not_there_is_told(nobody: Path) -> None:
    with pytest.raises(DeviceError, match=r"no connection to `127.0.0.1:1`, 5 times in a row: connection refused"):
        device_transport("ssh://127.0.0.1:1/app").__enter__()
    with pytest.raises(DeviceError, match=r"there is no host `nowhere.invalid`"):
        device_transport("ssh://nowhere.invalid/app").__enter__()


def test_the_library_that_it_needs_is_named(reach: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    error = refused(lambda: reach().__enter__())
    assert isinstance(error, MissingError)
    assert error.hint == "pip install 'edgeopt[ssh]'"


def test_a_device_without_edgeopt_is_told(reach: Open) -> None:
    with reach(edgeopt="/nowhere/edgeopt") as device:
        error = refused(lambda: device.run("status"))
    assert isinstance(error, DeviceError)
    assert "there is no edgeopt on" in error.message
    assert "--bootstrap" in error.hint


def test_the_errors_of_a_device_come_back_as_what_they_were(reach: Open, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"garbage")
    with reach() as device:
        assert isinstance(refused(lambda: device.run("install", str(tmp_path / "garbage"))), TrustError)
        assert isinstance(missing := refused(lambda: device.run("install", str(tmp_path / "none"))), UsageError)
        assert missing.hint == "give a `.edgeopt` file or a bundle's folder"
        assert isinstance(refused(lambda: device.put(tmp_path / "garbage", "a name")), UsageError)


def test_what_is_no_edgeopt_is_told(reach: Open, program: Callable[[str], str], tmp_path: Path) -> None:
    with reach(edgeopt=program("echo Welcome!")) as device:
        assert "something else than JSON: `Welcome!" in refused(lambda: device.run("status")).message
        assert "something else than JSON: `Welcome!" in refused(lambda: device.put(EDGEOPT, "file")).message
    with reach(edgeopt=program("echo broken >&2; exit 70")) as device:
        error = refused(lambda: device.run("status"))
    assert isinstance(error, DeviceError)
    assert "exit code 70" in error.message
    assert error.log == "broken"


def test_a_device_that_hangs_is_not_waited_for(reach: Open, program: Callable[[str], str]) -> None:
    with reach(edgeopt=program("sleep 60")) as device:
        assert "did not answer in 0.5 seconds" in refused(lambda: device.run("status", seconds=0.5)).message


def test_what_must_not_be_done_twice_is_not_begun_again(
    reach: Open, program: Callable[[str], str], tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    with reach(edgeopt=program(f'echo "$2" >> {calls}\nkill -9 $PPID')) as device:
        for name in ("status", "rollback"):
            assert "connection lost" in refused(lambda name=name: device.run(name)).message
    assert sorted(calls.read_text().split()) == ["rollback", *["status"] * 5]


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of a megabyte under the home's `incoming`."""
    folder = place / "incoming"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_what_does_not_fit_is_refused_before_it_is_sent(reach: Open, small_disk: Path, tmp_path: Path) -> None:
    file, told = write_random(tmp_path / "file", 3_000_000), list[int]()
    with reach() as device:
        error = refused(lambda: device.put(file, "file", lambda done, size: told.append(done)))
    assert isinstance(error, DiskError)
    assert "3.0 MB more are needed" in error.message
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_told(reach: Open, small_disk: Path, tmp_path: Path) -> None:
    file = write_random(tmp_path / "file", 900_000)

    def fill(done: int, size: int) -> None:
        if not (small_disk / "other").exists():
            write_random(small_disk / "other", 500_000)

    with reach() as device:
        assert isinstance(refused(lambda: device.put(file, "file", fill)), DiskError)
        assert not (small_disk / "file").exists()
        (small_disk / "other").unlink()
        assert Path(device.put(file, "file")).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("ssh://me@board/app", Place("board", None, "me", "app")),
        ("ssh://board:2222/apps/digits", Place("board", 2222, None, "apps/digits")),
        ("ssh://board//var/app", Place("board", None, None, "/var/app")),
        ("ssh://[::1]/my%20app", Place("::1", None, None, "my app")),
    ],
)
def test_an_address_names_a_home(address: str, place: Place) -> None:
    assert parse_place(address) == place


@pytest.mark.parametrize(
    "address",
    ["ssh://board", "ssh://board/", "ssh:///app", "ssh://me:secret@board/app", "ssh://board:x/app", "ssh://-o/app",
     "ssh://board/app?x", "ssh://board/app#x", "ssh://[::1/app"],
)  # fmt: skip
def test_what_names_no_home_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        parse_place(address)


def test_a_home_of_any_name_is_no_command(server: Server, tmp_path: Path, root: bytes) -> None:
    from edgeopt.device.home import Device, make_home

    odd = tmp_path / "it's; touch $HOME `x`"
    make_home(odd, root, Device())
    address = f"ssh://127.0.0.1:{server.port}/{str(odd).replace('%', '%25').replace(' ', '%20')}"
    with device_transport(address, server.pins) as device:
        path = device.put(EDGEOPT, "file")
        assert Path(path).parent == odd / "incoming"
        device.discard(path)
    assert not Path(path).exists()
