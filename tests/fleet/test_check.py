"""What `fleet check` concludes of answers that were really counted, and what it makes of files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeopt.bundle import Bundle
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.manifest import Smoke
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.bundle.verify import load_bundle
from edgeopt.cli import cli
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.drift import Score
from edgeopt.device.home import Home
from edgeopt.device.metrics import MetricsWatch, make_watch
from edgeopt.device.spool import Spool
from edgeopt.device.watching import Seconds
from edgeopt.errors import DataError, DeviceError, EdgeoptError, TrustError, UsageError
from edgeopt.fleet.check import check_fleet, newest_counter, p90_of, render_table
from edgeopt.fleet.field import Field, add_up, ask_field, ask_fields, parse_field, read_field
from edgeopt.fleet.inventory import FleetDevice, Inventory
from edgeopt.model import Artifact, TensorSpec, list_files
from tests.local_device import LocalTransport, make_device
from tests.sshd import Server

Count = Callable[..., MetricsWatch]

ARRAYS = {"image": np.zeros((1, 4), np.float32)}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle that nobody runs, with a budget of 5 ms, proven at a p90 of 4 ms."""
    (tmp_path / "model.onnx").write_bytes(b"a network")
    spec = (TensorSpec(name="image", shape=("batch", 4)),)
    artifact = Artifact(
        target="x86", backend="onnxruntime_cpu", files=list_files(tmp_path, ["model.onnx"]), inputs=spec, outputs=spec,
        requires={}, settings={}, folder=tmp_path,
    )  # fmt: skip
    measured = ({"metric": "latency.p90_ms", "unit": "ms", "value": 3.5, "high": 4.0},)
    contents = Contents(
        name="digits", target="x86", candidate="onnxruntime_cpu/int8", artifact=artifact, preprocess=Preprocess(),
        classes=None, compatible={}, recipe=b"", golden=(Golden(ARRAYS, ARRAYS),), measurements=measured, verdicts=(),
        smoke=Smoke(p90_ms=5.0),
    )  # fmt: skip
    return pack_bundle(contents, tmp_path / "bundle")


@pytest.fixture
def count(bundle: Bundle) -> Count:
    """A watch of that bundle that was told of answers as slow as they are given, in milliseconds."""

    def count(*times_ms: float) -> MetricsWatch:
        watch = make_watch(bundle)
        for infer in times_ms:
            watch.answered(ARRAYS, ARRAYS, Seconds(0.0, infer / 1e3, 0.0))
        return watch

    return count


def field(watch: MetricsWatch) -> Field:
    return parse_field(watch.render().decode(), "it")


def verdict_of(watch: MetricsWatch) -> str:
    return check_fleet({"orin-7": field(watch)}).findings[0].verdict


def spread(slow: int, total: int = 2000) -> list[float]:
    """So many slow answers among so many."""
    return [9.0 if number < slow else 3.0 for number in range(total)]


def test_what_a_device_counted_is_what_is_read(count: Count, bundle: Bundle) -> None:
    found = field(count(*spread(20, 100)))
    assert (found.answers, found.within) == (100, 80)
    assert (found.budget_s, found.gated_s) == (0.005, 0.004)
    assert found.digest == bundle.manifest.digest()
    assert found.counter is None


@pytest.mark.parametrize(
    ("slow", "verdict"), [(0, "pass"), (120, "pass"), (190, "inconclusive"), (210, "inconclusive"), (320, "fail")]
)
def test_a_device_is_judged_by_how_many_answers_kept_to_the_budget(count: Count, slow: int, verdict: str) -> None:
    assert verdict_of(count(*spread(slow))) == verdict


@pytest.mark.parametrize(
    ("slow", "total", "verdict"), [(0, 280, "inconclusive"), (0, 290, "pass"), (9, 9, "inconclusive")]
)
def test_too_few_answers_decide_nothing(count: Count, slow: int, total: int, verdict: str) -> None:
    assert verdict_of(count(*spread(slow, total))) == verdict


def test_right_at_nine_tenths_a_wrong_pass_is_as_rare_as_stated(count: Count) -> None:
    random = np.random.default_rng(0)
    budget = {"budget_s": 0.005}
    verdicts = []
    for within in random.binomial(10_000, 0.9, 400):
        one = Field(buckets=((None, 10_000),), within=int(within), **budget)
        verdicts.append(check_fleet({"one": one}).findings[0].verdict)
    assert verdicts.count("pass") < 0.05 * 400
    assert verdicts.count("fail") < 0.05 * 400


def test_the_percentile_is_read_off_the_histogram_between_bounds_that_hold_it(count: Count) -> None:
    random = np.random.default_rng(1)
    times_ms = 3 * random.lognormal(sigma=0.3, size=5000)
    low, value, high = p90_of(field(count(*times_ms)).buckets)
    true = 3e-3 * np.exp(0.3 * 1.2815515655446004)
    assert low is not None
    assert value is not None
    assert high is not None
    assert low <= true <= high
    assert value == pytest.approx(true, rel=0.1)  # in a bucket from 3 to 5 ms


def test_a_percentile_above_all_buckets_has_no_upper_end(count: Count) -> None:
    low, value, high = p90_of(field(count(*[5000.0] * 1000)).buckets)
    assert (low, value, high) == (1.0, None, None)
    assert p90_of(()) == (None, None, None)
    assert p90_of(field(count(3.0)).buckets)[0::2] == (None, None)


def test_answers_of_any_number_are_judged_at_once() -> None:
    many = Field(buckets=((0.005, 10**12 - 1), (None, 10**12)), within=10**12 - 1, budget_s=0.005)
    assert check_fleet({"one": many}).findings[0].verdict == "pass"


def test_without_a_budget_nothing_is_measured() -> None:
    found = check_fleet({"one": Field(buckets=((None, 10_000),))})
    assert found.findings[0].verdict == "unmeasured"
    assert found.exit_code == 3


def test_metrics_that_nobody_has_kept_for_hours_measure_nothing(count: Count) -> None:
    old = field(count(*spread(0))).model_copy(update={"age_s": 7200.0})
    finding = check_fleet({"one": old}).findings[0]
    assert (finding.verdict, finding.sentence) == ("unmeasured", "nothing that answers has kept metrics for 2.0 h")


def test_the_exit_code_is_that_of_the_worst(count: Count) -> None:
    good, bad, few = field(count(*spread(0))), field(count(*spread(2000))), field(count())
    lost: EdgeoptError = DeviceError("no route to it")
    foreign: EdgeoptError = TrustError("it has another key")
    assert check_fleet({"a": good, "b": good}).exit_code == 0
    assert check_fleet({"a": good, "b": few}).exit_code == 3
    assert check_fleet({"a": few, "b": lost}).exit_code == 6
    assert check_fleet({"a": good, "b": foreign}).exit_code == 4
    assert check_fleet({"a": lost, "b": bad, "c": few}).exit_code == 1


def test_old_releases_drift_rollbacks_throttling_and_failures_are_noted() -> None:
    troubled = Field(
        counter=3, scores={"entropy": 0.5, "confidence": 0.1}, thresholds={"entropy": 0.2, "confidence": 0.2},
        rollbacks={"nonfinite": 2}, throttled={"heat": 31.4, "quota": 0.0}, outcomes={"ok": 9, "nonfinite": 4},
    )  # fmt: skip
    fine = Field(counter=5, rollbacks={"starts": 0})
    found = check_fleet({"a": troubled, "b": fine}).findings
    assert found[0].notes == (
        "runs counter 3, the newest is 5",
        "drift of entropy: 0.50, usual is up to 0.20",
        "was rolled back 2 times: nonfinite",
        "was slowed down for 31 s: heat",
        "4 batches without an answer: nonfinite",
    )
    assert found[1].notes == ()
    assert check_fleet({"b": fine}, newest=6).findings[0].notes == ("runs counter 5, the newest is 6",)


def test_drift_that_a_device_tells_is_noted(count: Count) -> None:
    watch = count(*spread(0, 300))
    watch._drift.scores["confidence"] = Score(0.4, 0.2)
    finding = check_fleet({"one": field(watch)}).findings[0]
    assert finding.verdict == "pass"  # it alerts, and does no more
    assert finding.notes == ("drift of confidence: 0.40, usual is up to 0.20",)


def test_of_a_spool_the_last_snapshot_of_each_process_counts(count: Count) -> None:
    first, second = field(count(*spread(10, 100))), field(count(*spread(10, 200)))
    third = field(count(*spread(50, 300)))
    runs = [
        one.model_copy(update={"started": at}) for one, at in ((first, 1.0), (second, 1.0), (third, 2.0))
    ]  # fmt: skip
    total = add_up(runs)
    assert (total.answers, total.within) == (500, 440)
    assert total.outcomes["ok"] == 500


def test_of_a_spool_only_the_release_that_runs_now_counts(count: Count) -> None:
    old = field(count(*spread(2000))).model_copy(update={"digest": "0" * 64, "started": 1.0})
    new = field(count(*spread(0, 500))).model_copy(update={"started": 2.0})
    assert add_up([old, new]).answers == 500
    assert add_up([]) == Field()


def test_files_of_each_kind_say_the_same(count: Count, tmp_path: Path) -> None:
    text = count(*spread(5, 100)).render().decode()
    device = make_device(tmp_path / "device")
    Spool(Home(device.home)).add(text)
    (tmp_path / "scraped.prom").write_text(text)
    (tmp_path / "kept.json").write_text(json.dumps({"age_s": None, "text": text}))
    (tmp_path / "spool.json").write_text(json.dumps(device.run("spool")))
    scraped, kept, spooled = (read_field(tmp_path / name) for name in ("scraped.prom", "kept.json", "spool.json"))
    assert scraped == kept == spooled
    assert scraped.answers == 100


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"{", b"[]", b'{"snapshots": 3}', b'{"text": 1}', b"{}", b"\xff\xfe",
     b"up 1\n", b"edgeopt_inference_duration_seconds_bucket 3\n", b'edgeopt_release_info{counter="x"} 1\n',
     b'edgeopt_inference_duration_seconds_bucket{stage="infer",le="x"} 3\n',
     b'edgeopt_inference_duration_seconds_bucket{stage="infer",le="+Inf"} NaN\n',
     b"edgeopt_latency_budget_seconds +Inf\n"],
)  # fmt: skip
def test_a_file_that_holds_something_else_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.prom").write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.prom` holds no metrics of a device"):
        read_field(tmp_path / "odd.prom")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_field(tmp_path / "absent.prom")


def test_a_device_that_is_asked_tells_what_it_has_kept(count: Count, tmp_path: Path) -> None:
    device = make_device(tmp_path)
    count(*spread(0)).write_textfile(device.home / "metrics.prom")
    found = ask_field("orin-7", device)
    assert found.answers == 2000
    assert found.age_s is not None
    assert device.asked == ["status", "metrics"]


def test_a_device_where_nothing_ran_yet_has_no_answers(tmp_path: Path) -> None:
    found = check_fleet({"orin-7": ask_field("orin-7", make_device(tmp_path))})
    assert (found.findings[0].verdict, found.exit_code) == ("unmeasured", 3)


def test_a_device_with_another_key_than_is_pinned_is_not_believed(tmp_path: Path) -> None:
    device = make_device(tmp_path)
    with pytest.raises(TrustError, match="is pinned"):
        ask_field("orin-7", LocalTransport(device.home, "0" * 64))


def test_a_fleet_is_asked_over_ssh(server: Server, place: Path, count: Count) -> None:
    count(*spread(0)).write_textfile(place / "metrics.prom")
    pins = server.pins
    there = FleetDevice(
        url=server.address(place), host_key=pins.host_key, identity=pins.identity, edgeopt=pins.edgeopt
    )  # fmt: skip
    gone = there.model_copy(update={"url": server.address(place.with_name("nothing"))})
    found = check_fleet(ask_fields(Inventory(devices={"there": there, "gone": gone})))
    assert [one.verdict for one in found.findings] == ["pass", "error"]
    assert "is no device's folder" in found.findings[1].sentence


def test_devices_that_cannot_be_reached_cost_no_other_its_place() -> None:
    pytest.importorskip("asyncssh")
    nowhere = {name: FleetDevice(url=f"ssh://nobody@127.0.0.1:1/{name}", host_key="ssh-ed25519 AAAA") for name in "ab"}
    found = check_fleet(ask_fields(Inventory(devices=nowhere)))
    assert [one.verdict for one in found.findings] == ["error", "error"]
    assert found.exit_code == 6


def test_the_counter_to_expect_is_that_of_a_signed_bundle(bundle: Bundle, tmp_path: Path) -> None:
    pack_file(bundle.folder, tmp_path / "digits.edgeopt")
    assert load_bundle(bundle.folder).release is None
    with pytest.raises(UsageError, match="is not signed"):
        newest_counter(tmp_path / "digits.edgeopt")


def test_the_command_tells_a_row_for_each_device_and_exits_by_the_worst(count: Count, tmp_path: Path) -> None:
    (tmp_path / "good.prom").write_bytes(count(*spread(0)).render())
    (tmp_path / "slow.prom").write_bytes(count(*spread(2000)).render())

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["fleet", "check", *arguments])
        return done.exit_code, done.output

    good, slow = ("--metrics", str(tmp_path / "good.prom")), ("--metrics", str(tmp_path / "slow.prom"))
    code, text = run(*good)
    assert code == 0
    assert "pass: 100.0 % of 2000 answers within 5 ms" in text
    code, text = run(*good, *slow)
    assert code == 1
    assert "fail: 0.0 % of 2000 answers within 5 ms, not 90 %" in text
    code, text = run(*slow, "--json")
    assert code == 1
    assert json.loads(text)["findings"][0]["device"] == "slow"


def test_the_command_without_a_device_says_what_it_takes() -> None:
    done = CliRunner().invoke(cli, ["fleet", "check"])
    assert isinstance(done.exception, UsageError)
    assert done.exception.hint == "name an inventory, or files by `--metrics`"


def test_the_table_has_a_line_for_each_device_and_each_note(count: Count) -> None:
    fields: dict[str, Field | EdgeoptError] = {"a": field(count(3.0)), "b": DeviceError("no route")}
    lines = render_table(check_fleet(fields)).splitlines()
    assert len(lines) == 3
    assert lines[2].endswith("error: no route")
