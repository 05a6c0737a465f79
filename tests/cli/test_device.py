"""`edgeopt device` as a user meets it: what each command prints, its JSON, and one error line with a hint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeopt.device import smoke
from edgeopt.device.home import device_key
from tests.cli.test_cli import Ran, Run, run
from tests.device.conftest import Releases, digest_of, doomed, holders, releases, root, site
from tests.signers import Holders

__all__ = ["doomed", "holders", "releases", "root", "run", "site"]

pytestmark = pytest.mark.usefixtures("doomed")

COMMANDS = (("install", "x.edgeopt"), ("activate",), ("rollback",), ("status",), ("gc",))


@pytest.fixture
def home(run: Run, root: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device's folder that the environment names."""
    (tmp_path / "root.json").write_bytes(root)
    folder = tmp_path / "device"
    monkeypatch.setenv("EDGEOPT_DEVICE", str(folder))
    ran = run("device", "init", "--root", str(tmp_path / "root.json"), "--board", "rpi5")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{folder}: key {device_key(folder)}\n"
    return folder


def refused(ran: Ran, code: int, message: str, hint: str) -> None:
    assert (ran.code, ran.out) == (code, ""), ran
    lines = ran.err.splitlines()
    assert lines[0].startswith(f"error: {message}"), ran.err
    assert [line for line in lines if line.startswith("error: ")] == lines[:1]
    assert lines[-1].startswith(f"hint: {hint}"), ran.err
    assert lines[-2] == ""
    assert "Traceback" not in ran.err


def told(ran: Ran) -> dict[str, object]:
    assert (ran.code, ran.err) == (0, ""), ran
    found: dict[str, object] = json.loads(ran.out)
    return found


# the way of a release


def test_a_release_goes_in_into_use_and_back(run: Run, home: Path, releases: Releases) -> None:
    one, two = releases.make(1, fate="ok"), releases.make(2, fate="ok")
    first, second = digest_of(one), digest_of(two)
    assert run("device", "install", str(one)).out == f"digits {first[:12]}: counter 1\n"
    assert run("device", "install", str(one)).out == f"digits {first[:12]}: counter 1, which was installed already\n"
    assert run("device", "activate").out.startswith(f"{first[:12]}: counter 1, 2 golden samples within 0 %, p90 ")
    assert run("device", "activate").out == f"{first[:12]}: counter 1, in use already\n"
    assert told(run("device", "install", str(two), "--json"))["digest"] == second
    activated = told(run("device", "activate", "--json"))
    assert (activated["digest"], activated["counter"]) == (second, 2)
    status = run("device", "status")
    assert (status.code, status.err) == (0, "")
    assert status.out.splitlines()[:3] == [
        "digits on rpi5, channel stable, counter 2, root version 1",
        f"▸ {second[:12]}  counter 2  in use",
        f"· {first[:12]}  counter 1  the one before",
    ]
    assert run("device", "rollback", "--reason", "wrong labels").out == f"{first[:12]}: in use again\n"
    assert f"  {second[:12]}  counter 2  bad: wrong labels\n" in run("device", "status").out
    assert run("device", "gc").out.startswith("1 releases, 0 uploads: ")
    assert second not in json.dumps(told(run("device", "status", "--json"))["state"]["releases"])  # type: ignore[index]


def test_every_command_gives_json(run: Run, home: Path, releases: Releases) -> None:
    for counter in (1, 2):
        assert told(run("device", "install", str(releases.make(counter, fate="ok")), "--json"))["is_new"] is True
        assert told(run("device", "activate", "--json"))["smoke"]
    assert told(run("device", "rollback", "--json"))["digest"]
    assert told(run("device", "gc", "--json"))["releases"] == []
    found = told(run("device", "status", "--json"))
    assert (found["app"], found["channel"], found["board"], found["protocol"]) == ("digits", "stable", "rpi5", 1)
    assert found["state"]["counter"] == 2  # type: ignore[index]


def test_a_fresh_device_says_that_nothing_is_there(run: Run, home: Path) -> None:
    assert run("device", "status").out.startswith(
        "no application yet on rpi5, channel stable, counter 0, root version 1\n"
    )
    assert run("device", "gc").out == "0 releases, 0 uploads: 0.00 MB freed\n"
    refused(run("device", "activate"), 2, "no release is installed that is known to be good", "`edgeopt device install")
    refused(run("device", "rollback"), 2, "there is no release to go back to", "`edgeopt device status`")


# what is refused


def test_a_folder_that_is_no_device_s_is_named_by_every_command(run: Run, tmp_path: Path, releases: Releases) -> None:
    bundle = str(releases.make(1, fate="ok"))
    for name, *arguments in COMMANDS:
        ran = run("device", name, *([bundle] if arguments else []), "--home", str(tmp_path / "none"))
        refused(ran, 2, f"`{tmp_path / 'none'}` is no device's folder", "`edgeopt device init` makes one")
    (tmp_path / "root.2.json").write_text("{}")
    ran = run("device", "trust", str(tmp_path / "root.2.json"), "--home", str(tmp_path / "none"))
    refused(ran, 2, f"`{tmp_path / 'none'}` is no device's folder", "`edgeopt device init` makes one")


def test_init_names_what_is_wrong(run: Run, home: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "root.json")
    refused(run("device", "init", "--root", root), 2, f"`{home}` is a device's folder already", "its releases stay")
    elsewhere = ("--home", str(tmp_path / "other"))
    refused(
        run("device", "init", "--root", "none.json", *elsewhere), 2, "there is no root `none.json`", "make one with"
    )
    refused(
        run("device", "init", "--root", root, "--channel", "a b", *elsewhere),
        2,
        "`--channel a b` is no name",
        "letters",
    )
    (tmp_path / "text").write_text("hello")
    refused(
        run("device", "init", "--root", str(tmp_path / "text"), *elsewhere), 4, "the signature is damaged", "get it"
    )
    refused(run("device", "init", *elsewhere), 2, "missing option `--root`", "`edgeopt device init --help`")
    assert not (tmp_path / "other").exists()


def test_install_names_what_is_wrong(run: Run, home: Path, releases: Releases, tmp_path: Path) -> None:
    def install(path: Path) -> Ran:
        return run("device", "install", str(path))

    refused(install(tmp_path / "none.edgeopt"), 2, "there is no bundle file", "give a `.edgeopt` file")
    assert install(releases.make(5, fate="ok")).code == 0
    refused(
        install(releases.make(4, fate="ok")),
        4,
        "the bundle has counter 4, and 5 was installed before",
        "`edgeopt device rollback`",
    )
    refused(install(releases.folder / "digits-ok-4.edgeopt"), 4, "the bundle is not signed", "`edgeopt bundle sign`")
    refused(install(releases.make(6, fate="ok", signers=("eve",))), 4, "not signed by the key", "check that it is")
    refused(
        install(releases.make(6, fate="ok", channel="beta")),
        4,
        "the bundle was released for channel `beta`",
        "sign it with",
    )
    refused(install(releases.make(6, fate="ok", name="faces")), 4, "the bundle is `faces`", "ship it elsewhere")
    refused(
        install(releases.make(6, fate="ok", compatible={"board": "orin"})),
        4,
        "the bundle is not for this device",
        "compile for",
    )
    refused(
        install(releases.make(6, fate="ok", not_after="2026-11-01")),
        4,
        "the bundle was not to be installed after",
        "get a newer",
    )
    cut = releases.make(6, fate="ok")
    cut.write_bytes(cut.read_bytes()[:-1])
    refused(install(cut), 4, f"`{cut}` is cut short", "get the bundle again")


def test_activate_names_what_is_wrong(
    run: Run, home: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("device", "install", str(releases.make(1, fate="error")))
    refused(run("device", "activate"), 6, "the smoke test failed: the process of `smoke test` crashed with SIGSEGV", "")
    refused(run("device", "activate"), 2, "no release is installed that is known to be good", "`edgeopt device install")
    refused(run("device", "activate", "zzz"), 2, "no installed release begins with `zzz`", "`edgeopt device status`")
    refused(run("device", "activate", "--max-ms", "0"), 2, "invalid value for `--max-ms`", "`edgeopt device activate")
    run("device", "install", str(releases.make(2, fate="ok")))
    refused(
        run("device", "activate", "--max-ms", "1e-9"), 6, "the smoke test failed: its p90 is", "what was used before"
    )
    monkeypatch.setattr(smoke, "SECONDS", 1.0)
    run("device", "install", str(releases.make(3, fate="hang")))
    refused(run("device", "activate"), 6, "the smoke test failed: the process of `smoke test` did not answer", "")
    assert json.loads(run("device", "status", "--json").out)["state"]["current"] is None


def test_a_damaged_state_is_refused_by_every_command(run: Run, home: Path, releases: Releases) -> None:
    bundle = str(releases.make(1, fate="ok"))
    (home / "state.json").write_text("{")
    for name, *arguments in COMMANDS:
        ran = run("device", name, *([bundle] if arguments else []))
        refused(ran, 4, f"`{home / 'state.json'}` cannot be read", "restore it")


# keys that change hands


def test_a_change_of_keys_is_followed_and_never_back(
    run: Run, home: Path, holders: Holders, releases: Releases, tmp_path: Path
) -> None:
    holders.key("dan")
    new, old = str(tmp_path / "root.2.json"), str(tmp_path / "root.json")
    made = run("keys", "root", new, "--after", old, "--release", f"{holders.key('dan')}.pub",
               "--root", f"{holders.key('ann')}.pub", "--key", str(holders.key("ann")))  # fmt: skip
    assert (made.code, made.out) == (0, f"{new}: version 2, 1 of 1 keys sign bundles\n")
    assert run("device", "trust", new).out == f"{home}: root version 2\n"
    refused(
        run("device", "trust", old), 4, "the root has version 1, and follows on version 2", "roots replace one another"
    )
    refused(run("device", "install", str(releases.make(1, fate="ok"))), 4, "not signed by the key", "check that")
    assert run("device", "install", str(releases.make(1, fate="ok", signers=("dan",)))).code == 0
    refused(run("device", "trust", "none.json"), 2, "there is no root `none.json`", "make one with")
