"""Plots as SVG that stands within a page: colours of the page's own, no inline style, no ids but those referred to."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FAINT, BASELINE, COMPRESSED = "#000001", "#000002", "#000003", "#000004"
"""What stands in a figure for a colour of the page, which has a light and a dark one."""
_COLOURS = {INK: "var(--ink)", FAINT: "var(--faint)", BASELINE: "var(--baseline)", COMPRESSED: "var(--compressed)"}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "winnow",
    # Names of layers are text, whatever signs of dollar they hold.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.borderpad": 0,
}
_UNDATED = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_PRESENTED = frozenset(
    {"fill", "fill-opacity", "font-size", "font-weight", "opacity", "stroke", "stroke-dasharray", "stroke-dashoffset"}
    | {"stroke-linecap", "stroke-linejoin", "stroke-opacity", "stroke-width", "text-anchor"}
)
"""Properties of CSS that are attributes of SVG too; the page's policy lets no style attribute hold."""
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_SPACE = re.compile(r"\s+")
WIDTH_INCHES = 5.0
"""360 units of SVG: on a phone a unit is about a pixel, so that text of 10 can be read."""


@dataclass(frozen=True)
class Plot:
    """``label`` says to whom cannot see it what the plot shows."""

    svg: Markup
    label: str
    caption: str


def plot(key: str, height_inches: float, paint: Callable[[Figure], None], *, label: str, caption: str) -> Plot:
    """Paint a figure and give it as an ``svg`` element; ``key`` keeps its ids apart from those of other plots."""
    stream = io.StringIO()
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained", facecolor="none")
        paint(figure)
        for axes in figure.axes:
            axes.set_facecolor("none")
        FigureCanvasSVG(figure).print_svg(stream, metadata=_UNDATED)  # type: ignore[no-untyped-call]
    return Plot(_inline(stream.getvalue(), key, label), label, caption)


def _inline(document: str, key: str, label: str) -> Markup:
    root = ET.fromstring(document)  # noqa: S314  what matplotlib has just written
    for parent in list(root.iter()):
        for child in list(parent):
            if _name(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    wanted = {name for element in root.iter() for name in _referred(element)}
    for element in root.iter():
        element.tag = _name(element.tag)
        element.attrib = _attributes(element, key, wanted)
        element.text = element.text if element.tag == "text" else None
        element.tail = None
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "plot",
        "role": "img",
        "aria-label": label,
    }
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704  it escapes text and attributes


def _name(name: str) -> str:
    """Leave the namespace out, which HTML knows."""
    return name.rpartition("}")[2]


def _referred(element: ET.Element) -> list[str]:
    found = _REFERENCE.findall(element.get("clip-path", "")) + _REFERENCE.findall(element.get("style", ""))
    return found + [value.removeprefix("#") for name, value in element.attrib.items() if _name(name) == "href"]


def _attributes(element: ET.Element, key: str, wanted: set[str]) -> dict[str, str]:
    given = {_name(name): value for name, value in element.attrib.items()}
    for declaration in given.pop("style", "").split(";"):
        name, _, value = declaration.partition(":")
        if name.strip() in _PRESENTED:
            given[name.strip()] = value.strip()
    kept: dict[str, str] = {}
    for name, value in given.items():
        if name == "id":
            if value in wanted:
                kept["id"] = f"{key}-{value}"
        elif name == "href":
            kept["href"] = f"#{key}-{value.removeprefix('#')}"
        elif value in _COLOURS:
            kept[name] = _COLOURS[value]
        else:
            short = _NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
            kept[name] = _SPACE.sub(" ", _REFERENCE.sub(rf"url(#{key}-\1)", short)).strip()
    if element.tag == "text" and kept.get("transform", "").startswith("rotate(-0 "):
        del kept["transform"]
    return kept
