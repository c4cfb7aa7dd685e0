"""The model card: Markdown with front matter, by the conventions of Hugging Face's hub.

Source: https://huggingface.co/docs/hub/model-cards.
"""

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

from app.domain.report import AnyReport, Report
from app.domain.task import Upload
from workers.compression.pages import words
from workers.compression.pages.plots import worst_class
from workers.compression.pages.subject import Subject

_SPECIAL = re.compile(r"([\\`*_\[\]<>&|#~!]|:(?=//)|(?<=www)\.|^[-+=]|(?<=^\d)[.)])")
"""What means something within a line, makes a link of bare text, or a list of a line's beginning."""
_TICKS = re.compile(r"`+")
_TAGS = {"prune": "pruning", "distill": "distillation", "finetune": "fine-tuning", "quantize": "quantization"}


def plain(text: str) -> str:
    """Make text that no Markdown reader takes for anything else."""
    return _SPECIAL.sub(r"\\\1", words.clean(text))


def code(text: str) -> str:
    """Make a code span that ends where it should."""
    text = words.clean(text)
    fence = "`" * (1 + max((len(run) for run in _TICKS.findall(text)), default=0))
    pad = " " if not text.strip() or text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def cell(text: str) -> str:
    """Make a code span within a table, which is cut into cells before anything else."""
    return code(text).replace("|", r"\|")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=False,  # noqa: S701  Markdown has other rules, which ``finalize`` cannot tell: the template names them
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["words"] = words
_TEMPLATES.filters |= {"plain": plain, "code": code, "cell": cell}


def render_card(report: AnyReport, subject: Subject) -> str:
    """Give the card; same figures, same bytes."""
    return _TEMPLATES.get_template("card.md.j2").render(
        front_matter=yaml.safe_dump(_front_matter(report, subject), sort_keys=False, allow_unicode=True, width=1000),
        report=report,
        subject=subject,
        compared=isinstance(report, Report),
        recipe=json.dumps(report.model_dump(mode="json")["recipe"], indent=2),
        worst=worst_class(report.classes),
    )


def _front_matter(report: AnyReport, subject: Subject) -> dict[str, Any]:
    methods = dict.fromkeys(_TAGS.get(step.method, step.method) for step in report.steps)
    matter: dict[str, Any] = {"library_name": "onnx", "tags": ["model-compression", "onnxruntime", *methods]}
    if isinstance(report, Report):
        matter["model-index"] = [{"name": words.clean(subject.title), "results": [_result(report, subject.dataset)]}]
    return matter


def _result(report: Report, dataset: Upload | None) -> dict[str, Any]:
    return {
        "task": {"type": "other"},  # the service knows outputs and labels, and not what they are a picture of
        "dataset": {
            "name": words.clean(dataset.name) if dataset else "validation rows",
            "type": f"sha256:{dataset.sha256}" if dataset else "unknown",
            "split": "validation",
        },
        "metrics": [
            {"type": name, "name": words.title(name), "value": round(found.value, 6)}
            for name, found in report.compressed.metrics.items()
        ],
    }
