"""What a CPU does with 8 bits, which GPUs there are, and in which power mode a Jetson is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeopt import environment
from edgeopt.examining import hardware
from edgeopt.examining.hardware import describe_isa, describe_power, jetson_mode, list_gpus

CONF = """
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE_30W >
CPU_ONLINE CORE_0 1
"""


def test_every_instruction_set_that_is_looked_for_is_explained() -> None:
    assert {*hardware.X86, *hardware.ARM} == set(environment.INTERESTING_ISA)


@pytest.mark.parametrize(
    ("isa", "here", "missing"),
    [
        (["avx2"], {"avx2"}, {"avx512f", "avx_vnni", "avx512_vnni", "amx_int8"}),
        (["avx2", "avx512f", "avx512_vnni"], {"avx2", "avx512f", "avx512_vnni"}, {"avx_vnni", "amx_int8"}),
        (["asimd", "asimddp"], {"asimd", "asimddp"}, {"i8mm", "sve"}),
        ([], set(), {"avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"}),
    ],
)
def test_what_a_cpu_lacks_of_its_kind_is_told_too(isa: list[str], here: set[str], missing: set[str]) -> None:
    told = describe_isa(isa)
    assert {one["name"] for one in told if one["here"]} == here
    assert {one["name"] for one in told if not one["here"]} == missing
    assert all(one["does"] for one in told)


def test_the_cpu_of_this_machine_is_the_one_that_is_described_unless_another_is_given() -> None:
    assert [one["name"] for one in describe_isa() if one["here"]] == [
        name for name in [*hardware.X86, *hardware.ARM] if name in environment.cpu()[1]
    ]


def test_a_gpu_that_nvml_does_not_tell_of_is_shown_as_the_cuda_runtime_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [{"name": "Orin", "compute_capability": "8.7"}]
    monkeypatch.setattr(environment, "gpus", lambda: ())
    assert list_gpus(seen) == [{"name": "Orin", "compute_capability": "8.7", "driver": "unknown", "power": "unknown"}]
    told = {"name": "H100", "driver": "580.65", "compute_capability": "9.0", "power": "700 W"}
    monkeypatch.setattr(environment, "gpus", lambda: (told,))
    assert list_gpus(seen) == [told]


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the path of commands, beside what `nvpmodel` keeps, in which mode 2 is set."""
    (tmp_path / "status").write_text("pmode:0002", encoding="utf8")
    (tmp_path / "nvpmodel.conf").write_text(CONF, encoding="utf8")
    monkeypatch.setattr(hardware, "STATUS", tmp_path / "status")
    monkeypatch.setattr(hardware, "MODES", tmp_path / "nvpmodel.conf")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]))
    return tmp_path


def put_command(folder: Path, script: str) -> None:
    command = folder / "bin/nvpmodel"
    command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf8")
    command.chmod(0o755)


def test_the_power_mode_is_what_nvpmodel_answers(jetson: Path) -> None:
    put_command(jetson, '[ "$1" = -q ] && printf "NV Fan Mode:quiet\\nNV Power Mode: MODE_15W\\n0\\n"')
    assert jetson_mode() == "MODE_15W"
    assert describe_power()["nvpmodel"] == "MODE_15W"


@pytest.mark.parametrize("script", ["echo only for root >&2; exit 1", "exec sleep 30"])
def test_where_nvpmodel_does_not_answer_its_files_do(
    script: str, jetson: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "NVPMODEL_SECONDS", 0.2)
    put_command(jetson, script)
    assert jetson_mode() == "MODE_30W"


def test_a_mode_without_a_name_is_told_by_its_number(jetson: Path) -> None:
    (jetson / "nvpmodel.conf").unlink()
    assert jetson_mode() == "mode 2"


def test_another_machine_has_no_such_mode(jetson: Path) -> None:
    (jetson / "status").unlink()
    assert jetson_mode() == ""
    assert describe_power()["governor"] == environment.power_mode()
