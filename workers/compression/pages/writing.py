"""The files for people, beside ``report.json``."""

from collections.abc import Sequence
from pathlib import Path

from app.domain.report import AnyReport
from app.domain.task import CARD_FILE, PAGE_FILE
from workers.compression.latency import PairedLatency
from workers.compression.pages.card import render_card
from workers.compression.pages.page import render_page
from workers.compression.pages.subject import Subject

FORMATS = {PAGE_FILE: "html", CARD_FILE: "markdown"}


def write_pages(folder: Path, report: AnyReport, subject: Subject, pairs: Sequence[PairedLatency] = ()) -> None:
    """Write every file of :data:`FORMATS`."""
    (folder / PAGE_FILE).write_text(render_page(report, subject, pairs), encoding="utf-8")
    (folder / CARD_FILE).write_text(render_card(report, subject), encoding="utf-8")
