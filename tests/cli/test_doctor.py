"""`doctor`: what the extra for compiling brings is read from what edgeopt declares."""

from __future__ import annotations

import importlib.metadata

import pytest

from edgeopt.cli import doctor
from tests.cli.test_cli import Run, raising, run

__all__ = ["run"]


def test_doctor_names_what_the_compile_extra_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "click>=8.1",
        "rich>=13; extra == 'compile'",
        'torch-pruning>=1.6; extra == "compile"',
        "x; extra == 'y'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    assert doctor.examine()["compile"].keys() == {"rich", "torch-pruning"}


def test_doctor_works_where_edgeopt_is_not_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", raising(importlib.metadata.PackageNotFoundError("edgeopt")))
    ran = run("doctor")
    assert ran.code == 0
    assert "compile    not known: " in ran.out
