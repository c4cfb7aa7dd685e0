"""A recipe from beginning to end: baseline, steps, files, figures, report."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from app.domain.compatibility import learning
from app.domain.errors import ObjectiveMissed
from app.domain.job import LatencySpec, Objective, Stage
from app.domain.recipe import Recipe, Step
from app.domain.report import AnyReport, DataFigures, FileAgreement, Report, StepOutcome
from app.domain.sensitivity import SensitivityTable
from app.domain.steps.quantize import QuantizeSpec
from app.domain.task import REPORT_FILE, ArtifactKind, ArtifactMessage
from workers.compression import evaluation
from workers.compression.bundle import write_bundle
from workers.compression.checkpoints import Checkpoints
from workers.compression.checks import check_files, check_step
from workers.compression.datasets import Dataset
from workers.compression.distillation import distill
from workers.compression.environment import read_environment
from workers.compression.figures import count, layer_figures
from workers.compression.forecast import Baseline, forecast
from workers.compression.formats import onnx, pt2
from workers.compression.latency import PairedLatency, row_shapes, rows_of
from workers.compression.network import Network
from workers.compression.packing import SUFFIX, leaves_zeros, pack, packed_size
from workers.compression.pages.subject import UNNAMED, Subject
from workers.compression.profiling import profile_files
from workers.compression.progress import Expected, Tracker
from workers.compression.pruning import prune
from workers.compression.quantization import quantize
from workers.compression.report import Findings, build_report
from workers.compression.step import Context, Progress, StepResult
from workers.compression.tasks import TASKS
from workers.compression.training import finetune

Publish = Callable[[ArtifactMessage], None]
"""Hears of each file once it is complete."""

HANDLERS: dict[str, Callable[[Network, Any, Context], StepResult]] = {
    "prune": prune.run,
    "distill": distill.run,
    "finetune": finetune.run,
    "quantize": quantize.run,
}
STAGES = {
    "prune": Stage.PRUNING,
    "distill": Stage.DISTILLING,
    "finetune": Stage.FINETUNING,
    "quantize": Stage.QUANTIZING,
}
MODEL_ONNX, MODEL_PT2, CANDIDATE, BUNDLE = "model.onnx", "model.pt2", "candidate.onnx", "benchmark.zip"
_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Recipe)
# How long exporting, evaluating, profiling and packaging take beside an epoch, roughly.
_CLOSING_WEIGHTS = (2.0, 0.5, 4.0, 0.5)


@dataclass(frozen=True)
class Output:
    """Where the files go, and who hears of events and finished files.

    What ``checkpoints`` holds from an earlier attempt at the same job is not done again.
    """

    folder: Path
    checkpoints: Path
    progress: Progress
    publish: Publish

    def announce(self, name: str, kind: ArtifactKind, format_: str) -> None:
        self.publish(ArtifactMessage(name=name, kind=kind, format=format_))

    def write_pages(self, report: AnyReport, subject: Subject, pairs: Sequence[PairedLatency] = ()) -> None:
        """Write the report for people: what draws it takes a second to import, and nothing before needs it."""
        from workers.compression.pages.writing import FORMATS, write_pages

        write_pages(self.folder, report, subject, pairs)
        for name, format_ in FORMATS.items():
            self.announce(name, "report", format_)


def compress(
    network: Network,
    recipe: Recipe,
    data: Dataset,
    *,
    objective: Objective | None,
    latency: LatencySpec,
    seed: int,
    device: torch.device,
    output: Output,
    service_version: str,
    sensitivities: Mapping[str, SensitivityTable] | None = None,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    subject: Subject = UNNAMED,
    models: Mapping[str, Network] | None = None,
) -> Report:
    """Run a recipe and write ``model.onnx``, ``model.pt2``, ``benchmark.zip`` and the report, for programs and people.

    Where single weights became zero, compressed copies of the first two stand beside them, if they are smaller.
    Within ``turn`` nobody else measures on this host.
    The report says whether the objective is met; :func:`require_objective` makes an error of it.
    The caller's network stays as it is.
    """
    tracker = Tracker(output.progress, [1.0, *map(_weight, recipe), *_CLOSING_WEIGHTS])
    with tempfile.TemporaryDirectory() as scratch:
        context = Context(
            network,
            data,
            seed,
            device,
            tracker,
            Path(scratch),
            TASKS[data.task],
            objective=objective,
            sensitivities=sensitivities or {},
            models=models or {},
        )
        files = (Path(scratch) / "baseline.onnx", output.folder / MODEL_ONNX)
        with tracker.part(Stage.BASELINE, "Measuring the network as it was uploaded"):
            began = time.monotonic()
            onnx.save(network, files[0])
            saved = time.monotonic()
            before = evaluation.judge(files[0], data, torch.get_num_threads())
            measured = Baseline(saved - began, time.monotonic() - saved, data.rows(evaluation.JUDGE))
            headline = context.task.metric
            metric = learning.objective_metric(objective, data.task) if objective else None
            if metric:
                evaluation.check_metric(before, metric)
            context.metric(f"baseline_{headline}", 0, before.value(headline))
            tracker.expect([Expected(0.0), *forecast(recipe, latency, measured)])
        result, floating, steps = _run_steps(recipe, context, output, tracker)
        with tracker.part(Stage.EXPORTING, "Writing the files"):
            agreement = _export(result, recipe[-1], files[0], output, context)
            packed = _pack(files[0], output, Path(scratch)) if leaves_zeros(recipe) else (None, None)
        with tracker.part(Stage.EVALUATING, "Comparing both files on the validation rows"):
            after = evaluation.judge(files[1], data, torch.get_num_threads(), before)
            comparison = evaluation.compare(before, after, seed, metric, data.class_names)
            context.metric(f"compressed_{headline}", 0, comparison.compressed[headline].value)
            rows = _count_rows(data, recipe, steps)
        with tracker.part(Stage.PROFILING, "Timing both files in turn, with no other measurement beside"), turn():
            timed = rows_of(files[0], data)
            profiling = profile_files(files, (count(network), count(floating)), packed, latency, timed)
        with tracker.part(Stage.PACKAGING, "Writing the report"):
            environment = read_environment(profiling.pairs[0].threads, service_version)
            layers = layer_figures(floating, steps)
            findings = Findings(
                profiling.baseline,
                profiling.compressed,
                comparison,
                profiling.pairs[0].ratio,
                steps,
                layers,
                agreement,
                rows,
                environment,
                row_shapes(timed),
                profiling.streamed_bytes_per_second,
                profiling.cache_bytes,
                profiling.unmeasured,
            )
            filled = _RECIPE.validate_python([step.spec for step in steps])
            report = build_report(findings, filled, objective, seed)
            (output.folder / REPORT_FILE).write_text(report.model_dump_json(indent=2), encoding="utf-8")
            output.announce(REPORT_FILE, "report", "json")
            write_bundle(output.folder / BUNDLE, *files, profiling.pairs, timed, environment=environment)
            output.announce(BUNDLE, "benchmark", "zip")
            output.write_pages(report, subject, profiling.pairs)
    return report


def require_objective(report: Report) -> None:
    """Raise ObjectiveMissed, with the figures, where the result loses more than was allowed."""
    if report.objective is None or report.objective.met:
        return
    drop, metric = report.delta.metric_drop, report.objective.metric
    raise ObjectiveMissed(
        f"{metric} drops by {drop.value:.4f} (95 % interval {drop.ci95[0]:.4f} to {drop.ci95[1]:.4f}),"
        f" from {report.baseline.metrics[metric].value:.4f} to {report.compressed.metrics[metric].value:.4f};"
        f" {report.objective.max_drop:.4f} is allowed",
        hint="Prune less, train longer, or allow a larger drop. The report and the files are kept.",
    )


def _weight(step: Step) -> float:
    return 2.0 + step.trained_epochs


def _run_steps(
    recipe: Recipe, context: Context, output: Output, tracker: Tracker
) -> tuple[Network, Network, tuple[StepOutcome, ...]]:
    """Run the steps in order; give the result, the last network still in float, and what each step did."""
    network = floating = context.baseline
    outcomes: list[StepOutcome] = []
    for place, step in enumerate(recipe, 1):
        with tracker.part(STAGES[step.method], f"Step {place} of {len(recipe)}: {step.method}"):
            before, began = count(floating), time.monotonic()
            mine = replace(context, checkpoints=Checkpoints(output.checkpoints, place, context.log))
            result = HANDLERS[step.method](network, step, mine)
            check_step(step.method, result.began or network, result.network)
            seconds = result.earlier_seconds + time.monotonic() - began
            network = result.network
            floating = floating if network.quantized else network
            outcomes.append(
                StepOutcome(
                    method=step.method,
                    spec=(result.spec or step).model_dump(mode="json"),
                    seconds=round(seconds, 3),
                    before=before.as_json(),
                    after=count(floating).as_json(),
                    details=result.details,
                )
            )
            # Exporting takes seconds, and a network that was only cut is no candidate.
            if step.trained_epochs and place < len(recipe):
                _keep_candidate(network, output)
    return network, floating, tuple(outcomes)


def _keep_candidate(network: Network, output: Output) -> None:
    """Leave the network as it stands as a file, so that a cancelled job has something to show."""
    unfinished = output.folder / f"unfinished-{CANDIDATE}"
    onnx.save(network, unfinished)
    unfinished.replace(output.folder / CANDIDATE)
    output.announce(CANDIDATE, "checkpoint", "onnx")


def _export(network: Network, last: Step, baseline: Path, output: Output, context: Context) -> FileAgreement:
    onnx_path, pt2_path = output.folder / MODEL_ONNX, output.folder / MODEL_PT2
    onnx.save(network, onnx_path)
    if isinstance(last, QuantizeSpec):
        quantize.check_file(onnx_path, baseline, last)
    pt2.save(network, pt2_path)
    agreement = check_files(onnx_path, pt2_path, context.data, torch.get_num_threads())
    context.log(
        f"on {agreement.rows} validation rows {MODEL_PT2} and {MODEL_ONNX} differ by"
        f" {agreement.relative_difference:.2g} of their outputs"
    )
    output.announce(MODEL_ONNX, "model", "onnx")
    output.announce(MODEL_PT2, "model", "pt2")
    return agreement


def _pack(baseline: Path, output: Output, scratch: Path) -> tuple[int, int]:
    """Put compressed copies beside both files where they are smaller; give the bytes of both ONNX files so."""
    sizes = {}
    for name, format_ in ((MODEL_ONNX, "onnx"), (MODEL_PT2, "pt2")):
        path, packed = output.folder / name, output.folder / f"{name}{SUFFIX}"
        sizes[name] = path.stat().st_size
        if pack(path, packed):
            sizes[name] = packed.stat().st_size
            output.announce(packed.name, "model", f"{format_}{SUFFIX}")
    return packed_size(baseline, scratch), sizes[MODEL_ONNX]


def _count_rows(data: Dataset, recipe: Recipe, steps: tuple[StepOutcome, ...]) -> DataFigures:
    """Count the rows that were really used: of train all where a step trained, else those that gave gradients."""
    trained = any(step.trained_epochs for step in recipe)
    return DataFigures(
        train=data.rows("train") if trained else max(step.details.get("gradient_rows", 0) for step in steps),
        calibration=max(step.details.get("calibration_rows", 0) for step in steps),
        validation=data.rows(evaluation.JUDGE),
        overlap=data.overlap,
    )
