"""What the options of `openvino_cpu` change: how it is opened, who runs at once, and what is kept."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt import environment, onnx_graph, openvino_sessions
from edgeopt.backends.openvino_cpu import OpenvinoCpu
from edgeopt.context import Context
from edgeopt.errors import BackendError
from edgeopt.model import Artifact, Model

if environment.library_version("openvino") is None:  # looked up, and not imported: see `openvino_sessions`
    pytest.skip("OpenVINO is not installed", allow_module_level=True)


def build(model: Model, folder: Path, threads: int = 2, **options: Any) -> Artifact:
    context = Context(folder=folder, target="here", threads=threads)
    return OpenvinoCpu(**options).build(model, context, folder)


def run(artifact: Artifact) -> Any:
    inputs = onnx_graph.random_inputs(artifact.inputs, 1, seed=0)
    with OpenvinoCpu().open(artifact) as session:
        return session.run(inputs)["output"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each compiled model of OpenVINO that the backend has opened."""
    found = []
    open_network = openvino_sessions.open_network

    def watched(*arguments: Any) -> Any:
        found.append(open_network(*arguments))
        return found[-1]

    monkeypatch.setattr(openvino_sessions, "open_network", watched)
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("LATENCY", "1", "False")),
        ({"hint": "throughput"}, ("THROUGHPUT", "2", "False")),
        ({"hint": "throughput", "streams": 1, "pinning": True}, ("THROUGHPUT", "1", "True")),
    ],
)
def test_an_artifact_opens_with_the_options_that_it_was_built_with(
    onnx_model: Model, tmp_path: Path, opened: list[Any], options: dict[str, Any], expected: tuple[str, ...]
) -> None:
    OpenvinoCpu().open(build(onnx_model, tmp_path, **options))
    (compiled,) = opened
    names = ("PERFORMANCE_HINT", "NUM_STREAMS", "ENABLE_CPU_PINNING")
    assert tuple(str(compiled.get_property(name)) for name in names) == expected
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_an_artifact_of_before_there_were_options_opens_as_it_did(
    onnx_model: Model, tmp_path: Path, opened: list[Any]
) -> None:
    artifact = build(onnx_model, tmp_path)
    old = artifact.model_copy(update={"settings": {"threads": 1, "batch": 1}})
    OpenvinoCpu().open(old)
    assert str(opened[0].get_property("PERFORMANCE_HINT")) == "LATENCY"
    assert opened[0].get_property("INFERENCE_NUM_THREADS") == 1


def test_streams_serve_several_callers_with_the_same_numbers(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path, hint="throughput")
    inputs = [onnx_graph.random_inputs(artifact.inputs, 1, seed=seed) for seed in range(4)]
    with OpenvinoCpu().open(artifact) as session:
        expected = [session.run(each)["output"] for each in inputs]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda number: session.run(inputs[number % 4])["output"], range(80)))
    for number, output in enumerate(found):
        np.testing.assert_array_equal(output, expected[number % 4])


def test_streams_want_the_other_hint_and_a_thread_each(onnx_model: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hint: throughput"):
        OpenvinoCpu(streams=2)
    with pytest.raises(BackendError, match="`streams: 3` do not go into 2 threads") as caught:
        build(onnx_model, tmp_path, hint="throughput", streams=3)
    assert "`threads`" in caught.value.hint


def test_every_alternative_opens_and_agrees(onnx_model: Model, tmp_path: Path) -> None:
    for options, expected in (
        ({}, {"hint throughput", "pinning on"}),
        ({"hint": "throughput", "streams": 2, "pinning": True}, {"hint latency"}),
    ):
        artifact = build(onnx_model, tmp_path / str(len(options)), **options)
        found = OpenvinoCpu().alternatives(artifact)
        assert set(found) == expected
        for name, other in found.items():
            assert other.files == artifact.files
            assert other.digest() != artifact.digest(), name
            np.testing.assert_allclose(run(other), run(artifact), rtol=1e-4, atol=1e-5, err_msg=name)


def test_one_thread_leaves_nothing_to_try(onnx_model: Model, tmp_path: Path) -> None:
    assert OpenvinoCpu().alternatives(build(onnx_model, tmp_path, threads=1)) == {}


def test_bfloat16_is_refused_where_a_cpu_has_none_and_never_dropped(onnx_model: Model, tmp_path: Path) -> None:
    if "amx_int8" in environment.cpu()[1]:
        pytest.skip("this CPU has AMX")
    with pytest.raises(BackendError, match="`bf16` needs a CPU with AMX"):
        build(onnx_model, tmp_path, bf16=True)
    context = Context(folder=tmp_path, target="there", isa=("avx2", "avx512f", "avx512_vnni", "amx_int8"))
    artifact = OpenvinoCpu(bf16=True).build(onnx_model, context, tmp_path)
    assert artifact.requires["isa"].endswith(" amx")
    with pytest.raises(BackendError, match="computes in f32 on this CPU, and was asked for bf16"):
        OpenvinoCpu().open(artifact)


def memos(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.memo"))


def test_a_compiled_network_is_kept_and_opened_again(
    onnx_model: Model, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = build(onnx_model, tmp_path / "built", cache=True)
    expected = run(artifact)
    assert len(memos(cache)) == 1
    assert [path.name for path in artifact.folder.iterdir()] == ["model.onnx"]
    with monkeypatch.context() as patch:
        patch.setattr(openvino_sessions, "_open", lambda *_: pytest.fail("it was compiled again"))
        np.testing.assert_array_equal(run(artifact), expected)
        np.testing.assert_array_equal(run(build(onnx_model, tmp_path / "again", cache=True)), expected)


def test_nothing_is_kept_unless_it_is_asked_for(onnx_model: Model, tmp_path: Path, cache: Path) -> None:
    run(build(onnx_model, tmp_path / "built"))
    assert not cache.exists()


def test_what_is_kept_is_for_one_network_one_cpu_and_one_way_to_open_it(
    onnx_model: Model, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(onnx_model, tmp_path / "built", cache=True)
    run(first)
    run(build(onnx_model, tmp_path / "one thread", threads=1, cache=True))
    assert len(memos(cache)) == 2
    with monkeypatch.context() as patch:
        patch.setattr(environment, "cpu", lambda: ("another CPU", ("avx2",)))
        run(first)
    assert len(memos(cache)) == 3
    graph = onnx_graph.load_graph(first.folder / "model.onnx")
    graph.graph.name = "another"
    onnx_graph.save_graph(graph, first.folder / "model.onnx")
    run(first)
    assert len(memos(cache)) == 4


def test_a_damaged_network_is_compiled_again(onnx_model: Model, tmp_path: Path, cache: Path) -> None:
    artifact = build(onnx_model, tmp_path / "built", cache=True)
    expected = run(artifact)
    (memo,) = memos(cache)
    sound = memo.read_bytes()
    for damaged in (b"", sound[: len(sound) // 2], sound[:-1] + bytes([sound[-1] ^ 1])):
        memo.write_bytes(damaged)
        np.testing.assert_array_equal(run(artifact), expected)
        assert len(memo.read_bytes()) == len(sound)


def test_a_place_that_cannot_be_written_is_named(
    onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("EDGEOPT_CACHE", os.fspath(tmp_path / "file"))
    artifact = build(onnx_model, tmp_path / "built", cache=True)
    with pytest.raises(Exception, match="file") as caught:
        OpenvinoCpu().open(artifact)
    assert type(caught.value).__module__ == "edgeopt.errors"
