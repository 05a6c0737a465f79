"""`keys` and `bundle sign`, `verify` as a user meets them: from keys to a bundle that devices believe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import Ran, Run, run
from tests.device.conftest import Releases, holders, releases
from tests.signers import Holders

__all__ = ["holders", "releases", "run"]


@pytest.fixture
def bundle(releases: Releases) -> str:
    """A bundle that nobody has signed yet."""
    releases.make(1, fate="ok")
    return str(releases.folder / "digits-ok-1.edgeopt")


@pytest.fixture
def key(run: Run, tmp_path: Path) -> str:
    ran = run("keys", "new", str(tmp_path / "release.key"))
    assert ran.code == 0
    assert ran.out.startswith(f"{tmp_path / 'release.key'}.pub: Ed25519 ")
    return str(tmp_path / "release.key")


@pytest.fixture
def root(run: Run, key: str, tmp_path: Path) -> str:
    path = str(tmp_path / "root.json")
    ran = run("keys", "root", path, "--release", f"{key}.pub", "--key", key)
    assert (ran.code, ran.out, ran.err) == (0, f"{path}: version 1, 1 of 1 keys sign bundles\n", "")
    return path


def refused(ran: Ran, code: int, *words: str) -> None:
    assert (ran.code, ran.out) == (code, ""), ran
    assert ran.err.startswith("error: ")
    assert ran.err.count("error: ") == 1
    assert "\n\nhint: " in ran.err
    assert all(word in ran.err for word in words), ran.err


def test_a_bundle_is_signed_and_then_verifies(run: Run, bundle: str, key: str, root: str) -> None:
    refused(run("bundle", "verify", bundle, "--root", root), 4, "the bundle is not signed", "`edgeopt bundle sign`")
    ran = run(
        "bundle", "sign", bundle, "--key", key, "--counter", "7", "--not-after", "2099-12-31", "--channel", "beta"
    )
    assert ran.out == f"{bundle}: counter 7, channel beta, not after 2099-12-31\n"
    ran = run("bundle", "verify", bundle, "--root", root)
    assert (ran.code, ran.err) == (0, "")
    assert "3 files, all as the manifest says; signed, counter 7, channel beta, not after 2099-12-31\n" in ran.out
    assert "which `--root` would prove" in run("bundle", "verify", bundle).out


def test_a_compressed_bundle_verifies_and_a_hostile_one_is_refused_in_one_line(
    run: Run, bundle: str, key: str, root: str, tmp_path: Path
) -> None:
    run("bundle", "sign", bundle, "--key", key, "--counter", "7")
    ran = run("bundle", "compress", bundle)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"{bundle}.xz: {Path(bundle).stat().st_size:,} → ")
    assert "signed, counter 7" in run("bundle", "verify", f"{bundle}.xz", "--root", root).out
    whole = Path(f"{bundle}.xz").read_bytes()
    hostile = tmp_path / "hostile.edgeopt.xz"
    for content, told in ((whole[:-9], "cut short"), (whole + b"x", "goes on after its end")):
        hostile.write_bytes(content)
        refused(run("bundle", "verify", str(hostile)), 4, "not soundly compressed", told)
    refused(run("bundle", "compress", f"{bundle}.xz"), 2, "is compressed already")
    (tmp_path / "stick").mkdir()
    ran = run("ship", bundle, f"folder://{tmp_path / 'stick'}", "--compress")
    assert ran.out.strip().endswith(".edgeopt.xz")
    assert Path(ran.out.strip()).read_bytes() == whole


def test_an_expired_one_verifies_with_a_note(run: Run, bundle: str, key: str, root: str, tmp_path: Path) -> None:
    run("bundle", "sign", bundle, "--key", key, "--counter", "7", "--not-after", "2020-12-31")
    ran = run("bundle", "verify", bundle, "--root", root)
    assert (ran.code, ran.err) == (0, "note: no device installs it after 2020-12-31\n")


def test_signing_elsewhere_leaves_the_bundle_as_it_was(run: Run, bundle: str, key: str, tmp_path: Path) -> None:
    before, out = Path(bundle).read_bytes(), str(tmp_path / "signed.edgeopt")
    ran = run("bundle", "sign", bundle, "--key", key, "--counter", "7", "--out", out)
    assert ran.out == f"{out}: counter 7, channel stable, never expires\n"
    assert Path(bundle).read_bytes() == before


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (("--counter", "0"), ("`counter`", "greater than or equal to 1")),
        (("--counter", "x"), ("invalid value for `--counter`",)), ((), ("missing option `--counter`",)),
        (("--counter", "1", "--channel", "a b"), ("`channel`",)),
        (("--counter", "1", "--not-after", "31.12.2027"), ("`not_after`",)),
        (("--counter", "1", "--allow", "everything"), ("invalid value for `--allow`", "fail")),
    ],
)  # fmt: skip
def test_terms_that_are_none_are_a_wrong_usage(
    terms: tuple[str, ...], words: tuple[str, ...], run: Run, bundle: str, key: str
) -> None:
    before = Path(bundle).read_bytes()
    refused(run("bundle", "sign", bundle, "--key", key, *terms), 2, *words)
    assert Path(bundle).read_bytes() == before


def test_a_locked_key_wants_its_passphrase(
    run: Run, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = str(tmp_path / "locked.key")
    monkeypatch.setenv("EDGEOPT_PASSPHRASE", "correct horse")
    assert run("keys", "new", locked, "--passphrase").code == 0
    monkeypatch.setenv("EDGEOPT_PASSPHRASE", "wrong")
    refused(run("bundle", "sign", bundle, "--key", locked, "--counter", "1"), 2, "check the passphrase")
    monkeypatch.setenv("EDGEOPT_PASSPHRASE", "correct horse")
    assert run("bundle", "sign", bundle, "--key", locked, "--counter", "1").code == 0


def test_two_of_three_sign_in_turn(run: Run, bundle: str, holders: Holders, tmp_path: Path) -> None:
    path, public = str(tmp_path / "root.json"), [f"{holders.key(name)}.pub" for name in ("cat", "dan", "eve")]
    said = [word for key in public for word in ("--release", key)]
    made = ("keys", "root", path, *said, "--threshold", "2", "--root", f"{holders.key('ann')}.pub", "--key")
    assert run(*made, str(holders.key("ann"))).out == f"{path}: version 1, 2 of 3 keys sign bundles\n"
    terms = ("--counter", "3")
    run("bundle", "sign", bundle, "--key", str(holders.key("cat")), *terms)
    refused(run("bundle", "verify", bundle, "--root", path), 4, "not signed by 2 of the keys")
    run("bundle", "sign", bundle, "--key", str(holders.key("eve")), *terms)
    assert run("bundle", "verify", bundle, "--root", path).code == 0


def test_a_root_gathers_signatures_and_says_what_it_lacks(run: Run, key: str, holders: Holders, tmp_path: Path) -> None:
    path, next_path = str(tmp_path / "root.json"), str(tmp_path / "root.2.json")
    rulers = [word for name in ("ann", "ben") for word in ("--root", f"{holders.key(name)}.pub")]
    said = ("--release", f"{key}.pub", *rulers, "--root-threshold", "2")
    assert run("keys", "root", path, *said, "--key", str(holders.key("ann"))).code == 0
    after = ("keys", "root", next_path, *said, "--after", path, "--key", str(holders.key("ann")))
    refused(run(*after), 4, "not signed by 2 of the keys")
    assert run("keys", "root", path, *said, "--key", str(holders.key("ben"))).code == 0
    assert run(*after).out == f"{next_path}: version 2, 1 of 1 keys sign bundles\n"


def test_what_is_no_root_is_named(run: Run, key: str, root: str, bundle: str, tmp_path: Path) -> None:
    new = str(tmp_path / "new.json")
    refused(
        run("keys", "root", root, "--release", f"{key}.pub", "--threshold", "1", "--after", root, "--key", key),
        2,
        "is another root",
    )
    refused(
        run("keys", "root", new, "--release", f"{key}.pub", "--threshold", "2", "--key", key),
        2,
        "2 of 1 keys cannot sign",
    )
    refused(run("keys", "root", new, "--release", key, "--key", key), 2, "holds a private key", f"{key}.pub")
    refused(run("keys", "root", new, "--release", f"{key}.pub", "--key", "none"), 2, "there is no key `none`")
    refused(run("keys", "new", key), 2, "is there already")
    refused(run("bundle", "verify", bundle, "--root", "none.json"), 2, "there is no root `none.json`")
    assert not Path(new).exists()
