from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test files here and beside import `trees` by name.
sys.path.insert(0, str(Path(__file__).parent))

NOBODY = 65534


@pytest.fixture
def for_root_alone() -> Iterator[Path]:
    """A counter's file that this process may not read: it is not root while this lasts.

    It lies outside of the usual folder of tests, which nobody else may enter.
    """
    with tempfile.TemporaryDirectory() as name:
        zone = Path(name) / "powercap" / "intel-rapl:0"
        zone.mkdir(parents=True)
        for file, content in (("name", "package-0"), ("energy_uj", "17"), ("max_energy_range_uj", "262143328850")):
            (zone / file).write_text(f"{content}\n")
        for folder in (Path(name), zone.parent, zone):
            folder.chmod(0o755)
        path = zone / "energy_uj"
        path.chmod(0 if os.geteuid() else 0o400)
        before = os.geteuid()
        if before == 0:
            os.seteuid(NOBODY)
        try:
            yield path
        finally:
            if before == 0:
                os.seteuid(before)
