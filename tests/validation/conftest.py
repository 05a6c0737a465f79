"""Registers the scripted backend the way a third party does: by an entry point of an installed distribution."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt import registry

ENTRY_POINTS = """[edgeopt.backends]
scripted = scripted_backend:Scripted
scripted_simulation = scripted_backend:ScriptedSimulation
"""


@pytest.fixture(autouse=True)
def scripted_backends(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    site = tmp_path_factory.mktemp("site")
    metadata = site / "scripted-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    for path in (site, Path(__file__).parent):
        monkeypatch.syspath_prepend(str(path))
    _forget()
    yield
    _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    for cached in (registry._foreign, registry.names):
        cached.cache_clear()
