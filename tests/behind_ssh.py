"""Fixtures: a device behind a real SSH server, and signed bundles to bring there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt.transports import line
from tests.device.conftest import Releases, holders, releases, root
from tests.sshd import server

__all__ = ["bundle", "holders", "impatience", "place", "releases", "root", "server"]


@pytest.fixture
def place(tmp_path: Path, root: bytes) -> Path:
    """The home of a device."""
    from edgeopt.device.home import Device, make_home

    make_home(tmp_path / "home", root, Device())
    return tmp_path / "home"


@pytest.fixture
def bundle(releases: Releases) -> Path:
    return releases.make()


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a network to come back."""
    monkeypatch.setattr(line, "LONGEST_WAIT_SECONDS", 0.05)
