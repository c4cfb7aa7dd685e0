"""A job that measures how a network bears pruning and changes nothing: baseline, table, report."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from app.domain.job import LatencySpec, Stage
from app.domain.report import AnalysisReport, DataFigures, NoVerdict, StepOutcome
from app.domain.sensitivity import SENSITIVITY_FILE, SensitivityTable
from app.domain.steps.prune import PruneSpec
from app.domain.task import REPORT_FILE
from workers.compression import evaluation
from workers.compression.checkpoints import Checkpoints
from workers.compression.datasets import Dataset
from workers.compression.environment import read_environment
from workers.compression.figures import count, layer_figures
from workers.compression.footprint import measure_footprint
from workers.compression.formats import onnx
from workers.compression.latency import row_shapes, rows_of
from workers.compression.network import Network
from workers.compression.pages.subject import UNNAMED, Subject
from workers.compression.pipeline import Output
from workers.compression.progress import Tracker
from workers.compression.pruning.scoring import TAYLOR_ROWS
from workers.compression.pruning.sensitivity import measure
from workers.compression.report import Profile, describe_side
from workers.compression.step import Context
from workers.compression.tasks import TASKS

# How long the baseline, the analysis and packaging take beside each other, roughly.
_WEIGHTS = (1.0, 10.0, 1.0)


def analyze(
    network: Network,
    spec: PruneSpec,
    data: Dataset,
    *,
    latency: LatencySpec,
    seed: int,
    device: torch.device,
    output: Output,
    service_version: str,
    subject: Subject = UNNAMED,
) -> AnalysisReport:
    """Measure a sensitivity table and write ``sensitivity.json`` and the report, for programs and people.

    There is no model among the files, since there is none that was not uploaded.
    """
    tracker = Tracker(output.progress, _WEIGHTS)
    with tempfile.TemporaryDirectory() as scratch:
        context = Context(network, data, seed, device, tracker, Path(scratch), TASKS[data.task])
        file = Path(scratch) / "baseline.onnx"
        with tracker.part(Stage.BASELINE, "Measuring the network as it was uploaded"):
            onnx.save(network, file)
            metrics = evaluation.measure(evaluation.judge(file, data, torch.get_num_threads()), seed)
            context.metric(f"baseline_{context.task.metric}", 0, metrics[context.task.metric].value)
        with tracker.part(Stage.PRUNING, "Measuring how each group bears pruning"):
            mine = replace(context, checkpoints=Checkpoints(output.checkpoints, 1, context.log))
            table = measure(network, spec, mine)
        with tracker.part(Stage.PACKAGING, "Writing the table and the report"):
            (output.folder / SENSITIVITY_FILE).write_text(table.model_dump_json(indent=2), encoding="utf-8")
            output.announce(SENSITIVITY_FILE, "report", "json")
            timed = rows_of(file, data)
            footprint = measure_footprint(file, timed, latency.batch_sizes[0], latency.thread_counts[0])
            report = AnalysisReport(
                task=data.task,
                baseline=describe_side(Profile(file, count(network), (), footprint), metrics),
                verdict=_verdict(table),
                steps=(_outcome(network, spec, table),),
                layers=layer_figures(network, ()),
                classes=(),
                data=_count_rows(data, spec, table),
                timed_rows=row_shapes(timed),
                environment=read_environment(latency.thread_counts[0], service_version),
                recipe=(spec,),
                seed=seed,
            )
            (output.folder / REPORT_FILE).write_text(report.model_dump_json(indent=2), encoding="utf-8")
            output.announce(REPORT_FILE, "report", "json")
            output.write_pages(report, subject)
    return report


def _verdict(table: SensitivityTable) -> NoVerdict:
    measured = len(table.groups) - len(table.unmeasured)
    reason = (
        f"Nothing was compressed: the job measured how {table.metric} on {table.rows} {table.split} rows suffers as"
        f" more of each group goes. {SENSITIVITY_FILE} has the table, and a later prune takes it as its sensitivity."
    )
    if not table.complete:
        reason += f" Time ran out: {measured} of {len(table.groups)} groups were measured, not all at every amount."
    return NoVerdict(reasons=(reason,))


def _outcome(network: Network, spec: PruneSpec, table: SensitivityTable) -> StepOutcome:
    figures = count(network).as_json()
    return StepOutcome(
        method=spec.method,
        spec=spec.model_dump(mode="json"),
        seconds=table.seconds,
        before=figures,
        after=figures,
        details={
            "groups": len(table.groups),
            "groups_measured": len(table.groups) - len(table.unmeasured),
            "measurements": sum(len(group.measurements) for group in table.groups),
            "complete": table.complete,
            "sensitivity": table.model_dump(mode="json"),
        },
    )


def _count_rows(data: Dataset, spec: PruneSpec, table: SensitivityTable) -> DataFigures:
    gradients = min(TAYLOR_ROWS, data.rows("train")) if spec.criterion == "taylor" else 0
    judged = {table.split: table.rows}
    return DataFigures(
        train=max(gradients, judged.get("train", 0)),
        calibration=judged.get("calibration", 0),
        validation=data.rows(evaluation.JUDGE),
        overlap=data.overlap,
    )
