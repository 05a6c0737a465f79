"""The README's way from a network to a device and back, command for command, over a real SSH server.

compile → keys → sign → ship → the device activates → serves → a worse bundle is refused by its smoke test → rollback.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.conftest import Job, Ran, draw_images
from tests.sshd import Server, other_network, start_server, why_not

BUNDLE = "out/cpu/small.edgeopt"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """The way to a device: in a network of its own where that is permitted."""
    if reason := why_not():
        pytest.skip(reason)
    with other_network() as (host, within):
        found = start_server(tmp_path / "sshd", host, within)
        yield found
        found.stop()


def done(ran: Ran, code: int = 0) -> str:
    assert ran.code == code, ran.out + ran.err
    return ran.out


@contextlib.contextmanager
def serving(job: Job, home: Path) -> Iterator[str]:
    """`edgeopt device serve` on a free port, stopped as a supervisor stops it."""
    command = job.command("device", "serve", "--home", str(home), "--port", "0")
    process = subprocess.Popen(command, env=job.environ(), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def ask(url: str, image: Path) -> dict[str, object]:
    headers = {"Content-Type": "application/x-npy"}
    request = urllib.request.Request(f"{url}/predict", image.read_bytes(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
    return found


@pytest.mark.slow
def test_from_a_network_to_a_device_and_back(job: Job, server: Server, tmp_path: Path) -> None:
    home = tmp_path / "board"
    job.edit("  - name: cpu\n", "  - name: cpu\n    board: bench\n")
    done(job.compile())

    done(job.run("keys", "new", "release.key"))
    done(job.run("keys", "root", "root.json", "--release", "release.key.pub", "--key", "release.key"))
    key = done(job.run("device", "init", "--home", str(home), "--root", "root.json", "--board", "bench")).split()[-1]
    (job.folder / "fleet.yaml").write_text(
        f"edgeopt_fleet: 1\ndevices:\n  bench:\n    url: {server.address(home)}\n    host_key: {server.host_key}\n"
        f"    device_key: {key}\n    identity: {server.identity}\n    edgeopt: {server.pins.edgeopt}\n"
    )

    unsigned = job.run("ship", BUNDLE, "ssh://bench")
    assert unsigned.code == 4
    assert "not signed" in unsigned.err
    done(job.run("bundle", "sign", BUNDLE, "--key", "release.key", "--counter", "1", "--not-after", "2999-12-31"))
    done(job.run("bundle", "verify", BUNDLE, "--root", "root.json"))
    done(job.run("ship", BUNDLE, "ssh://bench"))
    first = status(job, home)["current"]
    assert first

    image = tmp_path / "image.npy"
    np.save(image, draw_images(1, 5)[0])
    with serving(job, home) as url:
        assert ask(url, image)["label"] in "abcd"
        metrics = urllib.request.urlopen(f"{url}/metrics", timeout=30).read().decode()
    assert 'edgeopt_inference_total{outcome="ok"' in metrics

    job.edit("  size: {max_mb: 1.0}", "  size: {max_mb: 1.0}\n  latency: {p90_ms: 1000}")
    done(job.compile())
    done(job.run("bundle", "sign", BUNDLE, "--key", "release.key", "--counter", "2"))
    done(job.run("ship", BUNDLE, "fleet.yaml"))
    second = status(job, home)["current"]
    assert second not in (None, first)

    done(job.compile("--set", "budgets.latency.p90_ms=0.00001"), code=1)
    worse = "out/cpu/onnxruntime_cpu/fp32/bundle"
    done(job.run("bundle", "pack", worse, "worse.edgeopt"))
    sign = ("bundle", "sign", "worse.edgeopt", "--key", "release.key", "--counter", "3")
    assert "`--allow fail`" in job.run(*sign).err
    done(job.run(*sign, "--allow", "fail"))
    refused = job.run("ship", "worse.edgeopt", "ssh://bench")
    assert refused.code == 6
    assert "smoke test" in refused.err
    assert status(job, home)["current"] == second

    done(job.run("device", "rollback", "--home", str(home)))
    assert status(job, home)["current"] == first
    with serving(job, home) as url:
        assert ask(url, image)["label"] in "abcd"


def status(job: Job, home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(done(job.run("device", "status", "--home", str(home), "--json")))["state"]
    return found
