"""What is counted is what is told, as Prometheus' own parser reads it; and what it is told of rollbacks is true."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.fingerprint import Reference
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.manifest import Smoke
from edgeopt.bundle.pack import Contents, pack_bundle
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.cli import cli
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.activate import activate, roll_back
from edgeopt.device.drift import WINDOW
from edgeopt.device.home import Home, event
from edgeopt.device.install import install
from edgeopt.device.metrics import MetricsWatch, budget_s, gated_s, make_watch
from edgeopt.device.predictor import load
from edgeopt.device.recording import last_metrics, recording, textfile
from edgeopt.device.spool import Spool
from edgeopt.device.start import begin_start, fall_back
from edgeopt.device.traffic import BUCKETS
from edgeopt.device.watching import Seconds
from edgeopt.errors import TrustError
from edgeopt.model import Artifact, TensorSpec, list_files
from tests.device.conftest import GOLDEN, IMAGES, Releases

Pack = Callable[..., Bundle]

INPUTS = {"image": np.zeros((1, 4), np.float32)}
OUTPUTS = {"scores": np.array([[0.0, 0.0, 0.0, 1.0]], np.float32)}
P90 = {"metric": "latency.p90_ms", "unit": "ms", "value": 3.5, "high": 4.0, "simulated": False}


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Makes a bundle that nobody runs, with fields of its manifest as they are given."""

    def pack(**given: Any) -> Bundle:
        (tmp_path / "model.onnx").write_bytes(b"a network")
        artifact = Artifact(
            target="x86", backend="onnxruntime_cpu", files=list_files(tmp_path, ["model.onnx"]),
            inputs=(TensorSpec(name="image", shape=("batch", 4)),),
            outputs=(TensorSpec(name="scores", shape=("batch", 4)),),
            requires={"isa": "x86_64", "onnxruntime": "1.30"}, settings={"threads": 1}, folder=tmp_path,
        )  # fmt: skip
        fields: dict[str, Any] = {"measurements": (), "verdicts": (), **given}
        contents = Contents(
            name="digits", target="x86", candidate="onnxruntime_cpu/int8", artifact=artifact, preprocess=Preprocess(),
            classes=None, compatible={}, recipe=b"", golden=(Golden(INPUTS, OUTPUTS),), **fields,
        )  # fmt: skip
        return pack_bundle(contents, tmp_path / "bundle")

    return pack


def read(text: bytes | str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The series as Prometheus' own parser reads them: name and sorted labels → value."""
    families = text_string_to_metric_families(text.decode() if isinstance(text, bytes) else text)
    samples = [sample for family in families for sample in family.samples]
    found = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}
    assert len(found) == len(samples), "a series is told twice"
    return found


def value_of(text: bytes | str, name: str, **labels: str) -> float:
    return read(text)[(name, tuple(sorted(labels.items())))]


def test_each_answer_falls_into_the_bucket_of_every_stage(pack: Pack) -> None:
    watch = make_watch(pack())
    for infer in (0.0004, 0.0005, 0.0006, 0.9, 3.0):
        watch.answered(INPUTS, OUTPUTS, Seconds(0.01, infer, 0.0))
    name, labels = "edgeopt_inference_duration_seconds", {"model": "digits", "backend": "onnxruntime_cpu"}
    text = watch.render()
    ends = [*map(str, BUCKETS), "+Inf"]
    counts = {end: value_of(text, f"{name}_bucket", le=end, stage="infer", **labels) for end in ends}
    assert (counts["0.00025"], counts["0.0005"], counts["0.001"], counts["1.0"], counts["+Inf"]) == (0, 2, 3, 4, 5)
    assert list(counts.values()) == sorted(counts.values())
    assert value_of(text, f"{name}_count", stage="infer", **labels) == 5
    assert value_of(text, f"{name}_sum", stage="infer", **labels) == pytest.approx(3.9015)
    assert value_of(text, f"{name}_bucket", le="0.01", stage="pre", **labels) == 5
    assert value_of(text, f"{name}_bucket", le="0.0001", stage="post", **labels) == 5


def test_every_outcome_is_there_from_the_start_and_counts_its_own(pack: Pack) -> None:
    watch = make_watch(pack())
    watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
    for outcome in ("nonfinite", "nonfinite", "error"):
        watch.failed(outcome)  # type: ignore[arg-type]
    text = watch.render()
    told = {name: value_of(text, "edgeopt_inference_total", outcome=name) for name in ("ok", "nonfinite", "error")}
    assert told == {"ok": 1, "nonfinite": 2, "error": 1}
    assert value_of(text, "edgeopt_inference_total", outcome="timeout") == 0


def test_no_answer_of_many_threads_is_lost(pack: Pack) -> None:
    watch = make_watch(pack(measurements=(P90,)))

    def answer() -> None:
        for number in range(3000):
            watch.answered(INPUTS, OUTPUTS, Seconds(0.0, 0.004 if number % 3 else 0.006, 0.0))

    threads = [threading.Thread(target=answer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        read(watch.render())  # whoever scrapes meanwhile reads something sound
    for thread in threads:
        thread.join()
    text = watch.render()
    assert value_of(text, "edgeopt_inference_total", outcome="ok") == 24_000
    assert value_of(text, "edgeopt_inference_within_budget_total") == 16_000


def test_the_budget_is_the_recipes_or_a_quarter_more_than_what_was_measured(pack: Pack) -> None:
    with_budget = pack(measurements=(P90,), smoke=Smoke(p90_ms=9.0)).manifest
    measured = pack(measurements=(P90,)).manifest
    simulated = pack(measurements=({**P90, "simulated": True},)).manifest
    unbounded = pack(measurements=({**P90, "high": None},)).manifest
    assert (budget_s(with_budget), gated_s(with_budget)) == (0.009, 0.004)
    assert (budget_s(measured), gated_s(measured)) == (0.005, 0.004)
    assert (budget_s(simulated), gated_s(simulated)) == (None, None)
    assert gated_s(unbounded) == 0.0035
    assert value_of(make_watch(pack(measurements=(P90,))).render(), "edgeopt_latency_gated_seconds") == 0.004


def test_without_a_budget_no_budget_is_told(pack: Pack) -> None:
    told = {name for name, _ in read(make_watch(pack()).render())}
    assert not {"edgeopt_latency_budget_seconds", "edgeopt_latency_gated_seconds"} & told


def test_the_release_is_told_by_its_digest_and_how_it_runs(pack: Pack) -> None:
    bundle = pack()
    found = [dict(labels) for name, labels in read(make_watch(bundle).render()) if name == "edgeopt_release_info"]
    assert found == [
        {
            "model": "digits", "digest": bundle.manifest.digest(), "counter": "", "precision": "int8",
            "engine": "onnxruntime 1.30",
        }
    ]  # fmt: skip


def test_the_counter_is_that_of_the_signed_release(home: Home, releases: Releases) -> None:
    digest = install(home, releases.make(counter=7)).digest
    text = make_watch(home.bundle(digest), home).render()
    assert [dict(labels)["counter"] for name, labels in read(text) if name == "edgeopt_release_info"] == ["7"]


def test_drift_is_told_once_a_window_is_full_and_only_of_samples_that_are_apart(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference(edges=(0.25, 0.3), counts=(100, 100, 100))
    bundle = pack(fingerprint={"confidence": reference})
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watch = MetricsWatch(bundle, None, spacing_s=2.0)
    for number in range(2 * WINDOW - 1):
        clock[0] = float(number)
        watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
    assert value_of(watch.render(), "edgeopt_drift_windows_total") == 1
    assert value_of(watch.render(), "edgeopt_drift_alerts_total", signal="confidence") == 1
    score = value_of(watch.render(), "edgeopt_drift_score", signal="confidence")
    assert score > value_of(watch.render(), "edgeopt_drift_threshold", signal="confidence") > 0


def test_before_the_first_window_no_score_is_told(pack: Pack) -> None:
    watch = make_watch(pack(fingerprint={"input_mean": Reference(edges=(0.0,), counts=(100, 100))}))
    watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
    assert not [name for name, _ in read(watch.render()) if name == "edgeopt_drift_score"]


def test_rollbacks_are_told_by_their_reason_and_are_never_forgotten(home: Home, releases: Releases) -> None:
    digests = []
    for counter in (1, 2, 3):
        digests.append(install(home, releases.make(counter=counter)).digest)
        activate(home)
    watch = make_watch(home.bundle(digests[0]), home)
    fall_back(home, digests[2], "nonfinite outputs")
    activate(home, digests[2])
    for _ in range(4):
        begin_start(home)
    state = home.state()
    assert value_of(watch.render(), "edgeopt_rollback_total", reason="nonfinite") == 1
    assert value_of(watch.render(), "edgeopt_rollback_total", reason="starts") == 1
    for _ in range(100):  # more events than are kept
        state = state.noting(event("install", digests[0]))
    home.write_state(state)
    assert value_of(watch.render(), "edgeopt_rollback_total", reason="starts") == 1


def test_a_release_that_is_damaged_or_left_by_hand_is_told_too(home: Home, releases: Releases) -> None:
    digests = [install(home, releases.make(counter=counter)).digest for counter in (1, 2)]
    home.write_state(home.state().activated(digests[0]))
    activate(home)
    roll_back(home)
    roll_back(home)
    (home.path_of(home.state().current or "") / "recipe.yaml").write_text("changed")
    begin_start(home)
    assert home.state().rollbacks == {"operator": 2, "damaged": 1}


def test_a_state_that_cannot_be_read_is_said_and_costs_no_answer(home: Home, releases: Releases) -> None:
    watch = make_watch(unpack_bundle(releases.make(), home.folder / "elsewhere"), home)
    (home.folder / "state.json").write_text("{")
    watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
    with pytest.raises(TrustError, match="cannot be read"):
        watch.render()


def test_the_text_file_is_what_was_told_then(pack: Pack, tmp_path: Path) -> None:
    watch = make_watch(pack())
    watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
    watch.write_textfile(tmp_path / "collector" / "edgeopt.prom")
    watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
    written = (tmp_path / "collector" / "edgeopt.prom").read_bytes()
    assert value_of(written, "edgeopt_inference_total", outcome="ok") == 1
    assert [path.name for path in (tmp_path / "collector").iterdir()] == ["edgeopt.prom"]


def test_while_it_records_the_file_is_renewed_and_a_last_time_at_the_end(home: Home, pack: Pack) -> None:
    watch = make_watch(pack(), home)
    with recording(home, lambda: watch, seconds=0.02):
        watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
        deadline = time.monotonic() + 30
        while not textfile(home).is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert textfile(home).is_file()
        watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
    assert value_of(textfile(home).read_bytes(), "edgeopt_inference_total", outcome="ok") == 2
    kept = Spool(home).newest()
    assert kept is not None
    assert value_of(kept.text, "edgeopt_inference_total", outcome="ok") == 2


def test_a_full_disk_costs_no_answer_and_is_counted(home: Home, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = make_watch(pack(), home)

    def full(operation: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with recording(home, lambda: watch, seconds=600):
        monkeypatch.setattr(files, "observe", full)
    monkeypatch.undo()
    assert value_of(watch.render(), "edgeopt_snapshot_failures_total") == 1
    assert not textfile(home).exists()


def test_what_was_kept_last_is_printed_with_the_rollbacks_of_now(home: Home, pack: Pack, releases: Releases) -> None:
    watch = make_watch(pack(), home)
    watch.answered(INPUTS, OUTPUTS, Seconds(0, 0, 0))
    watch.write_textfile(textfile(home))
    for counter in (1, 2):
        install(home, releases.make(counter=counter))
        activate(home)
    for _ in range(4):  # one that cannot start keeps no metrics
        begin_start(home)
    found = last_metrics(home)
    assert value_of(found.text, "edgeopt_inference_total", outcome="ok") == 1
    assert value_of(found.text, "edgeopt_rollback_total", reason="starts") == 1
    assert found.age_s is not None
    assert found.age_s < 60


def test_the_command_prints_what_prometheus_reads(home: Home, pack: Pack) -> None:
    make_watch(pack(), home).write_textfile(textfile(home))
    done = CliRunner().invoke(cli, ["device", "metrics", "--home", str(home.folder)])
    assert done.exit_code == 0
    assert value_of(done.output, "edgeopt_inference_total", outcome="ok") == 0


def test_a_device_where_nothing_answers_yet_tells_its_rollbacks(home: Home) -> None:
    found = last_metrics(home)
    assert found.age_s is None
    assert read(found.text) == {}


def test_a_file_that_holds_no_metrics_is_named(home: Home) -> None:
    textfile(home).write_text("{ torn")
    with pytest.raises(TrustError, match="holds no metrics"):
        last_metrics(home)


def test_a_release_that_gives_nan_is_left_by_itself_and_shows_as_a_rollback(home: Home, releases: Releases) -> None:
    install(home, releases.make(counter=1))
    activate(home)
    install(home, releases.make(counter=2, kind="nan_for_negatives", golden=GOLDEN[:1]))
    activate(home)
    watches: list[MetricsWatch] = []

    def make(bundle: Bundle, home: Home | None) -> MetricsWatch:
        watches.append(make_watch(bundle, home))
        return watches[-1]

    with load(home.folder, make_watch=make) as predictor:
        assert predictor.predict(IMAGES[1]).outputs["scores"].tolist() == (10 * IMAGES[1]).tolist()
    bad, good = (watch.render() for watch in watches)
    assert value_of(bad, "edgeopt_inference_total", outcome="nonfinite") == 1
    assert value_of(good, "edgeopt_inference_total", outcome="ok") == 1
    assert value_of(good, "edgeopt_rollback_total", reason="nonfinite") == 1
