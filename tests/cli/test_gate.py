"""`gate`: what a report concludes is held against its raw samples; how it says so is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt.bundle.signing import load_public_key, load_signer
from edgeopt.cli.keys import open_signer
from edgeopt.errors import UsageError
from edgeopt.report.signature import sign_report
from tests.cli.test_cli import Ran, Run, run
from tests.report.proven import leave, make_evidence, prove

__all__ = ["run"]


def refused(ran: Ran, code: int, *words: str) -> None:
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("error: ")
    assert all(word in ran.err for word in words), ran.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    evidence = make_evidence()
    leave(prove(evidence), evidence, tmp_path)
    return tmp_path


def test_other_words_for_the_same_verdicts_are_no_change(run: Run, folder: Path) -> None:
    text = (folder / "report.json").read_text()
    for now, before in (("at most", "no more than"), ("slower than", "not as fast as")):
        assert now in text
        text = text.replace(now, before)
    (folder / "report.json").write_text(text, encoding="utf8")
    ran = run("gate", str(folder))
    assert (ran.code, ran.err) == (0, "")
    assert "slower than" in ran.out, "what is shown is said in the words of today"


def test_a_figure_changed_by_hand_exits_with_4(run: Run, folder: Path) -> None:
    path = folder / "report.json"
    path.write_text(path.read_text().replace('"size_bytes": 100000', '"size_bytes": 90000'), encoding="utf8")
    ran = run("gate", str(path))
    assert ran.code == 4
    assert "`size.bytes` of onnxruntime_cpu/int8 in target `x86` does not follow from the raw samples" in ran.err


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("budgets: {size: {max_mb: 0.05}}", 1, "over 0.05 MB"),
        ("budgets: {latency: {max_ratio: 0.16}}", 0, ""),
        ("budgets: {energy: {max_mj: 1}}", 3, "energy was not measured"),
        ("budgets: {latency: {max_ratio: .nan}}", 2, "budgets.yaml:1:"),
        ("budgets: {latency: {max_rato: 0.5}}", 2, "max_ratio"),
        ("budgets: {accuracy: {metric: top2, max_drop_pp: 1}}", 2, "unknown metric `top2`"),
        ("name: digits", 2, "holds `budgets:` and nothing else"),
    ],
)
def test_other_budgets_are_judged_and_their_faults_are_named(
    text: str, code: int, said: str, run: Run, folder: Path
) -> None:
    budgets = folder / "budgets.yaml"
    budgets.write_text(text)
    ran = run("gate", str(folder), "--budgets", str(budgets))
    assert ran.code == code, ran.err + ran.out
    assert said in " ".join((ran.err + ran.out).split())


def test_a_report_is_believed_only_from_the_key_that_was_asked_for(run: Run, folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "ci.key"
    assert run("keys", "new", str(key)).code == 0
    asked = ("gate", str(folder), "--require-signed", f"{key}.pub")
    refused(run(*asked), 4, "is not signed: no `report.sig`", "`edgeopt compile --sign KEY`")
    sign_report(folder, load_signer(key))
    assert run(*asked).code == 0
    assert run("keys", "new", f"{key}2").code == 0
    refused(run(*asked[:-1], f"{key}2.pub"), 4, "report.sig`: not signed by the key", "check that it is the right key")
    refused(run(*asked[:-1], str(key)), 2, "holds a private key", f"{key}.pub")
    report = folder / "report.json"
    report.write_text(report.read_text().replace('"seed": 0', '"seed": 1'), encoding="utf8")
    refused(run(*asked), 4, "is not the report that was signed", "it was changed after that")


def test_a_key_that_is_locked_takes_the_passphrase_of_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "locked.key"
    monkeypatch.setenv("EDGEOPT_PASSPHRASE", "correct horse")
    assert run("keys", "new", str(key), "--passphrase").code == 0
    assert open_signer(key).public_key == load_public_key(tmp_path / "locked.key.pub")
    monkeypatch.delenv("EDGEOPT_PASSPHRASE")
    with pytest.raises(UsageError, match="is locked by a passphrase"):
        open_signer(key)
    refused(run("keys", "new", str(key)), 2, "is there already", "choose another name")
