"""An inventory is read as strictly as a recipe: all faults together, each with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.errors import RecipeError, UsageError
from edgeopt.fleet.inventory import find_device, load_inventory

KEY = "0123456789abcdef" * 4
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAldqf"

SOUND = f"""\
edgeopt_fleet: 1
devices:
  orin-7:
    url: ssh://ship@10.0.0.17/digits
    host_key: {HOST_KEY}
    device_key: {KEY}
    identity: keys/ship
    edgeopt: /opt/edgeopt/bin/edgeopt
    board: orin-nano
    canary: true
  pi:
    url: ssh://10.0.0.18//var/digits
batches: {{size: 2, max_failures: 1}}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "fleet.yaml").write_text(text)
        return tmp_path / "fleet.yaml"

    return write


def test_an_inventory_names_devices_and_pins_their_keys(write: Callable[[str], Path], tmp_path: Path) -> None:
    inventory = load_inventory(write(SOUND))
    pins = inventory.find("orin-7").pins()
    assert (pins.host_key, pins.device_key, pins.identity) == (HOST_KEY, KEY, tmp_path / "keys/ship")
    assert pins.edgeopt == "/opt/edgeopt/bin/edgeopt"
    assert inventory.find("orin-7").canary
    assert not inventory.find("pi").canary
    assert (inventory.batches.size, inventory.batches.max_failures) == (2, 1)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("edgeopt_fleet: 1", "edgeopt_fleet: 2", "1:16: `edgeopt_fleet` should be 1, found `2`"),
        ("edgeopt_fleet: 1\n", "", "1:1: missing key `edgeopt_fleet`"),
        ("    board:", "    bord:", "9:5: unknown key `bord`; did you mean `board`?"),
        ("    canary: true", "    canary: maybe", "10:13: `canary` should be a valid boolean"),
        (f"device_key: {KEY}", "device_key: abc", "6:17: `device_key` should match pattern"),
        (HOST_KEY, "SHA256:abc", "5:15: `host_key` should match pattern"),
        ("ssh://ship@10.0.0.17/digits", "ssh://10.0.0.17", "4:10: `ssh://10.0.0.17` is no home of a device"),
        ("ssh://ship@10.0.0.17/digits", "folder:///mnt", "4:10: `folder:///mnt` is no home of a device"),
        ("ssh://10.0.0.18//var/digits", "ssh://ship@10.0.0.17/digits", "12:10: `orin-7` is at `ssh://ship@"),
        ("  pi:", "  a pi:", "11:3: `a pi` is no name"),
        ("  pi:", "  orin-7:", "11:3: duplicate key `orin-7`"),
        ("size: 2", "size: 0", "13:17: `size` should be greater than or equal to 1"),
    ],
)
def test_a_fault_is_told_at_its_place(before: str, after: str, told: str, write: Callable[[str], Path]) -> None:
    assert before in SOUND
    path = write(SOUND.replace(before, after))
    with pytest.raises(RecipeError) as caught:
        load_inventory(path)
    assert [line for line in caught.value.message.splitlines() if line.startswith(f"{path}:{told}")]


def test_all_faults_are_told_together(write: Callable[[str], Path]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_inventory(write(SOUND.replace("size: 2", "size: no").replace("board:", "bord:").replace(KEY, "1")))
    assert len(caught.value.message.splitlines()) == 3


@pytest.mark.parametrize("text", ["", "[]", "edgeopt_fleet: 1\ndevices: {}", "{", "a: &b 1\nc: *b", "\xff"])
def test_what_is_no_inventory_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_bytes(text.encode("latin1"))
    with pytest.raises(RecipeError, match=r"fleet\.yaml:[12]:[0-9]+: "):
        load_inventory(tmp_path / "fleet.yaml")


def test_an_inventory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the inventory"):
        load_inventory(tmp_path)


def test_a_name_is_looked_up(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(SOUND)
    assert find_device("ssh://pi", path)[1].url == "ssh://10.0.0.18//var/digits"
    monkeypatch.chdir(tmp_path)
    name, device = find_device("ssh://orin-7")
    assert (name, device.board) == ("orin-7", "orin-nano")
    with pytest.raises(UsageError, match="no device `orin7`") as caught:
        find_device("ssh://orin7")
    assert caught.value.hint == "did you mean `orin-7`?"


def test_an_address_stands_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, device = find_device("ssh://me@board/app")
    assert (name, device.url, device.pins().host_key) == ("board", "ssh://me@board/app", None)
    with pytest.raises(UsageError, match="only the name of a device"):
        find_device("ssh://board")
