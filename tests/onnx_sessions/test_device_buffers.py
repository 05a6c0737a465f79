"""Buffers that are made once: tested on the CPU, which ONNX Runtime takes for a device like any other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import onnx_graph
from edgeopt.backends import Arrays
from edgeopt.model import Model, TensorSpec
from edgeopt.onnx_sessions import Opening, device_buffers, open_session
from edgeopt.onnx_sessions.device_buffers import DeviceBuffers

HOST = ("cpu", 0)


def images(seed: int, batch: int = 2) -> Arrays:
    return {"image": np.random.default_rng(seed).standard_normal((batch, 1, 16, 16)).astype(np.float32)}


@pytest.fixture
def buffers(onnx_model: Model) -> DeviceBuffers:
    session = open_session(str(onnx_model.path), Opening())
    return DeviceBuffers(session, onnx_model.inputs, onnx_model.outputs, HOST)


def test_gives_what_a_plain_run_gives(onnx_model: Model, buffers: DeviceBuffers) -> None:
    session = open_session(str(onnx_model.path), Opening())
    for seed, batch in ((0, 2), (1, 2), (2, 5), (3, 2)):
        expected = session.run(None, images(seed, batch))[0]
        np.testing.assert_array_equal(buffers(images(seed, batch))["output"], expected)


def test_outputs_belong_to_the_caller(buffers: DeviceBuffers) -> None:
    first = buffers(images(0))["output"]
    kept = first.copy()
    buffers(images(1))
    np.testing.assert_array_equal(first, kept)
    first += 1000
    np.testing.assert_array_equal(buffers(images(0))["output"], kept)


def test_buffers_are_taken_again_and_made_anew_for_another_shape_only(
    buffers: DeviceBuffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    new_value = device_buffers._new_value

    def counted(shape: tuple[int, ...], dtype: str, device: tuple[str, int]) -> object:
        made.append(shape)
        return new_value(shape, dtype, device)

    monkeypatch.setattr(device_buffers, "_new_value", counted)
    for seed, batch in ((0, 2), (1, 2), (2, 5), (3, 2), (4, 5)):
        buffers(images(seed, batch))
    assert made == [(2, 1, 16, 16), (2, 4), (5, 1, 16, 16), (5, 4)]


@pytest.mark.parametrize("alone", [False, True])
def test_several_threads_may_call_at_once(onnx_model: Model, alone: bool) -> None:
    session = open_session(str(onnx_model.path), Opening())
    buffers = DeviceBuffers(session, onnx_model.inputs, onnx_model.outputs, HOST, alone=alone)
    expected = [buffers(images(seed))["output"] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: buffers(images(number % 4))["output"], range(80)))
    for number, output in enumerate(found):
        np.testing.assert_array_equal(output, expected[number % 4])
    assert len(buffers._idle) == 1 if alone else 1 <= len(buffers._idle) <= 4


def test_no_more_buffers_are_kept_than_a_server_needs(buffers: DeviceBuffers) -> None:
    for batch in range(1, 2 * device_buffers.MOST_KEPT):
        buffers(images(0, batch))
    assert len(buffers._idle) == device_buffers.MOST_KEPT


def test_arrays_that_are_not_contiguous_are_copied_as_they_read(buffers: DeviceBuffers) -> None:
    image = images(0)["image"]
    turned = np.asfortranarray(image)
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(buffers({"image": turned})["output"], buffers({"image": image})["output"])


def reshape(folder: Path) -> tuple[str, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """(n, 3) → (m, 4), where m is not known before it runs."""
    nodes = [
        onnx.helper.make_node("Constant", [], ["shape"], value_ints=[-1, 4]),
        onnx.helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    sizes = {"x": ["n", 3], "y": ["m", 4]}
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in sizes.items()]
    opset = [onnx.helper.make_opsetid("", 18)]
    graph = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=opset, ir_version=8
    )
    onnx_graph.save_graph(graph, folder / "model.onnx")
    return str(folder / "model.onnx"), onnx_graph.input_specs(graph), onnx_graph.output_specs(graph)


def test_an_output_whose_shape_is_found_in_the_run_is_given_back(tmp_path: Path) -> None:
    path, inputs, outputs = reshape(tmp_path)
    buffers = DeviceBuffers(open_session(path, Opening()), inputs, outputs, HOST)
    for rows in (4, 8, 4):
        given = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_array_equal(buffers({"x": given})["y"], given.reshape(-1, 4))


def test_buffers_of_a_run_that_failed_are_not_taken_again(tmp_path: Path) -> None:
    path, inputs, outputs = reshape(tmp_path)
    buffers = DeviceBuffers(open_session(path, Opening()), inputs, outputs, HOST)
    with pytest.raises(Exception, match="Reshape"):
        buffers({"x": np.zeros((1, 3), np.float32)})
    assert buffers._idle == []
    assert buffers({"x": np.zeros((4, 3), np.float32)})["y"].shape == (3, 4)
