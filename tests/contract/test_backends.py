"""What every backend owes to the pipeline. A new file in `edgeopt/backends` is tested here the moment it exists."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeopt.backends import Arrays, Backend, Session, build_artifact, get, zeros
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, load_artifact, write_artifact
from edgeopt.network import make_network


@pytest.fixture
def backend(backend_name: str) -> Backend:
    found = get(backend_name)
    try:
        found.available()
    except MissingError as error:
        if "pip install" not in error.hint:
            raise
        pytest.skip(error.message)
    return found


@pytest.fixture
def artifact(backend_name: str, backend: Backend, models: dict[Form, Model], tmp_path: Path) -> Artifact:
    context = Context(folder=tmp_path / "built", target="here", batch=2)
    return build_artifact(backend_name, models[backend.accepts], context)


@pytest.fixture
def session(backend: Backend, artifact: Artifact) -> Session:
    return backend.open(artifact)


def images(seed: int, batch: int = 2) -> Arrays:
    return {"image": np.random.default_rng(seed).standard_normal((batch, 1, 16, 16)).astype(np.float32)}


def test_agrees_with_the_original(backend: Backend, session: Session, torch_model: Model) -> None:
    with torch.inference_mode():
        expected = make_network(torch_model)(torch.from_numpy(images(0)["image"])).numpy()
    found = session.run(images(0))["output"]
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    if not backend.simulated:
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_gives_exactly_the_outputs_that_the_artifact_names(session: Session, artifact: Artifact) -> None:
    assert list(session.run(zeros(artifact, 2))) == [spec.name for spec in artifact.outputs]


def test_survives_two_sessions(backend: Backend, artifact: Artifact) -> None:
    with backend.open(artifact) as one:
        with backend.open(artifact) as other:
            np.testing.assert_array_equal(one.run(images(0))["output"], other.run(images(0))["output"])
        np.testing.assert_array_equal(one.run(images(0))["output"], one.run(images(0))["output"])


def test_a_session_may_be_called_from_several_threads_at_once(session: Session) -> None:
    expected = [session.run(images(seed))["output"] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: session.run(images(number % 4))["output"], range(80)))
    for number, output in enumerate(found):
        np.testing.assert_allclose(output, expected[number % 4], rtol=1e-5, atol=1e-6)


def test_closes_twice_without_complaint(session: Session) -> None:
    session.run(images(0))
    session.close()
    session.close()


def test_returned_arrays_belong_to_the_caller(session: Session) -> None:
    given = images(0)
    first = session.run(given)["output"]
    kept = first.copy()
    session.run(images(1))
    np.testing.assert_array_equal(first, kept)
    first += 1000
    np.testing.assert_array_equal(session.run(given)["output"], kept)
    np.testing.assert_array_equal(given["image"], images(0)["image"])


def test_takes_arrays_of_any_layout(session: Session) -> None:
    array = images(0)["image"]
    backwards = np.ascontiguousarray(array[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
    frozen = array.copy()
    frozen.setflags(write=False)
    expected = session.run({"image": array})["output"]
    for other in (backwards, frozen):
        np.testing.assert_array_equal(session.run({"image": other})["output"], expected)


@pytest.mark.parametrize(
    ("inputs", "expected", "found"),
    [
        ({}, "`image`", "none"),
        ({"picture": images(0)["image"]}, "`image`", "`picture`"),
        (images(0) | {"more": images(0)["image"]}, "`image`", "`more`"),
        ({"image": images(0)["image"].astype(np.float64)}, "float32", "float64"),
        ({"image": images(0)["image"][:, :, :8]}, ", 1, 16, 16]", "[2, 1, 8, 16]"),
        ({"image": images(0)["image"][0]}, ", 1, 16, 16]", "[1, 16, 16]"),
    ],
    ids=["none", "renamed", "additional", "dtype", "size", "rank"],
)
def test_wrong_inputs_are_named(session: Session, inputs: Arrays, expected: str, found: str) -> None:
    with pytest.raises(BackendError) as caught:
        session.run(inputs)
    before, _, after = caught.value.message.partition("got")
    assert expected in before
    assert found in after


def test_an_artifact_opens_wherever_its_files_lie(backend: Backend, artifact: Artifact, tmp_path: Path) -> None:
    expected = backend.open(artifact).run(images(0))["output"]
    write_artifact(artifact, artifact.folder)
    shutil.move(artifact.folder, tmp_path / "elsewhere")
    with backend.open(load_artifact(tmp_path / "elsewhere")) as moved:
        np.testing.assert_array_equal(moved.run(images(0))["output"], expected)


def test_an_artifact_lists_every_file_and_no_machine(artifact: Artifact, tmp_path: Path) -> None:
    present = {str(path.relative_to(artifact.folder)) for path in artifact.folder.rglob("*") if path.is_file()}
    assert present == {file.path for file in artifact.files}
    assert artifact.size_bytes == sum((artifact.folder / name).stat().st_size for name in present)
    for name in present:
        assert str(tmp_path).encode() not in (artifact.folder / name).read_bytes(), name


def test_the_same_model_gives_the_same_artifact(
    backend_name: str, backend: Backend, artifact: Artifact, models: dict[Form, Model], tmp_path: Path
) -> None:
    context = Context(folder=tmp_path / "again", target="here", batch=2)
    assert build_artifact(backend_name, models[backend.accepts], context).digest() == artifact.digest()


def test_remembers_what_it_was_built_for(artifact: Artifact, backend_name: str) -> None:
    assert (artifact.target, artifact.backend) == ("here", backend_name)
    assert (artifact.settings["threads"], artifact.settings["batch"]) == (1, 2)


def test_its_profile_is_whole(backend: Backend) -> None:
    profile = backend.profile()
    if profile is None:
        pytest.skip("it runs no integers")
    assert QuantizationProfile.model_validate_json(profile.model_dump_json()) == profile
    assert set(profile.weight_axes) <= set(profile.quantized_ops)
    assert set(profile.float_output_ops) <= set(profile.quantized_ops)
    assert not set(profile.quantized_ops) & set(profile.passthrough_ops)
