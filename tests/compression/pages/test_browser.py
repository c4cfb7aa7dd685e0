"""The page in a browser that has no network: Debian's chromium, which .ci/system-packages installs."""

import base64
import shutil

import pytest
from playwright.sync_api import sync_playwright

from app.api.jobs import _WORDS_ALONE
from tests.compression.pages.reports import HOSTILE, HOSTILE_SUBJECT, SUBJECT, make_analysis, make_report
from workers.compression.pages.page import render_page

WIDTHS = (1366, 390)
MEASURE = """() => {
  document.querySelectorAll("details").forEach(details => { details.open = true });
  const painted = [...document.querySelectorAll("svg.plot")].map(plot => plot.getBoundingClientRect());
  const [ink, paper] = ["color", "backgroundColor"].map(name => getComputedStyle(document.body)[name]);
  return {
    across: document.documentElement.scrollWidth, width: innerWidth, ink, paper,
    plots: painted.filter(box => box.width > 250 && box.height > 80).length,
    bars: getComputedStyle(document.querySelector("svg.plot [fill='var(--compressed)']")).fill,
  };
}"""


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on this machine: .ci/system-packages installs one")
    with sync_playwright() as playwright:
        # Chromium's own walls need namespaces that containers and root lack; the page is one that this test made.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


def look(browser, path, width, scheme="light"):
    """Open a file and give what was measured on the page, and all that the browser said or asked for."""
    heard = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    try:
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        page.on("request", lambda request: heard.append(request.url))
        page.goto(path.as_uri())
        found = page.evaluate(MEASURE)
        assert heard.pop(0) == path.as_uri()
    finally:
        context.close()
    return found, heard


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write the pages of a job, of one whose names mean harm, and of an analysis; with the plots of each."""
    folder = tmp_path_factory.mktemp("pages")
    report, pairs = make_report()
    hostile, _ = make_report(HOSTILE)
    texts = {
        "job": (render_page(report, SUBJECT, pairs), 7),
        "hostile": (render_page(hostile, HOSTILE_SUBJECT, pairs), 7),
        "analysis": (render_page(make_analysis(HOSTILE), HOSTILE_SUBJECT), 2),
    }
    for name, (text, _) in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: (folder / f"{name}.html", plots) for name, (_, plots) in texts.items()}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["job", "hostile", "analysis"])
def test_the_page_stands_alone_and_never_goes_sideways(browser, files, name, width):
    path, plots = files[name]
    found, heard = look(browser, path, width)
    assert heard == []
    assert found["across"] <= found["width"] == width
    assert found["plots"] == plots


def test_dark_and_light_differ_and_both_are_read_easily(browser, files):
    path, _ = files["job"]
    light, dark = (look(browser, path, 1366, scheme)[0] for scheme in ("light", "dark"))
    for found in (light, dark):
        assert contrast(found["ink"], found["paper"]) > 7
        assert contrast(found["bars"], found["paper"]) > 3  # what WCAG 2.2 asks of graphics
    assert luminance(light["paper"]) > 0.9
    assert luminance(dark["paper"]) < 0.1


def test_the_policy_stops_what_would_slip_into_the_page(browser, files, tmp_path):
    text = files["job"][0].read_text(encoding="utf-8")
    gif = base64.b64encode(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").decode()
    image = f'<img src="data:image/gif;base64,{gif}" onerror=alert(2)>'
    planted = f"<script>alert(1)</script><style>*{{color:red}}</style>{image}"
    (tmp_path / "planted.html").write_text(text.replace("<main>", f"<main>{planted}"), encoding="utf-8")
    found, heard = look(browser, tmp_path / "planted.html", 1366)
    said = " ".join(heard)
    assert all(f"'{kind}-src" in said or f"{kind}-src" in said for kind in ("style", "default"))
    assert not {"1", "2"} & set(heard)
    assert found["ink"] == look(browser, files["job"][0], 1366)[0]["ink"]


def test_as_the_api_delivers_it_the_page_looks_the_same_and_has_no_origin(browser, files):
    path, plots = files["job"]
    heard = []
    context = browser.new_context(viewport={"width": 1366, "height": 900})
    try:
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        # The network is this function: nothing is sent anywhere.
        answer = {"body": path.read_bytes(), "content_type": "text/html; charset=utf-8", "headers": _WORDS_ALONE}
        page.route("**/*", lambda route: route.fulfill(**answer))
        page.goto("http://winnow.test/api/v1/jobs/job_1/report")
        found = page.evaluate(MEASURE)
        origin = page.evaluate("self.origin")
    finally:
        context.close()
    assert heard == []
    assert origin == "null"
    assert found == look(browser, path, 1366)[0]
    assert found["plots"] == plots


def luminance(colour):
    """Give the relative luminance of ``rgb(r, g, b)`` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)
