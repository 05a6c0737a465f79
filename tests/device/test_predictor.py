"""The predictor says what the network says, whatever a sample comes as, and leaves a release that gives NaN."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeopt.device
from edgeopt import backends
from edgeopt.backends import Arrays
from edgeopt.bundle import Bundle
from edgeopt.bundle.trust import verify_root
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.home import Home
from edgeopt.device.images import read_image
from edgeopt.device.predictor import Predictor
from edgeopt.device.watching import Outcome, Seconds
from edgeopt.errors import BackendError, DataError, DeviceError, TrustError, UsageError
from tests.device.pictures import (
    BLUE,
    CLASSES,
    GREEN,
    RED,
    SIZE,
    WHITE,
    encode,
    make_bundle,
    make_release,
    picture,
    scores_of,
    softmax,
    use_release,
)
from tests.signers import Holders

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


class Notes:
    """A watch that writes down what it is told."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, Seconds]] = []
        self.outcomes: list[Outcome] = []
        self.made: list[str] = []

    def answered(self, inputs: Arrays, outputs: Arrays, seconds: Seconds) -> None:
        self.batches.append((len(inputs["image"]), len(outputs["scores"]), seconds))

    def failed(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def make(self, bundle: Bundle, home: Home | None) -> Notes:
        self.made.append(bundle.manifest.digest())
        return self


Start = Callable[..., Home]


@pytest.fixture
def start(home: Home, holders: Holders, tmp_path: Path) -> Start:
    """Installs releases of these kinds one after another; the last one is in use, and the first may be gone back to."""

    def start(*kinds: str, unseen: bool = True, **options: Any) -> Home:
        for counter, kind in enumerate(kinds, start=1):
            use_release(home, make_release(tmp_path, holders, counter, kind, **options), unseen=unseen)
        return home

    return start


def test_a_sample_may_be_an_array_a_file_its_bytes_or_inputs_by_name(tmp_path: Path) -> None:
    (tmp_path / "green.png").write_bytes(encode(GREEN))
    with edgeopt.device.load(make_bundle(tmp_path)) as predictor:
        for sample in (GREEN, tmp_path / "green.png", encode(GREEN), encode(GREEN, "BMP"), {"image": GREEN}):
            found = predictor.predict(sample)
            assert (found.label, found.index) == ("green", 1)
            assert found.score == pytest.approx(softmax(scores_of(GREEN))[1], abs=1e-6)
            np.testing.assert_allclose(found.outputs["scores"], scores_of(GREEN), rtol=1e-6)


def test_as_many_classes_are_named_as_asked_for_best_first(tmp_path: Path) -> None:
    with edgeopt.device.load(make_bundle(tmp_path)) as predictor:
        likely = softmax(scores_of(BLUE))
        for top in (1, 2, 3, 99):
            found = predictor.predict(BLUE, top).top
            assert [one.label for one in found] == ["blue", "green", "red"][:top]
            assert [one.score for one in found] == pytest.approx([likely[one.index] for one in found], abs=1e-6)


def test_scores_that_are_probabilities_already_are_left_as_they_are(tmp_path: Path) -> None:
    with edgeopt.device.load(make_bundle(tmp_path, "softmax")) as predictor:
        assert predictor.predict(RED).score == pytest.approx(softmax(scores_of(RED))[0], abs=1e-6)


def test_without_labels_a_class_is_called_by_its_number(tmp_path: Path) -> None:
    with edgeopt.device.load(make_bundle(tmp_path, classes=None)) as predictor:
        assert predictor.predict(BLUE).label == "2"


@pytest.mark.parametrize(
    ("kind", "classes"), [("two outputs", None), ("means", ("cat", "dog")), ("two outputs", ("cat", "dog"))]
)
def test_a_network_that_is_no_classifier_is_answered_with_its_outputs(
    kind: str, classes: tuple[str, ...] | None, tmp_path: Path
) -> None:
    with edgeopt.device.load(make_bundle(tmp_path, kind, classes=classes)) as predictor:
        found = predictor.predict(RED, top=3)
    assert (found.top, found.label, found.index, found.score) == ((), None, None, None)
    np.testing.assert_allclose(found.outputs["scores"], scores_of(RED), rtol=1e-6)
    assert ("map" in found.outputs) == (kind == "two outputs")


@pytest.mark.parametrize("fixed", [True, False])
def test_many_samples_go_through_in_batches_of_the_size_that_was_proven(fixed: bool, tmp_path: Path) -> None:
    raws = [picture(20 * number, 250 - 20 * number, 90) for number in range(10)]
    notes = Notes()
    with edgeopt.device.load(make_bundle(tmp_path, batch=4, fixed=fixed), make_watch=notes.make) as predictor:
        found = predictor.predict_batch(raws)
        assert predictor.predict_batch([]) == []
    assert [one.label for one in found] == [CLASSES[int(scores_of(raw).argmax())] for raw in raws]
    for one, raw in zip(found, raws, strict=True):
        np.testing.assert_allclose(one.outputs["scores"], scores_of(raw), rtol=1e-5)
    assert [sizes[:2] for sizes in notes.batches] == [(4, 4), (4, 4), (2, 2)]
    assert all(0 < part < 1 for *_, seconds in notes.batches for part in seconds)


@pytest.mark.parametrize("fixed", [True, False])
def test_prepared_inputs_give_what_the_bare_session_gives(fixed: bool, tmp_path: Path) -> None:
    inputs = {"image": np.random.default_rng(0).random((6, 3, SIZE, SIZE)).astype(np.float32)}
    with edgeopt.device.load(make_bundle(tmp_path, batch=3, fixed=fixed)) as predictor:
        with backends.opened(predictor.bundle.artifact) as session:
            halves = [session.run({"image": inputs["image"][at : at + 3]})["scores"] for at in (0, 3)]
        np.testing.assert_array_equal(predictor.run(inputs)["scores"], np.concatenate(halves))
        with pytest.raises(DataError, match="NaN or infinity"):
            predictor.run({"image": np.full((1, 3, SIZE, SIZE), np.nan, np.float32)})
        with pytest.raises(BackendError, match="expected inputs `image`, got none"):
            predictor.run({})


def test_gray_networks_are_shown_gray_images_and_images_are_brought_to_size(tmp_path: Path) -> None:
    gray = np.full((1, SIZE, SIZE), 77, np.uint8)
    with edgeopt.device.load(make_bundle(tmp_path / "gray", channels=1, classes=None)) as predictor:
        np.testing.assert_allclose(predictor.predict(encode(gray)).outputs["scores"], scores_of(gray), rtol=1e-6)
    preprocess = Preprocess(resize=SIZE, crop=SIZE, channels="rgb", scale=1 / 255)
    large = np.repeat(np.repeat(GREEN, 5, axis=1), 7, axis=2)
    with edgeopt.device.load(make_bundle(tmp_path / "sized", preprocess=preprocess)) as predictor:
        np.testing.assert_allclose(predictor.predict(encode(large)).outputs["scores"], scores_of(GREEN), rtol=1e-6)


@pytest.mark.parametrize(
    ("sample", "what"),
    [
        (encode(RED)[:-26], "the sample cannot be read as an image"),
        (encode(RED, "JPEG")[:300], "the sample cannot be read as an image"),
        (b"", "the sample cannot be read as an image"),
        (b"no image at all", "the sample cannot be read as an image"),
        (encode(np.zeros((3, 40, 30), np.uint8)), r"the sample is too large: 30x40 pixels, at most 1000 are allowed"),
        (np.zeros((3, 9, 8), np.uint8), r"the sample has shape \[3, 9, 8\] once it is prepared"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"the sample has shape \[1, 3, 8, 8\] once it is prepared"),
        (np.full((3, 8, 8), np.nan), "the sample holds NaN or infinity once it is prepared"),
        (np.full((3, 8, 8), "red"), "the sample has dtype"),
        ({"picture": RED}, "the sample has the inputs `picture`"),
        ({}, "the sample has the inputs none"),
    ],
)  # fmt: skip
def test_a_sample_that_is_none_is_refused_and_nothing_else_is_harmed(sample: Any, what: str, tmp_path: Path) -> None:
    from edgeopt.device.predictor import load

    notes = Notes()
    with load(make_bundle(tmp_path), make_watch=notes.make, most_pixels=1000) as predictor:
        with pytest.raises(DataError, match=what):
            predictor.predict(sample)
        with pytest.raises(DataError, match=what.replace("the sample", "sample 2 of 2")):
            predictor.predict_batch([RED, sample])
        assert predictor.predict(RED).label == "red"
    assert notes.outcomes == []


def test_a_file_is_called_by_its_name_and_a_missing_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(encode(RED)[:-26])
    with pytest.raises(DataError, match=r"torn\.png` cannot be read as an image"):
        read_image(tmp_path / "torn.png")
    with pytest.raises(UsageError, match=r"cannot use .*none\.png`: no such file"):
        read_image(tmp_path / "none.png")


def test_an_image_has_the_bits_that_compiling_has(tmp_path: Path) -> None:
    from edgeopt.data.image_folder import load_image

    (tmp_path / "one.jpg").write_bytes(encode(np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8), "JPEG"))
    np.testing.assert_array_equal(read_image((tmp_path / "one.jpg").read_bytes()), load_image(tmp_path / "one.jpg"))


def test_what_is_loaded_is_verified_and_signed_where_a_root_is_given(
    holders: Holders, root: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    signed, trusted = make_release(tmp_path, holders, 1), verify_root(root)
    with edgeopt.device.load(signed, root=trusted) as predictor:
        assert predictor.predict(RED).label == "red"
        assert any((tmp_path / "scratch").iterdir())
    assert not any((tmp_path / "scratch").iterdir())
    with pytest.raises(TrustError, match="not signed"):
        edgeopt.device.load(signed.with_name("unsigned.edgeopt"), root=trusted)
    with pytest.raises(TrustError, match="not signed"):
        edgeopt.device.load(signed.with_name("bundle"), root=trusted)
    assert not any((tmp_path / "scratch").iterdir())
    (signed.with_name("bundle") / "model" / "model.onnx").write_bytes(b"another")
    with pytest.raises(TrustError, match="not what its manifest says"):
        edgeopt.device.load(signed.with_name("bundle"))


def test_what_is_no_bundle_is_refused(tmp_path: Path, home: Home) -> None:
    with pytest.raises(UsageError, match="no bundle file"):
        edgeopt.device.load(tmp_path / "nothing")
    with pytest.raises(DeviceError, match="no release is active"):
        edgeopt.device.load(home.folder)
    with pytest.raises(UsageError, match="has a root of its own"):
        edgeopt.device.load(home.folder, root=home.root())


def test_a_start_counts_until_the_first_answer(start: Start) -> None:
    home = start("means")
    predictor = edgeopt.device.load(home.folder)
    assert len(home.state().starting) == 1
    assert predictor.predict(RED).label == "red"
    assert not home.state().starting
    predictor.close()


def test_a_start_that_ends_in_order_has_not_failed_though_nobody_asked(start: Start) -> None:
    home = start("means", "softmax")
    used = home.state().current
    for _ in range(5):
        with edgeopt.device.load(home.folder):
            assert len(home.state().starting) == 1
    assert not home.state().starting
    assert (home.state().starts, home.state().current) == (0, used)


def test_a_release_that_gives_nan_is_left_and_the_one_before_answers_the_same_sample(start: Start) -> None:
    home, notes = start("means", "nan for white", unseen=False), Notes()  # which its smoke test does not see
    bad, good = home.state().current, home.state().previous
    assert bad is not None
    with edgeopt.device.load(home.folder, make_watch=notes.make) as predictor:
        assert predictor.predict(RED).label == "red"
        assert predictor.digest == bad
        found = predictor.predict(WHITE)
        np.testing.assert_allclose(found.outputs["scores"], scores_of(WHITE), rtol=1e-6)
        assert predictor.digest == good
    state = home.state()
    assert (state.current, state.starts) == (good, 0)
    assert state.releases[bad].bad == "nonfinite outputs"
    assert state.events[-1].kind == "fallback"
    assert notes.outcomes == ["nonfinite"]
    assert notes.made == [bad, good]


def test_threads_that_are_answered_meanwhile_notice_nothing_of_a_fall_back(start: Start) -> None:
    home = start("means", "nan for white")
    gate = threading.Barrier(8)
    with edgeopt.device.load(home.folder) as predictor, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> list[bool]:
            raws = [WHITE if (step + number) % 7 == 3 else picture(step, number, 99) for step in range(60)]
            gate.wait()
            made = [predictor.predict(raw).outputs["scores"] for raw in raws]
            return [np.allclose(one, scores_of(raw), rtol=1e-5) for one, raw in zip(made, raws, strict=True)]

        assert all(all(right) for right in pool.map(ask, range(8)))
    assert [one.kind for one in home.state().events].count("fallback") == 1


def test_a_batch_is_answered_by_one_release_after_another_where_its_second_half_gives_nan(start: Start) -> None:
    home = start("means", "nan for white")
    with edgeopt.device.load(home.folder) as predictor:
        found = predictor.predict_batch([RED, WHITE, BLUE])
    np.testing.assert_allclose(
        [one.outputs["scores"] for one in found], [scores_of(raw) for raw in (RED, WHITE, BLUE)], rtol=1e-6
    )


def test_prepared_inputs_are_not_given_to_a_release_that_prepares_otherwise(
    start: Start, holders: Holders, tmp_path: Path
) -> None:
    home = start("means", preprocess=Preprocess(scale=1 / 127))
    use_release(home, make_release(tmp_path, holders, 2, "nan for white"), unseen=True)
    with edgeopt.device.load(home.folder) as predictor:
        with pytest.raises(DeviceError, match="prepares otherwise"):
            predictor.run({"image": np.ones((1, 3, SIZE, SIZE), np.float32)})
        assert predictor.digest == home.state().current


def test_the_only_release_is_kept_and_answers_what_it_can(start: Start) -> None:
    home = start("nan for white")
    with edgeopt.device.load(home.folder) as predictor:
        for _ in range(3):
            with pytest.raises(DeviceError, match=r"`colours` [0-9a-f]{12} gives NaN or infinity") as caught:
                predictor.predict(WHITE)
            assert caught.value.exit_code == 6
        assert predictor.predict(RED).label == "red"
    assert [one.kind for one in home.state().events].count("refused") == 1


def test_a_bundle_that_is_on_no_device_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    with edgeopt.device.load(make_bundle(tmp_path, "nan for white")) as predictor:
        with pytest.raises(DeviceError, match="gives NaN or infinity"):
            predictor.predict(WHITE)
        assert predictor.predict(RED).label == "red"
    with pytest.raises(DeviceError, match="gives NaN or infinity"):
        edgeopt.device.load(make_bundle(tmp_path, "nan"))


def test_whoever_sends_samples_cannot_turn_a_device_back(start: Start) -> None:
    home = start("means", "overflow")
    used = home.state().current
    with edgeopt.device.load(home.folder) as predictor:
        assert predictor.predict(WHITE).label == "red"  # all three colours are alike: the first one is named
        with pytest.raises(DataError, match="values beyond all that the network is known to take"):
            predictor.predict(np.full((3, SIZE, SIZE), 1e5, np.float32))
        assert predictor.digest == used == home.state().current


def test_a_release_that_gives_nan_for_its_own_samples_is_left_as_it_opens(start: Start) -> None:
    home = start("means", "nan")
    good, bad = home.state().previous, home.state().current
    assert bad is not None
    with edgeopt.device.load(home.folder) as predictor:
        assert predictor.digest == good == home.state().current
        assert predictor.predict(RED).label == "red"
    assert home.state().releases[bad].bad


def test_a_start_that_found_no_release_to_trust_is_no_start(start: Start) -> None:
    home = start("nan")
    for _ in range(2):
        with pytest.raises(DeviceError, match="gives NaN or infinity"):
            edgeopt.device.load(home.folder)
    assert (home.state().starts, len(home.state().starting)) == (1, 1)


def test_a_closed_predictor_answers_no_more_but_what_it_has_begun(start: Start) -> None:
    predictor = edgeopt.device.load(start("slow for white").folder)
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(predictor.predict, WHITE)
        while predictor._current._opened is not None and not predictor._current._opened.users:
            pass
        predictor.close()
        predictor.close()
        with pytest.raises(DeviceError, match="the predictor is closed"):
            predictor.predict(RED)
        np.testing.assert_allclose(begun.result().outputs["scores"], scores_of(WHITE), rtol=1e-6)


def test_a_runtime_that_fails_is_told_to_the_watch(tmp_path: Path) -> None:
    notes = Notes()
    wrong = {"image": np.zeros((1, 3, 9, 9), np.float32)}
    predictor = edgeopt.device.load(make_bundle(tmp_path), make_watch=notes.make)
    with predictor, pytest.raises(BackendError, match="expected `image`"):
        predictor.run(wrong)
    assert notes.outcomes == ["error"]


def test_importing_the_package_alone_loads_no_predictor() -> None:
    code = "import sys, edgeopt.device; print(*[one for one in sys.modules if one in ('numpy', 'pydantic', 'PIL')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == ""


def test_the_interface_is_what_load_gives(tmp_path: Path) -> None:
    with edgeopt.device.load(str(make_bundle(tmp_path))) as predictor:
        assert isinstance(predictor, Predictor)
        assert (predictor.batch, predictor.threads) == (1, 1)
        assert predictor.bundle.manifest.name == "colours"
