"""What a device takes in over a pipe: whole and hashed, or kept for the next try, or refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.device import receive as module
from edgeopt.device.home import Home
from edgeopt.device.receive import Held, receive
from edgeopt.errors import DeviceError, DiskError, EdgeoptError, UsageError

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Send = Callable[..., Path]


@pytest.fixture
def offers() -> list[Held]:
    return []


@pytest.fixture
def send(home: Home, tmp_path: Path, offers: list[Held]) -> Send:
    """Sends bytes after a line that says where they begin."""

    def send(
        content: bytes = CONTENT, offset: object = 0, *, name: str = "file", size_bytes: int = len(CONTENT),
        sha256: str = SHA256, line: bytes | None = None,
    ) -> Path:  # fmt: skip
        said = json.dumps({"offset": offset}).encode() + b"\n" if line is None else line
        (tmp_path / "sent").write_bytes(said + content)
        source = os.open(tmp_path / "sent", os.O_RDONLY)
        try:
            return receive(home, name, size_bytes, sha256, source, offers.append)
        finally:
            os.close(source)

    return send


def names(home: Home) -> list[str]:
    return sorted(path.name for path in home.incoming.iterdir())


def test_a_file_arrives_under_its_name(send: Send, home: Home, offers: list[Held]) -> None:
    assert send() == home.incoming / "file"
    assert (home.incoming / "file").read_bytes() == CONTENT
    assert (names(home), offers[0].held) == (["file"], 0)


def test_what_was_cut_is_offered_and_gone_on_with(send: Send, home: Home, offers: list[Held]) -> None:
    with pytest.raises(DeviceError, match="cut after 4000 of 10240 bytes"):
        send(CONTENT[:4000])
    assert names(home) == [f"{SHA256}.part"]
    assert send(CONTENT[4000:], 4000).read_bytes() == CONTENT
    assert offers[1] == Held(held=4000, sha256=hashlib.sha256(CONTENT[:4000]).hexdigest())
    assert names(home) == ["file"]


def test_what_is_there_needs_nothing_more(send: Send, home: Home, offers: list[Held]) -> None:
    send()
    assert send(b"", len(CONTENT)).read_bytes() == CONTENT
    assert offers[1] == Held(held=len(CONTENT), sha256=SHA256)
    (home.incoming / "file").rename(home.incoming / f"{SHA256}.part")  # killed before it got its name
    assert send(b"", len(CONTENT)).read_bytes() == CONTENT
    assert names(home) == ["file"]


def test_a_sender_may_begin_anew(send: Send, home: Home) -> None:
    (home.incoming / f"{SHA256}.part").write_bytes(b"something else, and longer" * 1000)
    assert send().read_bytes() == CONTENT


def test_what_is_not_as_announced_is_not_kept(send: Send, home: Home) -> None:
    (home.incoming / "file").write_bytes(b"the one before")
    with pytest.raises(DeviceError, match="is not the `file` that was announced"):
        send(CONTENT[::-1])
    assert names(home) == ["file"]
    assert (home.incoming / "file").read_bytes() == b"the one before"


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"[1]\n", b"{}\n", b'{"offset": 7}\n', b'{"offset": null}\n', b"x" * 5000]
)
def test_a_sender_that_does_not_say_where_to_go_on_is_refused(line: bytes, send: Send, home: Home) -> None:
    with pytest.raises(DeviceError):
        send(b"" if not line else CONTENT, line=line)
    assert names(home) == []


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", "x.part", "a b", "x" * 300, "a\n"])
def test_a_name_that_leads_anywhere_is_refused(name: str, send: Send, home: Home) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        send(name=name)
    assert names(home) == []


def test_what_does_not_fit_is_refused_at_once(send: Send, home: Home) -> None:
    with pytest.raises(DiskError, match="no space left on the disk: 1000000000000"):
        send(size_bytes=10**18)
    assert names(home) == []


def test_a_sender_that_falls_silent_is_not_waited_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    source, sink = os.pipe()
    os.write(sink, b'{"offset": 0}\n' + CONTENT[:100])
    try:
        with pytest.raises(EdgeoptError, match="nothing came for"):
            receive(home, "file", len(CONTENT), SHA256, source, lambda held: None)
    finally:
        os.close(source)
        os.close(sink)
    assert (home.incoming / f"{SHA256}.part").read_bytes() == CONTENT[:100]
