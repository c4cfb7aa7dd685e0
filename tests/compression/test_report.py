from dataclasses import replace

import pytest

from app.domain.errors import ObjectiveMissed
from app.domain.job import Objective
from app.domain.learning_task import METRICS, LearningTask
from app.domain.report import (
    DataFigures,
    Environment,
    FileAgreement,
    LatencyFigures,
    LatencyRatio,
    MetricDrop,
    MetricValue,
    Report,
)
from app.domain.steps.distill import DistillSpec
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec
from app.domain.steps.training import FinetuneSpec
from workers.compression.evaluation import Comparison
from workers.compression.figures import Counts
from workers.compression.footprint import Footprint
from workers.compression.pipeline import require_objective
from workers.compression.report import METRIC_WORDS, Findings, Profile, build_report

COUNTS = (Counts(400, 400, 9000), Counts(200, 190, 3000))
RECIPE = (FinetuneSpec(method="finetune"),)


def timed(found, *, noisy, baseline_p25_ms=1.0, compressed_p25_ms=1.0):
    """Give the findings with other timings of both files."""
    before, after = found.baseline.latency[0], found.compressed.latency[0]
    before = before.model_copy(update={"noisy": noisy, "p25_ms": baseline_p25_ms})
    after = after.model_copy(update={"noisy": noisy, "p25_ms": compressed_p25_ms})
    return replace(
        found,
        baseline=replace(found.baseline, latency=(before,)),
        compressed=replace(found.compressed, latency=(after,)),
    )


def findings(
    folder,
    *,
    sizes=(1000, 250),
    ratio=(3.0, (2.5, 3.5)),
    drop=(0.01, (-0.01, 0.03), 0.3),
    counts=COUNTS,
    task=LearningTask.CLASSIFICATION,
    metric="accuracy",
):
    profiles = []
    for name, size, counted in zip(("baseline", "model"), sizes, counts, strict=True):
        (folder / f"{name}.onnx").write_bytes(bytes(size))
        latency = LatencyFigures(
            runtime="onnxruntime-cpu", batch_size=1, threads=1, mean_ms=1, p25_ms=1, p50_ms=1, p75_ms=1, p90_ms=1,
            p95_ms=1, p99_ms=1, throughput_per_second=1000, runs=20, spread=0.02, noisy=False,
        )  # fmt: skip
        profiles.append(Profile(folder / f"{name}.onnx", counted, (latency,), Footprint(10_000, 5.0)))
    accuracy = MetricValue(value=0.9, ci95=(0.8, 1.0), samples=50)
    comparison = Comparison(
        task=task,
        metric=metric,
        baseline={metric: accuracy},
        compressed={metric: accuracy},
        drops={metric: MetricDrop(value=drop[0], ci95=drop[1], p_value=drop[2])},
        agreement=0.97,
        classes=(),
    )
    return Findings(
        baseline=profiles[0],
        compressed=profiles[1],
        comparison=comparison,
        latency_ratio=LatencyRatio(value=ratio[0], ci95=ratio[1]),
        steps=(),
        layers=(),
        files=FileAgreement(
            rows=50, equal_predictions=1, largest_difference=0.1, relative_difference=0.01, widest_tie=0
        ),
        data=DataFigures(train=1, calibration=0, validation=50, overlap=0),
        timed_rows={"input": (128,)},
        environment=Environment(cpu="", isa=(), threads=1, torch="", onnxruntime="", python="", service=""),
    )


def test_ratios_are_baseline_over_compressed(tmp_path):
    delta = build_report(findings(tmp_path), RECIPE, None, 0).delta
    assert (delta.size_ratio, delta.parameters_ratio, delta.macs_ratio) == (4, 2, 3)
    assert (delta.latency_ratio.value, delta.agreement) == (3.0, 0.97)


@pytest.mark.parametrize(
    ("macs", "ratio", "told"),
    [
        ((0, 0), 1, "multiplications are as many as before"),
        ((0, 3000), 0, "multiplications are new: the baseline has none"),
        ((9000, 0), 9000, "multiplications shrink 9000.00 times"),
    ],
)
def test_a_network_may_multiply_nothing(tmp_path, macs, ratio, told):
    counts = [Counts(400, 400, count) for count in macs]
    report = build_report(findings(tmp_path, counts=counts), RECIPE, None, 0)
    assert report.delta.macs_ratio == ratio
    assert told in report.verdict.reasons[1]


def test_the_recipe_has_its_defaults_and_the_report_reads_back(tmp_path):
    report = build_report(findings(tmp_path), RECIPE, Objective(max_drop=0.02), seed=7)
    stored = report.model_dump(mode="json")
    assert stored["recipe"][0]["learning_rate"] == 0.01
    assert stored["seed"] == 7
    assert Report.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(("max_drop", "met"), [(0.0, False), (0.0099, False), (0.01, True), (0.5, True)])
def test_the_objective_is_a_limit_on_the_drop(tmp_path, max_drop, met):
    # 0.3 − 0.29 is a hair above 0.01 in binary.
    report = build_report(findings(tmp_path, drop=(0.3 - 0.29, (0, 0.1), 0.1)), RECIPE, Objective(max_drop=max_drop), 0)
    assert report.objective.met is met
    assert report.verdict.as_accurate is met
    assert ("within" if met else "more than") in report.verdict.reasons[2]


def test_without_an_objective_a_drop_that_may_be_chance_is_as_accurate(tmp_path):
    assert build_report(findings(tmp_path), RECIPE, None, 0).verdict.as_accurate
    worse = findings(tmp_path, drop=(0.05, (0.02, 0.08), 0.001))
    verdict = build_report(worse, RECIPE, None, 0).verdict
    assert not verdict.as_accurate
    assert "0.0500" in verdict.reasons[2]


@pytest.mark.parametrize(
    ("drop", "as_accurate"),
    [
        # Four rows of 200 lost and none gained: McNemar's exact test says p = 0.125.
        ((0.02, (0.0025, 0.04), 0.125), True),
        ((0.03, (-0.001, 0.05), 0.03), False),
        ((-0.03, (-0.05, -0.01), 0.001), True),
    ],
)
def test_the_verdict_is_that_of_the_test_beside_it(tmp_path, drop, as_accurate):
    assert build_report(findings(tmp_path, drop=drop), RECIPE, None, 0).verdict.as_accurate is as_accurate


def test_an_embedding_is_not_judged_without_an_objective(tmp_path):
    found = findings(tmp_path, task=LearningTask.EMBEDDING, metric="cosine", drop=(1e-6, (1e-7, 2e-6), 0.0002))
    verdict = build_report(found, RECIPE, None, 0).verdict
    assert verdict.as_accurate is None
    assert "was not judged" in verdict.reasons[2]
    objective = Objective(metric="cosine", max_drop=0.01)
    assert build_report(found, RECIPE, objective, 0).verdict.as_accurate is True


def test_an_interval_without_width_is_no_certainty(tmp_path):
    found = findings(tmp_path, metric="macro_f1", drop=(0.0, (0.0, 0.0), 1.0))
    reason = build_report(found, RECIPE, None, 0).verdict.reasons[2]
    assert reason.startswith("Macro F1 stays as it was (")
    assert "the same in every resample; up to 6.0% of other rows may yet differ" in reason
    assert "0.0000 to 0.0000" not in reason


@pytest.mark.parametrize(
    ("sizes", "counts", "said"),
    [
        ((1000, 1000), (400, 400), "it has the baseline's size; parameters are as many as before, multiplications are"),
        ((1000, 1001), (400, 401), "it has 1.001 times the baseline's size; parameters grow 1.002 times"),
        ((1001, 1000), (400, 200), "The file is 1.001 times smaller; parameters shrink 2.00 times"),
    ],
)
def test_what_did_not_change_is_not_said_to_have_shrunk_once(tmp_path, sizes, counts, said):
    both = tuple(Counts(number, number, 9000) for number in counts)
    assert said in build_report(findings(tmp_path, sizes=sizes, counts=both), RECIPE, None, 0).verdict.reasons[1]


def test_the_shape_of_the_timed_rows_is_in_the_report(tmp_path):
    assert build_report(findings(tmp_path), RECIPE, None, 0).timed_rows == {"input": (128,)}


@pytest.mark.parametrize(
    ("noisy", "compressed_p25_ms", "slower"), [(False, 1.0, True), (True, 1.0, False), (True, 1.5, True)]
)
def test_slower_needs_the_same_as_faster(tmp_path, noisy, compressed_p25_ms, slower):
    found = findings(tmp_path, ratio=(0.8, (0.7, 0.9)))
    found = timed(found, noisy=noisy, compressed_p25_ms=compressed_p25_ms)
    reason = build_report(found, RECIPE, None, 0).verdict.reasons[0]
    assert ("It is slower" in reason) is slower
    assert ("not shown" in reason) is not slower


def test_faster_needs_the_whole_interval_and_smaller_the_bytes(tmp_path):
    good = build_report(findings(tmp_path), RECIPE, None, 0).verdict
    assert (good.faster, good.smaller) == (True, True)
    bad = build_report(findings(tmp_path, sizes=(100, 200), ratio=(1.2, (0.9, 1.5))), RECIPE, None, 0).verdict
    assert (bad.faster, bad.smaller) == (False, False)
    assert "not shown to be faster" in bad.reasons[0]
    assert "2.00 times the baseline's size" in bad.reasons[1]


@pytest.mark.parametrize(
    ("ratio", "faster", "said"),
    [
        ((1.02, (1.01, 1.03)), False, "not shown to be faster or slower by more than 3%: 1.02 times"),
        ((1.06, (1.04, 1.08)), True, "It runs at 1.06 times"),
        ((0.8, (0.7, 0.9)), False, "It is slower: it runs at 0.80 times"),
        ((0.98, (0.97, 0.99)), False, "not shown to be faster or slower"),
    ],
)
def test_faster_and_slower_need_more_than_noise(tmp_path, ratio, faster, said):
    verdict = build_report(findings(tmp_path, ratio=ratio), RECIPE, None, 0).verdict
    assert (verdict.faster, said in verdict.reasons[0]) == (faster, True)


@pytest.mark.parametrize(
    ("noisy", "baseline_p25_ms", "faster"), [(False, 1.0, True), (True, 1.0, False), (True, 1.5, True)]
)
def test_a_noisy_timing_shows_nothing_unless_three_quarters_are_apart(tmp_path, noisy, baseline_p25_ms, faster):
    found = timed(findings(tmp_path), noisy=noisy, baseline_p25_ms=baseline_p25_ms)
    assert build_report(found, RECIPE, None, 0).verdict.faster is faster


@pytest.mark.parametrize(("granularity", "faster"), [("weight", False), ("2:4", False), ("channel", True)])
def test_zeros_alone_are_never_faster(tmp_path, granularity, faster):
    zeros = PruneSpec(method="prune", granularity="weight")
    verdict = build_report(findings(tmp_path), (zeros, PruneSpec(method="prune", granularity=granularity)), None, 0)
    assert verdict.verdict.faster is faster
    assert ("Zeros alone make it no faster" in verdict.verdict.reasons[0]) is not faster


def test_a_negative_drop_reads_as_a_gain(tmp_path):
    gain = findings(tmp_path, drop=(-0.001, (-0.006, 0.003), 1.0))
    reason = build_report(gain, RECIPE, Objective(max_drop=0.01), 0).verdict.reasons[2]
    assert reason.startswith("Accuracy rises by 0.0010 (95 % interval -0.0030 to 0.0060")
    assert "drops" not in reason


def test_zeros_are_said_to_give_size_after_compression_and_no_speed(tmp_path):
    found = findings(tmp_path)
    packed = replace(
        found,
        baseline=replace(found.baseline, packed_bytes=900),
        compressed=replace(found.compressed, packed_bytes=100),
    )
    report = build_report(packed, RECIPE, None, 0)
    reason = report.verdict.reasons[-1]
    assert "5.0% of the parameters are zero" in reason
    assert "no speed on this target" in reason
    assert "makes the file 2.50 times smaller" in reason
    assert "9.00 times smaller than the baseline's" in reason
    assert (report.baseline.packed_bytes, report.compressed.packed_bytes) == (900, 100)
    assert (report.compressed.parameters, report.compressed.nonzero_parameters) == (200, 190)
    assert len(build_report(found, RECIPE, None, 0).verdict.reasons) == 3


def test_what_could_not_be_measured_as_asked_is_said(tmp_path):
    found = replace(findings(tmp_path), unmeasured=("This worker has 2 cores.",))
    assert build_report(found, RECIPE, None, 0).verdict.reasons[-1] == "This worker has 2 cores."


def test_leaked_rows_are_named_in_the_verdict(tmp_path):
    leaky = replace(findings(tmp_path), data=DataFigures(train=1, calibration=0, validation=50, overlap=7))
    assert "7 of 57 validation rows" in build_report(leaky, RECIPE, None, 0).verdict.reasons[-1]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"scheme": "cast"}, "float32"),
        ({"scheme": "weight_only"}, "unpacked"),
        ({"scheme": "qat", "weights": "int4"}, "unpacked"),
        ({"scheme": "dynamic"}, "batch"),
        ({"scheme": "static"}, None),
        ({"scheme": "qat"}, None),
    ],
)
def test_what_a_scheme_cannot_give_is_said(tmp_path, step, words):
    recipe = (QuantizeSpec(method="quantize", **step),)
    reasons = build_report(findings(tmp_path), recipe, None, 0).verdict.reasons
    assert len(reasons) == (4 if words else 3)
    assert not words or words in reasons[-1]


@pytest.mark.parametrize(
    ("task", "metric", "said"),
    [
        ("classification", "accuracy", "Accuracy drops by 0.0100 (95 % interval -0.0100 to 0.0300, McNemar p = 0.300)"),
        (
            "classification",
            "macro_f1",
            "Macro F1 drops by 0.0100 (95 % interval -0.0100 to 0.0300, bootstrap p = 0.300)",
        ),
        ("token_classification", "accuracy", "Accuracy drops by 0.0100 (95 % interval -0.0100 to 0.0300, bootstrap p"),
        ("regression", "r2", "R² drops by"),
        ("embedding", "cosine", "The cosine to the baseline's outputs drops by"),
    ],
)
def test_the_verdict_speaks_of_the_metric_that_was_judged(tmp_path, task, metric, said):
    found = findings(tmp_path, task=LearningTask(task), metric=metric)
    report = build_report(found, RECIPE, Objective(metric=metric, max_drop=0.02), 0)
    assert report.verdict.reasons[2].startswith(said)
    assert (report.task, report.objective.metric) == (task, metric)
    assert report.delta.metric_drop == report.delta.metric_drops[metric]
    assert (report.headline()[metric], report.headline()[f"baseline_{metric}"]) == (0.9, 0.9)


def test_vectors_of_another_teacher_are_said_to_be_compared_with_the_uploaded_models(tmp_path):
    teacher, task = "mdl_01J00000000000000000000000", LearningTask.EMBEDDING
    recipe = (DistillSpec(method="distill", teacher=teacher),)
    found = findings(tmp_path, task=task, metric="cosine")
    reasons = build_report(found, recipe, None, 0).verdict.reasons
    assert reasons[-1].startswith(
        f"The vectors were learned from {teacher}; the figures compare them with the uploaded"
    )
    own = build_report(found, (DistillSpec(method="distill"),), None, 0).verdict.reasons
    assert len(own) == len(reasons) - 1
    classes = build_report(findings(tmp_path), recipe, None, 0).verdict.reasons
    assert not any("vectors" in reason for reason in classes)


def test_every_metric_that_can_be_judged_has_words():
    assert set(METRIC_WORDS) == {metric for known in METRICS.values() for metric in known}


def test_a_report_that_was_kept_before_there_were_tasks_is_of_classes(tmp_path):
    stored = build_report(findings(tmp_path), RECIPE, None, 0).model_dump(mode="json")
    del stored["task"], stored["delta"]["metric_drops"]
    assert Report.model_validate(stored).task is LearningTask.CLASSIFICATION


def test_an_objective_that_is_missed_names_its_metric(tmp_path):
    found = findings(tmp_path, task=LearningTask.REGRESSION, metric="r2")
    report = build_report(found, RECIPE, Objective(max_drop=0.001), 0)
    with pytest.raises(ObjectiveMissed, match=r"r2 drops by 0\.0100 .* from 0\.9000 to 0\.9000; 0\.0010 is allowed"):
        require_objective(report)
