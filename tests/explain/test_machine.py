"""Cores: what affinity and the quotas of control groups leave of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt.explain import machine
from edgeopt.explain.machine import Machine, this_machine


def set_groups(patch: pytest.MonkeyPatch, folder: Path, own: str, files: dict[str, str]) -> None:
    (folder / "cgroup").write_text(own)
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    patch.setattr(machine, "OWN_GROUPS", folder / "cgroup")
    patch.setattr(machine, "CONTROL_GROUPS", folder / "groups")
    patch.setattr("edgeopt.environment.cpu_cores", lambda: 8)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "350000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a\n", {"a/cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/gone\n", {}, 8),
        ("3:cpu,cpuacct:/a\n1:memory:/a\n", {"cpu/a/cpu.cfs_quota_us": "400000\n"}, 8),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "400000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 4),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_quota_limits_the_cores(
    own: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_groups(monkeypatch, tmp_path, own, files)
    assert this_machine().cores == cores


def test_affinity_limits_the_cores(one_core: None) -> None:
    assert this_machine().cores == 1


def test_vectors_and_integer_products_follow_the_instruction_set() -> None:
    assert Machine("x86_64", ("avx2",), 1).vector_channels == 8
    assert Machine("x86_64", ("avx2", "avx512f"), 1).vector_channels == 16
    assert not Machine("x86_64", ("avx2", "avx512f"), 1).sums_exactly
    assert Machine("AMD64", ("avx_vnni",), 1).is_x86
    assert Machine("aarch64", ("asimddp",), 1).sums_exactly
    assert not Machine("aarch64", ("asimddp",), 1).is_x86
