"""What the predictor and the service cost, beside the bare session; needs ONNX Runtime, onnx, waitress and `wrk`.

`EDGEOPT_SECONDS` is how long the service is under load (30). The network takes about a millisecond; all turns of the
overhead are on one session, in one thread.
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from tables import describe_machine, show

from edgeopt.bundle.golden import Golden
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.bundle.sign import Terms, sign_bundle
from edgeopt.bundle.signing import load_public_key, load_signer, make_key
from edgeopt.bundle.trust import Root, make_role, write_root
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.activate import activate
from edgeopt.device.home import Device, Home, make_home
from edgeopt.device.install import install
from edgeopt.device.metrics import make_watch
from edgeopt.device.predictor import load
from edgeopt.model import Artifact, TensorSpec, list_files
from edgeopt.validation.statistics import median_interval

SECONDS = int(os.environ.get("EDGEOPT_SECONDS", "30"))
CLASSES, SIZE, CHANNELS, LAYERS = 10, 32, 32, 6
BLOCKS, RUNS, DISCARD = 200, 20, 2
ROUNDS = 7

#: the device's modules that answer need, with its metrics
MODULES = "edgeopt.device.predictor, edgeopt.device.metrics, edgeopt.device.home"
IMPORT = """
import time, numpy, onnxruntime, pathlib
def resident_mb(): return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4096 / 1e6
mb, start, busy = resident_mb(), time.perf_counter(), time.process_time()
import {}
print(time.perf_counter() - start, time.process_time() - busy, resident_mb() - mb)
"""

LOAD = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "image/png"
wrk.body = io.open("{image}", "rb"):read("*a")
done = function(summary, latency, requests)
  local e = summary.errors
  print("figures", summary.requests, summary.duration / 1e6, e.connect + e.read + e.write, e.status, e.timeout,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3)
end
"""


def write_network(path: Path) -> None:
    """Convolutions that take about a millisecond, and a head of classes."""
    from onnx import helper, numpy_helper, save

    rng, nodes, weights, name, width = np.random.default_rng(0), [], [], "image", 3
    for layer in range(LAYERS):
        kernel = rng.normal(0, math.sqrt(2 / (9 * width)), (CHANNELS, width, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"kernel{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"kernel{layer}"], [f"conv{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"]))
        name, width = f"relu{layer}", CHANNELS
    weights.append(numpy_helper.from_array(rng.normal(0, 1, (CHANNELS, CLASSES)).astype(np.float32), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["pooled"]), helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
    ]  # fmt: skip
    image = helper.make_tensor_value_info("image", 1, [1, 3, SIZE, SIZE])
    scores = helper.make_tensor_value_info("scores", 1, [1, CLASSES])
    graph = helper.make_graph(nodes, "network", [image], [scores], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def sample() -> Any:
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE), np.uint8)


def make_device(folder: Path) -> Home:
    """A device on which a release with the network is active."""
    (folder / "built").mkdir()
    write_network(folder / "built" / "model.onnx")
    artifact = Artifact(
        target="here", backend="onnxruntime_cpu", files=list_files(folder / "built", ["model.onnx"]),
        inputs=(TensorSpec(name="image", shape=(1, 3, SIZE, SIZE)),),
        outputs=(TensorSpec(name="scores", shape=(1, CLASSES)),), settings={"threads": 1, "batch": 1},
        folder=folder / "built",
    )  # fmt: skip
    preprocess, raw = Preprocess(scale=1 / 255, mean=(0.5,) * 3, std=(0.25,) * 3), {"image": sample()}
    from edgeopt import backends

    with backends.opened(artifact) as session:
        prepared = {name: array[None] for name, array in preprocess.apply(raw, "sample").items()}
        made = {name: array[0] for name, array in session.run(prepared).items()}
    contents = Contents(
        name="bench", target="here", candidate="onnxruntime_cpu/fp32", artifact=artifact, preprocess=preprocess,
        classes=tuple(map(str, range(CLASSES))), compatible={}, recipe=b"", golden=(Golden(raw, made),),
        measurements=(), verdicts=({"budget": "none", "verdict": "pass", "margin": 0, "sentence": ""},),
    )  # fmt: skip
    bundle, key = folder / "bench.edgeopt", folder / "release.key"
    pack_file(pack_bundle(contents, folder / "bundle").folder, bundle)
    make_key(key)
    role = make_role([load_public_key(folder / "release.key.pub")], 1)
    write_root(folder / "root.json", Root(version=1, root=role, releases=role), [load_signer(key)])
    sign_bundle(bundle, bundle, Terms(1), [load_signer(key)])
    make_home(folder / "home", (folder / "root.json").read_bytes(), Device())
    home = Home(folder / "home")
    install(home, bundle)
    activate(home)
    return home


def time_block(call: Callable[[], object]) -> float:
    for _ in range(DISCARD):
        call()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e6


def show_overhead(home: Home) -> None:
    raw = sample()
    with load(home.folder, make_watch=make_watch) as predictor, load(home.folder) as unwatched:
        preprocess = predictor.bundle.manifest.preprocess
        prepared = {name: array[None] for name, array in preprocess.apply({"image": raw}, "sample").items()}
        # one session for all sides: two of them can differ by more than what is looked for
        session = predictor._current.use(lambda opened: opened._session)
        unwatched._current.use(lambda opened: setattr(opened, "_session", session))

        def prepare_and_run() -> object:
            made = preprocess.apply({"image": raw}, "sample")
            return session.run({name: array[None] for name, array in made.items()})

        bare, by_hand = "session.run", "prepare, session.run"
        sides: dict[str, Callable[[], object]] = {
            bare: lambda: session.run(prepared),
            "run": lambda: unwatched.run(prepared),
            "run, metrics on": lambda: predictor.run(prepared),
            by_hand: prepare_and_run,
            "predict": lambda: unwatched.predict(raw),
            "predict, metrics on": lambda: predictor.predict(raw),
        }
        pairs = [("run", bare), ("run, metrics on", bare), (by_hand, bare),
                 ("predict", by_hand), ("predict, metrics on", by_hand), ("predict, metrics on", bare)]  # fmt: skip
        blocks: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(BLOCKS):
            for name in random.sample(list(sides), len(sides)):
                blocks[name].append(time_block(sides[name]))
    rows = []
    for name, base in pairs:
        logs = [math.log(time / other) for time, other in zip(blocks[name], blocks[base], strict=True)]
        interval = median_interval(logs, 0.05)
        assert interval is not None
        low, middle, high = (math.exp(one) for one in (interval[0], statistics.median(logs), interval[1]))
        each = [f"{statistics.median(blocks[one]):.3f}" for one in (name, base)]
        rows.append([name, each[0], base, each[1], f"{middle:.3f}", f"[{low:.3f}, {high:.3f}]"])
    show(
        f"overhead, {BLOCKS} blocks of {RUNS} in turns · {describe_machine()}",
        ["predictor", "ms", "÷", "ms", "ratio", "95 % interval"], rows,
    )  # fmt: skip


def show_import() -> None:
    rows = []
    for modules in ("edgeopt.device", MODULES):
        found = [_import(modules) for _ in range(ROUNDS)]
        seconds, busy, mb = (statistics.median(column) for column in zip(*found, strict=True))
        rows.append([modules, f"{seconds:.3f}", f"{busy:.3f}", f"{mb:.1f}"])
    show(f"import beyond numpy and onnxruntime, median of {ROUNDS}", ["modules", "s", "s of CPU", "MB"], rows)


def _import(modules: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", IMPORT.format(modules)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


@contextmanager
def serving(home: Home, *options: str) -> Iterator[int]:
    command = [sys.executable, "-m", "edgeopt", "device", "serve", "--home", str(home.folder), "--port", "0"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r":(\d+)$", process.stderr.readline())
        assert found is not None
        try:
            yield int(found.group(1))
        finally:
            process.terminate()
            process.wait()


def show_load(home: Home, folder: Path) -> None:
    from PIL import Image

    Image.fromarray(sample().transpose(1, 2, 0)).save(folder / "sample.png")
    (folder / "load.lua").write_text(LOAD.format(image=folder / "sample.png"))
    rows = []
    for connections, options in ((1, []), (16, []), (64, ["--threads", "2", "--queue", "8"])):
        with serving(home, *options) as port:
            url = f"http://127.0.0.1:{port}"
            command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "30s", "--latency"]
            done = subprocess.run(
                [*command, "-s", str(folder / "load.lua"), f"{url}/predict"], capture_output=True, text=True, check=True
            )
            count, seconds, broken, refused, late, p50, p99, most = map(float, done.stdout.split("figures")[1].split())
            with urlopen(f"{url}/health") as reply:
                told = reply.read().decode()
        answered = int(re.findall(r'"answered": (\d+)', told)[0])
        # what was answered when the load ended and wrk had gone, at most one for each connection
        lost = max(0, int(count - refused) - answered)
        rows.append([
            connections, " ".join(options) or "as it comes", int(count), f"{count / seconds:.0f}", int(broken),
            int(refused), int(late), lost, f"{p50:.1f}", f"{p99:.1f}", f"{most:.1f}",
        ])  # fmt: skip
    columns = [
        "connections",
        "options",
        "requests",
        "per s",
        "broken",
        "503",
        "late",
        "lost",
        "p50 ms",
        "p99 ms",
        "most",
    ]
    show(f"wrk for {SECONDS} s on the same machine · {describe_machine()}", columns, rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        home = make_device(Path(scratch))
        show_overhead(home)
        show_import()
        if shutil.which("wrk"):
            show_load(home, Path(scratch))
        else:
            print("\nwithout `wrk` there is no load: apt-get install wrk")


if __name__ == "__main__":
    main()
