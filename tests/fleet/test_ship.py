"""Shipping to real homes behind a real sshd: what a device must be, and how far a bad release spreads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeopt.cli import cli
from edgeopt.device.busy import hold_board
from edgeopt.device.home import Device, Home, make_home
from edgeopt.device.status import PROTOCOL, Health
from edgeopt.errors import DeviceError, EdgeoptError, TrustError, UsageError
from edgeopt.fleet.bootstrap import bootstrap, pin_wheels
from edgeopt.fleet.inventory import Batches, FleetDevice, Inventory
from edgeopt.fleet.reach import check_protocol, find_unfit
from edgeopt.fleet.ship import ship_to_device, ship_to_fleet
from edgeopt.transports.ssh import Ssh
from tests.device.conftest import Releases, digest_of
from tests.sshd import EDGEOPT, Server

MakeFleet = Callable[..., Inventory]


@pytest.fixture
def fleet(server: Server, tmp_path: Path, root: bytes) -> MakeFleet:
    """Makes homes, and the inventory that pins them; `canary` names one that is."""

    def make(*names: str, canary: str = "", **described: object) -> Inventory:
        pins = server.pins
        devices = {
            name: FleetDevice(
                url=server.address(tmp_path / name), host_key=pins.host_key, identity=pins.identity,
                edgeopt=pins.edgeopt, canary=name == canary, device_key=make_home(tmp_path / name, root, Device()),
            )
            for name in names
        }  # fmt: skip
        return Inventory(edgeopt_fleet=1, devices=devices, **described)

    return make


def current(home: Path) -> str | None:
    return Home(home).state().current


def spoil(home: Path) -> None:
    """Leave a device that refuses whatever comes."""
    (home / "state.json").write_text("spoiled")


def refused(act: Callable[[], object]) -> EdgeoptError:
    with pytest.raises(EdgeoptError) as caught:
        act()
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_bundle_is_brought_installed_tried_and_used(fleet: MakeFleet, bundle: Path, tmp_path: Path) -> None:
    device, told = fleet("one").devices["one"], list[int]()
    shipment = ship_to_device(bundle, "one", device, progress=lambda done, size: told.append(done))
    assert (shipment.device, shipment.outcome) == ("one", "active")
    assert shipment.smoke is not None
    assert shipment.smoke.samples == 2
    assert current(tmp_path / "one") == digest_of(bundle)
    assert list((tmp_path / "one" / "incoming").iterdir()) == []
    assert told[-1] == bundle.stat().st_size


def test_what_is_in_use_is_not_brought_again(fleet: MakeFleet, bundle: Path) -> None:
    device, told = fleet("one").devices["one"], list[int]()
    ship_to_device(bundle, "one", device)
    again = ship_to_device(bundle, "one", device, progress=lambda done, size: told.append(done))
    assert (again.outcome, again.note, told) == ("active", "in use already", [])


def test_a_release_waits_where_it_is_not_to_be_used_yet(fleet: MakeFleet, bundle: Path, tmp_path: Path) -> None:
    device = fleet("one").devices["one"]
    assert ship_to_device(bundle, "one", device, activate=False).outcome == "installed"
    assert current(tmp_path / "one") is None
    assert ship_to_device(bundle, "one", device).outcome == "active"


def test_a_release_that_fails_its_smoke_test_is_not_used(
    fleet: MakeFleet, bundle: Path, releases: Releases, tmp_path: Path
) -> None:
    device = fleet("one").devices["one"]
    ship_to_device(bundle, "one", device)
    error = refused(lambda: ship_to_device(releases.make(2, "other"), "one", device))
    assert isinstance(error, DeviceError)
    assert "the smoke test failed" in error.message
    assert current(tmp_path / "one") == digest_of(bundle)


def test_another_device_than_is_pinned_gets_nothing(fleet: MakeFleet, bundle: Path, tmp_path: Path) -> None:
    device = fleet("one").devices["one"].model_copy(update={"device_key": "ab" * 32})
    error = refused(lambda: ship_to_device(bundle, "one", device))
    assert isinstance(error, TrustError)
    assert "abababababab… is pinned" in error.message
    assert not Home(tmp_path / "one").state().releases


def test_another_board_than_the_inventory_says_gets_nothing(fleet: MakeFleet, bundle: Path) -> None:
    device = fleet("one").devices["one"].model_copy(update={"board": "rpi5"})
    assert "`rpi5` in the inventory" in refused(lambda: ship_to_device(bundle, "one", device)).message


def test_a_device_that_speaks_another_protocol_is_told_which_side_to_update(
    fleet: MakeFleet, bundle: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\n{EDGEOPT} "$@" | sed \'s/"protocol": {PROTOCOL}/"protocol": {PROTOCOL + 1}/\'\n')
    program.chmod(0o755)
    device = fleet("one").devices["one"].model_copy(update={"edgeopt": str(program)})
    error = refused(lambda: ship_to_device(bundle, "one", device))
    assert isinstance(error, DeviceError)
    assert (error.message, error.hint) == (
        f"`one` speaks protocol {PROTOCOL + 1}, and this host {PROTOCOL}", "update edgeopt on this host"
    )  # fmt: skip
    assert refused(lambda: check_protocol("one", PROTOCOL - 1)).hint == "update edgeopt on `one`"


def test_an_unsigned_bundle_bothers_no_device(releases: Releases, bundle: Path) -> None:
    unsigned = next(path for path in bundle.parent.glob("*.edgeopt") if path != bundle)
    nowhere = FleetDevice(url="ssh://127.0.0.1:1/app")
    assert "is not signed" in refused(lambda: ship_to_device(unsigned, "one", nowhere)).message
    inventory = Inventory(edgeopt_fleet=1, devices={"one": nowhere})
    assert "is not signed" in refused(lambda: ship_to_fleet(unsigned, inventory)).message


def test_a_fleet_is_shipped_to_with_its_canary_first(fleet: MakeFleet, bundle: Path) -> None:
    told = list[str]()
    inventory = fleet("one", "two", "three", canary="three", batches=Batches(size=2))
    report = ship_to_fleet(bundle, inventory, activate=False, tell=lambda shipment: told.append(shipment.device))
    assert told == [shipment.device for shipment in report.shipments] == ["three", "one", "two"]
    assert (report.count("installed"), report.exit_code) == (3, 0)


def test_a_canary_that_fails_spares_the_rest(fleet: MakeFleet, bundle: Path, tmp_path: Path) -> None:
    inventory = fleet("one", "two", canary="two", batches=Batches(max_failures=5))
    spoil(tmp_path / "two")
    report = ship_to_fleet(bundle, inventory, activate=False)
    assert [(one.device, one.outcome) for one in report.shipments] == [("two", "failed"), ("one", "skipped")]
    assert report.exit_code == 4
    assert not Home(tmp_path / "one").state().releases


@pytest.mark.parametrize(
    ("allowed", "outcomes"),
    [(0, ["installed", "failed", "skipped"]), (1, ["installed", "failed", "installed"])],
)
def test_a_fleet_stops_after_as_many_failures_as_it_may_have(
    allowed: int, outcomes: list[str], fleet: MakeFleet, bundle: Path, tmp_path: Path
) -> None:
    inventory = fleet("one", "two", "three", batches=Batches(size=1, max_failures=allowed))
    spoil(tmp_path / "two")
    report = ship_to_fleet(bundle, inventory, activate=False)
    assert [one.outcome for one in report.shipments] == outcomes
    assert report.exit_code == 4


def write_inventory(path: Path, inventory: Inventory) -> Path:
    path.write_text(json.dumps(inventory.model_dump(mode="json", exclude_none=True)))
    return path


def test_the_command_ships_to_a_fleet(fleet: MakeFleet, bundle: Path, tmp_path: Path) -> None:
    file = write_inventory(tmp_path / "fleet.yaml", fleet("one", "two", "three"))
    spoil(tmp_path / "two")
    rules = ["--batch", "1", "--max-failures", "1"]
    done = CliRunner().invoke(cli, ["ship", str(bundle), str(file), "--no-activate", *rules])
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["one", "installed"], ["two", "failed"], ["three", "installed"]]
    assert lines[-1] == "3 devices: 2 installed, 1 failed"
    assert done.exit_code == 4
    done = CliRunner().invoke(cli, ["ship", str(bundle), f"{file}#one", "--json"])
    assert (json.loads(done.stdout)["outcome"], done.exit_code) == ("active", 0)


def test_the_command_takes_a_folder_and_refuses_a_key_that_is_none(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    done = CliRunner().invoke(cli, ["ship", str(bundle), f"folder://{tmp_path / 'stick'}"])
    assert Path(done.stdout.strip()).read_bytes() == bundle.read_bytes()
    done = CliRunner().invoke(cli, ["ship", str(bundle), "ssh://board/app", "--device-key", "x"])
    assert isinstance(done.exception, UsageError)


def test_a_board_is_held_by_one_job_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = "from edgeopt.device.busy import hold_board\nwith hold_board(): print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(DeviceError, match="another job is measuring"), hold_board(0.3):
        pass
    other.kill()
    other.communicate()
    with hold_board(0.3):
        pass


def test_a_board_that_is_not_at_rest_is_not_measured_on() -> None:
    calm = Health(power_mode="performance", temperature_c=50, load=0.1, free_mb=5000)
    assert not list(find_unfit(calm))
    for fault, told in (
        ({"temperature_c": 95.0}, "at 95 °C"), ({"load": 0.9}, "load 0.9 per core"),
        ({"power_mode": "powersave, nvpmodel 1"}, "powersave"), ({"free_mb": 3}, "3 MB are free"),
    ):  # fmt: skip
        (said,) = find_unfit(calm.model_copy(update=fault))
        assert told in said


def test_wheels_are_pinned_by_their_digests(tmp_path: Path) -> None:
    for name in ("edgeopt-0.1.0-py3-none-any.whl", "numpy-2.0-cp310.whl", "numpy-2.0-cp311.whl"):
        (tmp_path / name).write_text(name)
    pins = pin_wheels(tmp_path).splitlines()
    assert [(line.split()[0], line.count("--hash=sha256:")) for line in pins] == [
        ("edgeopt==0.1.0", 1),
        ("numpy==2.0", 2),
    ]
    (tmp_path / "edgeopt-0.1.0-py3-none-any.whl").unlink()
    with pytest.raises(UsageError, match="no wheel of edgeopt"):
        pin_wheels(tmp_path)


def test_a_device_that_has_no_python_for_it_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "edgeopt-0.1.0-py3-none-any.whl").write_text("")
    with Ssh(server.address(tmp_path / "bare"), server.pins) as device:
        error = refused(lambda: bootstrap(device, "bare", tmp_path, python="/nowhere/python3"))
    assert "`/nowhere/python3` on `bare` cannot make an environment" in error.message


@pytest.mark.slow
def test_a_bare_device_gets_edgeopt_and_a_home_and_runs_a_bundle(
    server: Server, tmp_path: Path, root: bytes, bundle: Path
) -> None:
    wheels, bare = tmp_path / "wheels", tmp_path / "bare"
    bare.mkdir()
    project = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "-w", wheels, f"{project}[cpu]"]
    if subprocess.run(command, check=False, timeout=280).returncode:
        pytest.skip("pip cannot gather wheels here")
    (tmp_path / "root.json").write_bytes(root)
    # a login folder of its own: what is installed goes there
    entry = f'environment="HOME={bare}",command="cd {bare}; eval \\"$SSH_ORIGINAL_COMMAND\\"" '
    public = server.folder / "identity.pub"
    whole = public.read_text()
    public.write_text(entry + whole)
    try:
        device = FleetDevice(
            url=f"ssh://127.0.0.1:{server.port}/digits", host_key=server.host_key, identity=server.identity
        )  # fmt: skip
        with Ssh(device.url, device.pins()) as transport:
            key = bootstrap(transport, "bare", wheels, root=tmp_path / "root.json", python=sys.executable)
            assert bootstrap(transport, "bare", wheels, python=sys.executable) == key
        pinned = device.model_copy(update={"device_key": key})
        assert ship_to_device(bundle, "bare", pinned).outcome == "active"
    finally:
        public.write_text(whole)
    assert (bare / ".edgeopt/bin/edgeopt").exists()
    assert current(bare / "digits") == digest_of(bundle)
