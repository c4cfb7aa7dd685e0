import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.compression.pages.reports import HOSTILE, HOSTILE_SUBJECT, SUBJECT, make_analysis, make_report, paired
from workers.compression.pages import words
from workers.compression.pages.page import render_page
from workers.compression.pages.plots import draw_latency
from workers.compression.pages.subject import Subject

VOID = {"meta", "br"}
FETCHES = {"src", "srcset", "data", "action", "formaction", "poster", "background", "style", "ping"}


class Page(HTMLParser):
    """Reads a page strictly: every element closed in turn, and what a browser could act on kept."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def page():
    report, pairs = make_report()
    return Page(render_page(report, SUBJECT, pairs))


def test_verdict_reasons_and_headline_figures_stand_on_top_in_plain_words(page):
    top = page.words[: page.words.index("Both files")]
    for said in ("Faster: yes", "Smaller: yes", "As accurate: no", "Objective met: yes", "It runs at 3.00 times"):
        assert said in top
    for said in ("3.05×", "21.68 kB → 7.11 kB", "Accuracy lost 0.0100", "0.9600 → 0.9500", "97.0%", "at batch 1"):
        assert said in top


def test_each_part_of_the_report_has_a_section_with_a_heading(page):
    headings = {attributes["id"] for attributes in page.of("h2")}
    expected = {"verdict", "files", "latency", "operators", "classes", "layers", "training", "recipe", "data"}
    assert headings == expected | {"environment"}
    assert [attributes["aria-labelledby"] for attributes in page.of("section")] == [
        attributes["id"] for attributes in page.of("h2")
    ]
    assert len(page.of("h1")) == len(page.of("title")) == 1
    assert page.of("html") == [{"lang": "en"}]


def test_the_plots_are_there_named_and_made_of_the_figures(page):
    labels = [attributes["aria-label"] for attributes in page.of("svg")]
    begins = [
        "Latency at batch 1, one thread",
        "Latency at batch 8",
        "Operators: Conv",
        "Accuracy within 10",
        "Layers: the lowest",
    ]
    begins += ["Step 1, prune, recovery after round 1: after epoch 2 loss 0.500", "Step 2, distill: after epoch 6"]
    assert len(labels) == len(begins)
    assert all(label.startswith(begin) for label, begin in zip(labels, begins, strict=True)), labels
    assert "Class 6 loses most: from 95.0% to 89.0% of 36 rows" in labels[3]
    assert "20.0 dB in conv1" in labels[4]
    assert all(attributes["role"] == "img" for attributes in page.of("svg"))


def test_recipe_hashes_and_environment_are_told(page):
    for said in ("amount 0.3", "Not set: exclude, teacher", "Seed 7", "ab" * 32, "cd" * 32, "AMD EPYC", "avx512_vnni"):
        assert said in page.words
    assert "parameters 5178 → 2568" in page.words
    assert "3 more validation rows also stand in train or calibration and judged nothing" in page.words


def test_the_page_names_nothing_to_fetch_and_binds_the_browser_to_its_one_style(page):
    (policy,) = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "a", "form"} == set()
    for tag, attributes in page.elements:
        assert not FETCHES & attributes.keys(), (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
    assert len(page.of("style")) == 1


def test_ids_are_there_once_and_only_where_something_refers_to_them(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = " ".join(value for _, attributes in page.elements for value in attributes.values() if value)
    referred = set(re.findall(r"url\(#([^)]+)\)", text)) | {each["href"][1:] for each in page.of("use")}
    assert referred <= set(ids)
    assert set(ids) - referred == {attributes["id"] for attributes in page.of("h2")}


def test_colours_are_the_pages_own_so_that_dark_is_dark(page):
    painted = {attributes.get(name) for _, attributes in page.elements for name in ("fill", "stroke")} - {None, "none"}
    assert painted <= {f"var(--{name})" for name in ("ink", "faint", "baseline", "compressed")}


def test_the_same_figures_give_the_same_bytes():
    one, two = (render_page(report, SUBJECT, pairs) for report, pairs in (make_report(), make_report()))
    assert one == two
    assert draw_latency(paired(1)) != draw_latency(paired(1, seed=5))


@pytest.mark.parametrize("noisy", [True, False])
def test_a_noisy_timing_is_marked_beside_its_figures_and_on_top(noisy):
    report, pairs = make_report(noisy=noisy)
    found = Page(render_page(report, SUBJECT, pairs))
    assert report.compressed.latency[0].noisy is noisy
    assert ("Noisy timing." in found.words) is noisy
    # The tile of speed, and both files at batch 1 but not at batch 8.
    assert sum(attributes.get("class") == "mark" for attributes in found.of("span")) == (3 if noisy else 0)


def test_another_timing_that_is_noisy_does_not_mark_a_steady_headline():
    report, pairs = make_report(pairs=(paired(1), paired(8, noisy=True, seed=1)))
    found = Page(render_page(report, SUBJECT, pairs))
    assert "Noisy timing." not in found.words
    assert sum(attributes.get("class") == "mark" for attributes in found.of("span")) == 2


def test_each_line_of_the_latency_table_names_its_threads(page):
    assert "baseline, batch 1, one thread" in page.words
    assert "compressed, batch 8, one thread" in page.words


def test_the_shape_of_the_timed_rows_is_told(page):
    assert "on validation rows of the shape tokens 128, image 3 × 28 × 28" in page.words


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("classification", "Rows decided alike 97.0% of 360 validation rows"),
        ("segmentation", "Pixels decided alike 97.0% of 360 validation rows"),
        ("token_classification", "Tokens decided alike 97.0% of 360 validation rows"),
        ("multilabel", "Labels decided alike 97.0% of 360 validation rows"),
        ("regression", "Outputs alike 97.0% 1 − ‖a − b‖ / ‖a‖ over 360 validation rows"),
        ("embedding", "Outputs alike 97.0% 1 − ‖a − b‖ / ‖a‖ over 360 validation rows"),
    ],
)
def test_what_is_alike_is_what_the_task_decides(task, said):
    report, _ = make_report(task=task)
    assert report.data.validation == 360
    files = report.files.model_copy(update={"rows": 256})
    assert said in Page(render_page(report.model_copy(update={"files": files}), SUBJECT)).words


def test_no_class_is_said_to_lose_where_none_does():
    report, _ = make_report(losing=False)
    (label,) = [each["aria-label"] for each in Page(render_page(report, SUBJECT)).of("svg") if "classes" in str(each)]
    assert label.endswith("No class loses.")


def test_what_was_not_judged_is_no_no():
    report, _ = make_report()
    verdict = report.verdict.model_copy(update={"as_accurate": None})
    assert "As accurate: not judged" in Page(render_page(report.model_copy(update={"verdict": verdict}), SUBJECT)).words


def test_operators_whose_times_do_not_fit_are_marked():
    report, _ = make_report()
    after = report.compressed.model_copy(update={"operators_noisy": True})
    found = Page(render_page(report.model_copy(update={"compressed": after}), SUBJECT))
    assert "operators' times stayed far from those of whole runs" in found.words


def test_names_that_mean_harm_are_text():
    report, pairs = make_report(HOSTILE)
    text = render_page(report, HOSTILE_SUBJECT, pairs)
    plain, _ = make_report(tuple(f"layer{number}" for number in range(len(HOSTILE))))
    found, tame = Page(text), Page(render_page(plain, replace(SUBJECT, labels=(("a", "b"),)), pairs))
    assert {tag for tag, _ in found.elements} == {tag for tag, _ in tame.elements}
    assert {name for _, each in found.elements for name in each} == {name for _, each in tame.elements for name in each}
    for name in HOSTILE[:5]:
        assert re.sub(r"\s+", " ", name) in found.words
    assert "{{ 7 * 7 }}" in text
    assert not re.search("[\x00-\x08\u202e\ud800-\udfff]", text)
    text.encode()


def test_classes_are_called_as_the_data_set_has_it_in_any_letters():
    report, pairs = make_report(classes=3)
    names = ("名前", "a\u202eb", "<img src=x>")
    classes = [found.model_copy(update={"name": name}) for found, name in zip(report.classes, names, strict=True)]
    text = render_page(report.model_copy(update={"classes": tuple(classes)}), SUBJECT, pairs)  # no font warns of any
    assert text.count("名前") >= 2
    assert "\u202e" not in text
    assert "a\ufffdb" in text
    assert "<img" not in text


def test_a_negative_drop_reads_as_a_gain():
    report, _ = make_report()
    drop = report.delta.metric_drop.model_copy(update={"value": -0.01, "ci95": (-0.03, 0.01)})
    gained = report.model_copy(update={"delta": report.delta.model_copy(update={"metric_drop": drop})})
    found = Page(render_page(gained, SUBJECT))
    assert "Accuracy gained 0.0100" in found.words
    assert "of the loss -0.0300 to 0.0100" in found.words


def test_of_many_layers_and_classes_those_with_most_to_tell_are_drawn():
    report, pairs = make_report(tuple(f"block.{number}.conv" for number in range(300)), classes=1000)
    text = render_page(report, SUBJECT, pairs)
    assert "The 40 of 300 layers with the most noise" in text
    assert "The 24 of 1000 classes that changed most" in text
    assert "block.299.conv" in text  # in the table
    assert len(text) < 500_000


def test_many_measurements_are_not_all_drawn_and_equal_ones_stay_apart():
    report, pairs = make_report(pairs=(paired(1),) * 9)
    found = Page(render_page(report, SUBJECT, pairs))
    assert sum(label["aria-label"].startswith("Latency") for label in found.of("svg")) == 8
    assert "1 more stand in the table alone" in found.words
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_an_analysis_has_a_page_that_compares_nothing():
    found = Page(render_page(make_analysis(), SUBJECT))
    assert "Sensitivity report" in found.words
    assert "Faster:" not in found.words
    assert "compressed" not in [attributes.get("id") for _, attributes in found.elements]
    labels = [attributes["aria-label"] for attributes in found.of("svg")]
    assert labels[0] == "Sensitivity: without 50.0% of itself, conv2 costs most, 0.0050 of accuracy."


def test_without_a_service_it_is_named_for_what_is_known():
    report, _ = make_report()
    assert "<h1>Compression job</h1>" in render_page(report, Subject())


def test_a_chance_too_small_for_three_digits_is_not_told_as_none():
    assert [words.chance(value) for value in (1.0, 0.0005, 0.0004)] == ["p = 1.000", "p = 0.001", "p < 0.001"]
