"""The report as one HTML page: no script, no font, no image, nothing that is fetched."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from app.domain.report import AnyReport, Report, StepOutcome
from app.domain.sensitivity import SensitivityTable
from workers.compression.latency import PairedLatency
from workers.compression.pages import words
from workers.compression.pages.plots import (
    MOST_PAIRS,
    draw_classes,
    draw_latency,
    draw_layers,
    draw_operators,
    draw_training,
)
from workers.compression.pages.sensitivity import draw_sensitivity
from workers.compression.pages.subject import Subject
from workers.compression.pages.svg import Plot

FOLDER = Path(__file__).parent
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["words"] = words
_TEMPLATES.filters["clean"] = words.clean


@dataclass(frozen=True)
class Tile:
    """A headline figure, what it is of, and a line on how sure it is."""

    name: str
    figure: str
    note: str


def render_page(report: AnyReport, subject: Subject, pairs: Sequence[PairedLatency] = ()) -> str:
    """Give the page; same figures, same bytes."""
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = _TEMPLATES.get_template("page.html.j2")
    return template.render(
        # The digest binds the browser to this style alone: an attribute or an element that slips in is not obeyed.
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704  a file of ours
        report=report,
        compared=isinstance(report, Report),
        subject=subject,
        tiles=list(_tiles(report)) if isinstance(report, Report) else [],
        verdicts=_verdicts(report),
        noisy=_noisy(report),
        latency_plots=[draw_latency(pair, place) for place, pair in enumerate(pairs[:MOST_PAIRS], 1)],
        pairs_left_out=max(0, len(pairs) - MOST_PAIRS),
        class_plot=draw_classes(report.classes, words.DECIDED.get(report.task, "rows")),
        layer_plot=draw_layers(report.layers),
        training_plots=[shown for shown in _trainings(report.steps) if shown],
        operator_plot=draw_operators(report.baseline.operators, report.compressed.operators)
        if report.compressed
        else None,
        sensitivity_plot=_sensitivity(report),
        unset=lambda spec: ", ".join(name for name, value in spec.items() if value in (None, [], {})) or "nothing",
    )


def _verdicts(report: AnyReport) -> list[tuple[str, bool | None]]:
    found = report.verdict
    verdicts = [("Faster", found.faster), ("Smaller", found.smaller), ("As accurate", found.as_accurate)]
    if report.objective is not None:
        verdicts.append(("Objective met", report.objective.met))
    return verdicts


def _noisy(report: AnyReport) -> bool:
    """Tell whether the headline's timing is noisy; others are marked in the table."""
    return report.compressed is not None and any(timed.noisy for timed in report.compressed.latency[:1])


def _tiles(report: Report) -> Iterator[Tile]:
    before, after, delta = report.baseline, report.compressed, report.delta
    ratio = delta.latency_ratio
    timed = ""
    if after.latency:
        first = after.latency[0]
        timed = (
            f"p50 {words.milliseconds(before.latency[0].p50_ms)} → {words.milliseconds(first.p50_ms)}"
            f" at batch {first.batch_size}, {words.threads(first.threads)};"
            f" 95 % interval {words.interval(ratio.ci95, 2)}"
        )
    yield Tile("Times as fast", f"{ratio.value:.2f}×", timed)
    sizes = f"{words.size(before.size_bytes)} → {words.size(after.size_bytes)}"
    yield Tile("Times smaller", f"{delta.size_ratio:.2f}×", sizes)
    drop = delta.metric_drop
    name = report.objective.metric if report.objective else next(iter(after.metrics), "metric")
    values = ""
    if name in before.metrics and name in after.metrics:
        values = f"{words.metric(before.metrics[name].value)} → {words.metric(after.metrics[name].value)}; "
    sure = f"{values}95 % interval of the loss {words.interval(drop.ci95)}, {words.chance(drop.p_value)}"
    yield Tile(f"{words.title(name)} {'gained' if drop.value < 0 else 'lost'}", f"{abs(drop.value):.4f}", sure)
    yield _alike(report)
    sums = f"{words.whole(before.macs)} → {words.whole(after.macs)} a row"
    yield Tile("Times fewer multiplications", f"{delta.macs_ratio:.2f}×", sums)
    numbers = f"{words.whole(before.parameters)} → {words.whole(after.parameters)}"
    yield Tile("Times fewer parameters", f"{delta.parameters_ratio:.2f}×", numbers)


def _alike(report: Report) -> Tile:
    rows, share = f"{report.data.validation} validation rows", words.share(report.delta.agreement)
    if report.task in words.UNDECIDED:
        return Tile("Outputs alike", share, f"1 − ‖a − b‖ / ‖a‖ over {rows}")
    decided = words.DECIDED.get(report.task)
    return Tile(f"{words.title(decided or 'rows')} decided alike", share, f"of {rows}")


def _trainings(steps: Sequence[StepOutcome]) -> Iterator[Plot | None]:
    """Give the curves of each step that trained, and of each recovery within a step."""
    for place, step in enumerate(steps, 1):
        name = f"Step {place}, {step.method}"
        yield draw_training(f"training-{place}", name, step.details.get("epochs") or ())
        for turn, row in enumerate(_rounds(step), 1):
            epochs = row.get("recovery", {}).get("epochs", ())
            yield draw_training(f"training-{place}-{turn}", f"{name}, recovery after round {turn}", epochs)


def _rounds(step: StepOutcome) -> Sequence[dict[str, Any]]:
    found = step.details.get("rounds", ())
    return found if isinstance(found, list | tuple) else ()


def _sensitivity(report: AnyReport) -> Plot | None:
    tables = [step.details["sensitivity"] for step in report.steps if "groups_measured" in step.details]
    return draw_sensitivity(SensitivityTable.model_validate(tables[0])) if tables else None
