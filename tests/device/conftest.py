"""A device's home, and signed releases for it: tiny real networks, good and bad, and a backend that ends as told."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt import registry
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.manifest import Smoke
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.bundle.trust import Root
from edgeopt.bundle.verify import verify_bundle
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.home import Device, Home, make_home
from edgeopt.model import Artifact, TensorSpec, list_files
from tests.signers import Holders

# Workers find the backend as they find any third party's.
sys.path.insert(0, str(Path(__file__).parent))

#: raw samples; the second one is negative in places
IMAGES = (np.array([1, 2, 3, 4], np.float32), np.array([-1, 2, -3, 4], np.float32))
GOLDEN = tuple(Golden({"image": image}, {"scores": 10 * image}) for image in IMAGES)

PASS = ({"budget": "size.max_mb", "verdict": "pass", "margin": 0.1, "sentence": "small"},)


def write_network(kind: str, path: Path) -> None:
    """An ONNX graph: `sound` multiplies by ten, as the golden samples say, and the others do something else."""
    from onnx import TensorProto, helper, save

    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes"]), helper.make_node("Identity", ["old"], ["new"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("old", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("new", TensorProto.FLOAT, None),
        ],
    )
    node = helper.make_node
    nodes = {
        "sound": [node("Mul", ["image", "ten"], ["scores"])],
        "other": [node("Mul", ["image", "eleven"], ["scores"])],
        "close": [node("Mul", ["image", "nearly_ten"], ["scores"])],
        "nan": [node("Mul", ["image", "nan"], ["scores"])],
        "infinite": [node("Div", ["image", "zero"], ["scores"])],
        "nan_for_negatives": [
            node("Log", ["image"], ["log"]), node("Mul", ["log", "zero"], ["nothing"]),
            node("Mul", ["image", "ten"], ["product"]), node("Add", ["product", "nothing"], ["scores"]),
        ],
        "wider": [node("Mul", ["image", "ten"], ["m"]), node("Concat", ["m", "m"], ["scores"], axis=1)],
        "endless": [
            node("Mul", ["image", "ten"], ["product"]), node("Loop", ["turns", "yes", "product"], ["scores"], body=body)
        ],
        "unfit": [node("MatMul", ["image", "ten"], ["product"]), node("Reshape", ["product", "turns"], ["scores"])],
    }[kind]  # fmt: skip
    numbers = {"ten": 10, "eleven": 11, "nearly_ten": 10.001, "nan": np.nan, "zero": 0}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in numbers.items()]
    constants.append(helper.make_tensor("turns", TensorProto.INT64, [], [2**62]))
    constants.append(helper.make_tensor("yes", TensorProto.BOOL, [], [1]))
    used = {name for one in nodes for name in one.input}
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [constant for constant in constants if constant.name in used],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@dataclass(frozen=True)
class Releases:
    """Makes signed bundles."""

    folder: Path
    holders: Holders

    def make(
        self, counter: int = 1, kind: str = "sound", *, fate: str | None = None, name: str = "digits",
        signers: tuple[str, ...] = ("cat",), compatible: dict[str, str] | None = None,
        golden: tuple[Golden, ...] = GOLDEN, smoke: Smoke | None = None, batch: int = 1, **terms: Any,
    ) -> Path:  # fmt: skip
        """A bundle file; `fate` is what becomes of whoever runs it, in place of a network."""
        label = f"{name}-{(fate or kind).split()[0]}-{counter}"
        built = self.folder / "built"
        built.mkdir(exist_ok=True)
        if fate is None:
            write_network(kind, built / "model.onnx")
        else:
            (built / "model.onnx").write_text(fate)
        artifact = Artifact(
            target="x86", backend="onnxruntime_cpu" if fate is None else "doomed",
            files=list_files(built, ["model.onnx"]), inputs=(TensorSpec(name="image", shape=("batch", 4)),),
            outputs=(TensorSpec(name="scores", shape=("batch", 4)),), requires={},
            settings={"threads": 1, "batch": batch}, folder=built,
        )  # fmt: skip
        contents = Contents(
            name=name, target="x86", candidate="onnxruntime_cpu/fp32", artifact=artifact, preprocess=Preprocess(),
            classes=None, compatible=compatible or {}, recipe=f"# {label}\n".encode(), golden=golden,
            measurements=(), verdicts=PASS, smoke=smoke or Smoke(),
        )  # fmt: skip
        folder = pack_bundle(contents, self.folder / "folder").folder
        pack_file(folder, self.folder / f"{label}.edgeopt")
        path = self.folder / f"{label}-{len(list(self.folder.iterdir()))}.edgeopt"
        return self.holders.sign(self.folder / f"{label}.edgeopt", path, *signers, counter=counter, **terms)


def digest_of(file: Path) -> str:
    """The name that a release has on a device."""
    return verify_bundle(file).manifest.digest()


@pytest.fixture(scope="session")
def holders(tmp_path_factory: pytest.TempPathFactory) -> Holders:
    return Holders(tmp_path_factory.mktemp("holders"))


@pytest.fixture
def releases(holders: Holders, tmp_path: Path) -> Releases:
    (tmp_path / "made").mkdir()
    return Releases(tmp_path / "made", holders)


@pytest.fixture(scope="session")
def root(holders: Holders, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The trust root of the devices: Ann rules, Cat signs releases."""
    described = Root(version=1, root=holders.role("ann"), releases=holders.role("cat"))
    return holders.write_root(tmp_path_factory.mktemp("root") / "root.json", described, "ann")


@pytest.fixture
def make(tmp_path: Path, root: bytes) -> Callable[..., Home]:
    """Makes a device's home."""

    def make(name: str = "home", **described: Any) -> Home:
        make_home(tmp_path / name, root, Device(**described))
        return Home(tmp_path / name)

    return make


@pytest.fixture
def home(make: Callable[..., Home]) -> Home:
    return make()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the backend is installed as a third party's distribution."""
    folder = tmp_path_factory.mktemp("site")
    metadata = folder / "doomed-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: doomed\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[edgeopt.backends]\ndoomed = doomed_backend:Doomed\n")
    return folder


@pytest.fixture
def doomed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes `doomed` known as a backend, here and in workers."""
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget() -> None:
    importlib.invalidate_caches()
    for value in vars(registry).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
