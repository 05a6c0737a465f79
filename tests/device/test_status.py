"""A device tells what runs, what is installed and how the board is, as values that another program can read."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable

import pytest

from edgeopt.device.home import Home, device_key
from edgeopt.device.install import install
from edgeopt.device.status import PROTOCOL, Status, read_health, read_status
from edgeopt.errors import TrustError
from tests.device.conftest import Releases


def test_a_fresh_device_tells_who_it_is(make: Callable[..., Home]) -> None:
    home = make(board="rpi5", channel="beta")
    found = read_status(home)
    assert (found.board, found.channel, found.app, found.root_version) == ("rpi5", "beta", None, 1)
    assert found.key == device_key(home.folder)
    assert found.protocol == PROTOCOL == 1
    assert found.environment["cpu"]
    assert platform.python_version() in json.dumps(found.environment)


def test_the_application_is_told_once_a_release_has_named_it(home: Home, releases: Releases) -> None:
    digest = install(home, releases.make(3)).digest
    found = read_status(home)
    assert (found.app, found.state.counter) == ("digits", 3)
    assert found.state.releases[digest].channel == "stable"


def test_it_reads_back_from_json(home: Home, releases: Releases) -> None:
    install(home, releases.make(3))
    found = read_status(home)
    assert Status.model_validate_json(json.dumps(found.model_dump(mode="json"))) == found


def test_health_is_measured_where_the_device_lies(home: Home) -> None:
    found = read_health(home.folder)
    assert found.free_mb > 0
    assert found.load >= 0
    assert found.temperature_c is None or -60 < found.temperature_c < 150


def test_a_device_with_a_damaged_root_says_so(home: Home) -> None:
    (home.folder / "root.json").write_bytes(b"{}")
    with pytest.raises(TrustError, match="damaged"):
        read_status(home)
