"""Folders as the kernel lays them out below `/sys/class`, for tests of what reads them."""

from __future__ import annotations

import os
from pathlib import Path

#: of a desktop processor: 2^32 units of 61 µJ
RANGE_UJ = 262_143_328_850


def write_zone(root: Path, zone: str, name: str, energy_uj: int | str = 0, range_uj: int = RANGE_UJ) -> Path:
    """One powercap zone: a folder below the device, and a link to it in the class."""
    folder = root.parent / "devices" / zone
    folder.mkdir(parents=True)
    for file, content in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj), ("enabled", 1)):
        (folder / file).write_text(f"{content}\n")
    root.mkdir(exist_ok=True)
    (root / zone).symlink_to(folder)
    return folder


def write_server(root: Path, first_uj: int = 1_000_000, second_uj: int = 2_000_000) -> tuple[Path, Path]:
    """Two packages with their parts, the whole platform, and a package shown once more by another driver."""
    packages = (
        write_zone(root, "intel-rapl:0", "package-0", first_uj),
        write_zone(root, "intel-rapl:1", "package-1", second_uj),
    )
    write_zone(root, "intel-rapl:0:0", "core", 500_000)
    write_zone(root, "intel-rapl:0:1", "dram", 700_000)
    write_zone(root, "intel-rapl:2", "psys", 9_000_000)
    write_zone(root, "intel-rapl-mmio:0", "package-0", first_uj)
    (root / "intel-rapl").mkdir()
    return packages


def set_number(path: Path, number: int) -> None:
    """Change a file as the kernel does: whoever reads sees the old number or the new one."""
    temporary = path.with_suffix(".new")
    temporary.write_text(f"{number}\n")
    os.replace(temporary, path)


def write_monitor(root: Path, number: int, chip: str, **files: int | str) -> Path:
    """One hwmon device; `files` are names without `_input`: `in1=5000`, but `in1_label="VDD_IN"`."""
    folder = root / f"hwmon{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{chip}\n")
    for file, content in files.items():
        (folder / (file if "_" in file else f"{file}_input")).write_text(f"{content}\n")
    return folder


def write_orin_nano(root: Path) -> Path:
    """The monitor of a Jetson Orin Nano beside a sensor of heat: 5 V × 1.2 A into the module, of which 2 W go on."""
    write_monitor(root, 0, "tmp451", temp1=41_000)
    return write_monitor(
        root, 1, "ina3221",
        in1_label="VDD_IN", in1=5000, curr1=1200,
        in2_label="VDD_CPU_GPU_CV", in2=5000, curr2=300,
        in3_label="VDD_SOC", in3=5000, curr3=100,
        in4=6, in7_label="sum of shunt voltages", in7=8, curr4=1600,
    )  # fmt: skip
