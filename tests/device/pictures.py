"""Signed bundles of tiny networks that see colours: real graphs, small enough to know what they must answer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.golden import Golden
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.activate import activate
from edgeopt.device.home import Home
from edgeopt.device.install import install
from edgeopt.model import Artifact, TensorSpec, list_files
from tests.signers import Holders

CLASSES = ("red", "green", "blue")
SIZE = 8

#: trips of the loop that a white image costs: a second at least
TRIPS = 3_000_000


def picture(red: int, green: int, blue: int) -> NDArray[np.uint8]:
    """A raw image of one colour."""
    return np.broadcast_to(np.array([red, green, blue], np.uint8)[:, None, None], (3, SIZE, SIZE)).copy()


RED, GREEN, BLUE, WHITE = picture(200, 30, 10), picture(20, 180, 90), picture(0, 60, 220), picture(255, 255, 255)


def encode(raw: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(raw[0] if len(raw) == 1 else raw.transpose(1, 2, 0)).save(stream, kind)
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    """The bytes of an array's file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def scores_of(raw: NDArray[Any]) -> NDArray[np.float32]:
    """What the network makes of a raw image: three times the mean of each colour, in 0 … 1."""
    return np.asarray(3 * (raw.astype(np.float32) / 255).mean(axis=(1, 2)), np.float32)


def softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(scores.astype(np.float64))
    return np.asarray(powers / powers.sum())


def write_network(kind: str, path: Path, batch: int | str = "batch", channels: int = 3) -> None:
    """`means` gives `scores_of`; the others what their names say."""
    from onnx import TensorProto, helper, save

    node, value = helper.make_node, helper.make_tensor_value_info
    means = [node("GlobalAveragePool", ["image"], ["pooled"]), node("Flatten", ["pooled"], ["flat"])]
    head = [*means, node("Mul", ["flat", "three"], ["scores"])]
    body = helper.make_graph(
        [node("Identity", ["going"], ["goes"]), node("Identity", ["old"], ["new"])], "body",
        [value("turn", TensorProto.INT64, []), value("going", TensorProto.BOOL, []),
         value("old", TensorProto.FLOAT, None)],
        [value("goes", TensorProto.BOOL, []), value("new", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = {
        "means": head,
        "softmax": [
            *means, node("Mul", ["flat", "three"], ["logits"]), node("Softmax", ["logits"], ["scores"], axis=1)
        ],
        "two outputs": [*head, node("Identity", ["pooled"], ["map"])],
        # the root of what is left below 1 of the mean, times 0: NaN for white alone
        "nan for white": [
            *means, node("Sub", ["nearly_one", "flat"], ["rest"]), node("Sqrt", ["rest"], ["root"]),
            node("Mul", ["root", "zero"], ["nothing"]), node("Mul", ["flat", "three"], ["product"]),
            node("Add", ["product", "nothing"], ["scores"]),
        ],
        "overflow": [
            node("Mul", ["image", "huge"], ["large"]), node("Div", ["large", "huge"], ["back"]),
            node("GlobalAveragePool", ["back"], ["pooled"]), node("Flatten", ["pooled"], ["flat"]),
            node("Mul", ["flat", "three"], ["scores"]),
        ],
        "nan": [*means, node("Mul", ["flat", "nan"], ["scores"])],
        "slow for white": [
            *means, node("ReduceMin", ["flat"], ["least"], keepdims=0), node("Floor", ["least"], ["whole"]),
            node("Mul", ["whole", "trips"], ["count"]), node("Cast", ["count"], ["turns"], to=TensorProto.INT64),
            node("Mul", ["flat", "three"], ["product"]),
            node("Loop", ["turns", "yes", "product"], ["scores"], body=body),
        ],
    }[kind]  # fmt: skip
    numbers = {"three": 3, "zero": 0, "nearly_one": 0.999, "nan": np.nan, "huge": 1e38, "trips": TRIPS}
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, [] if name == "trips" else [1], [number])
        for name, number in numbers.items()
    ]
    constants.append(helper.make_tensor("yes", TensorProto.BOOL, [], [1]))
    used = {name for one in nodes for name in one.input}
    outputs = [value("scores", TensorProto.FLOAT, None)]
    outputs += [value("map", TensorProto.FLOAT, None)] if kind == "two outputs" else []
    graph = helper.make_graph(
        nodes, "colours", [value("image", TensorProto.FLOAT, [batch, channels, SIZE, SIZE])], outputs,
        [constant for constant in constants if constant.name in used],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def make_bundle(
    folder: Path, kind: str = "means", *, batch: int = 1, fixed: bool = False, channels: int = 3,
    preprocess: Preprocess | None = None, classes: tuple[str, ...] | None = CLASSES,
) -> Path:  # fmt: skip
    """A bundle's folder, not signed."""
    built = folder / "built"
    built.mkdir(parents=True, exist_ok=True)
    axis: int | str = batch if fixed else "batch"
    write_network(kind, built / "model.onnx", axis, channels)
    outputs = [TensorSpec(name="scores", shape=(axis, channels))]
    outputs += [TensorSpec(name="map", shape=(axis, channels, 1, 1))] if kind == "two outputs" else []
    artifact = Artifact(
        target="x86", backend="onnxruntime_cpu", files=list_files(built, ["model.onnx"]),
        inputs=(TensorSpec(name="image", shape=(axis, channels, SIZE, SIZE)),), outputs=tuple(outputs), requires={},
        settings={"threads": 1, "batch": batch}, folder=built,
    )  # fmt: skip
    golden = [
        Golden({"image": raw[:channels]}, {"scores": _expected(kind, raw[:channels])}) for raw in (RED, GREEN, BLUE)
    ]
    contents = Contents(
        name="colours", target="x86", candidate="onnxruntime_cpu/fp32", artifact=artifact,
        preprocess=preprocess or Preprocess(scale=1 / 255), classes=classes, compatible={},
        recipe=f"# {kind} {batch}\n".encode(), golden=tuple(golden), measurements=(),
        verdicts=({"budget": "size.max_mb", "verdict": "pass", "margin": 0.1, "sentence": "small"},),
    )  # fmt: skip
    return pack_bundle(contents, folder / "bundle").folder


def _expected(kind: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores = scores_of(raw)
    return softmax(scores).astype(np.float32) if kind == "softmax" else scores


def make_release(folder: Path, holders: Holders, counter: int, kind: str = "means", **options: Any) -> Path:
    """A signed `.edgeopt` file."""
    place = folder / f"release-{counter}"
    pack_file(make_bundle(place, kind, **options), place / "unsigned.edgeopt")
    return holders.sign(place / "unsigned.edgeopt", place / "signed.edgeopt", "cat", counter=counter)


def use_release(home: Home, path: Path, *, unseen: bool = False) -> str:
    """Install a release and use it; returns its digest.

    Args:
        unseen: without a smoke test, as if it had passed one.
    """
    digest = install(home, path).digest
    if unseen:
        home.write_state(home.state().activated(digest))
        return digest
    return activate(home).digest
