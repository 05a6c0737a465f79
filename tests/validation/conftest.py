"""Registers the scripted backend the way a third party does: by an entry point of an installed distribution."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt import registry

# Test files import `scripted_backend` by name, as the workers that they start do.
sys.path.insert(0, str(Path(__file__).parent))

ENTRY_POINTS = """[edgeopt.backends]
scripted = scripted_backend:Scripted
scripted_simulation = scripted_backend:ScriptedSimulation
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    metadata = folder / "scripted-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture
def scripted(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes `scripted` known as a backend, here and in workers."""
    monkeypatch.syspath_prepend(str(site))
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    for value in vars(registry).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
