import json
from itertools import pairwise

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tests.compression.pages.reports import HOSTILE, HOSTILE_SUBJECT, SUBJECT, make_analysis, make_report
from workers.compression.pages.card import cell, code, plain, render_card
from workers.compression.pages.subject import Subject

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")


def tokens(text):
    """Give every token of a text, inline ones too."""
    for token in MARKDOWN.parse(text):
        yield token
        yield from token.children or ()


@pytest.fixture(scope="module")
def card():
    return render_card(make_report(classes=8)[0], SUBJECT)


def test_the_front_matter_is_what_the_hub_reads(card):
    data = ModelCard(card).data
    assert data.library_name == "onnx"
    assert data.tags == ["model-compression", "onnxruntime", "pruning", "distillation", "quantization"]
    assert data.license is None  # left to the user
    (result,) = data.eval_results
    assert (result.dataset_name, result.dataset_type) == ("digits", f"sha256:{'cd' * 32}")
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.95)


def test_its_sections_are_in_order_and_the_licence_is_left_to_the_user(card):
    parsed = MARKDOWN.parse(ModelCard(card).text)
    headings = [after.content for token, after in pairwise(parsed) if token.type == "heading_open"]
    assert headings == [
        "digits for the edge",
        "What it is",
        "How it was made",
        "Data",
        "Figures",
        "Limits",
        "Licence",
    ]
    assert "To be filled in by who publishes it" in card.rpartition("## Licence")[2]
    assert "\n# license: to be filled in\n---\n" in card


def test_it_tells_recipe_hashes_figures_and_limits(card):
    report, _ = make_report()
    fence = next(token for token in tokens(ModelCard(card).text) if token.type == "fence")
    assert json.loads(fence.content) == report.model_dump(mode="json")["recipe"]
    assert f"| model | `digits.pt2` | `{'ab' * 32}` |" in card
    assert f"| data set | `digits` | `{'cd' * 32}` |" in card
    assert "| Accuracy | 0.9600 (0.9400 to 0.9800) | 0.9500 (0.9300 to 0.9700) |" in card
    assert "| ONNX file | 21.68 kB | 7.11 kB |" in card
    assert "class `6` goes from 0.9500 to 0.8900 on 36 rows" in card
    assert sum(token.type == "table_open" for token in tokens(card)) == 2


def test_it_tells_what_rows_were_timed_and_what_both_files_agree_on(card):
    assert "rows of this shape: tokens 128, image 3 × 28 × 28." in card
    assert "Both files: they decide 97.0% of the 360 validation rows alike." in card
    report, _ = make_report(task="regression", losing=False)
    other = render_card(report, SUBJECT)
    assert "their outputs are 97.0% alike (1 − ‖a − b‖ / ‖a‖) over 360 validation rows" in other
    assert "Classes do not lose alike" not in other


def test_the_same_figures_give_the_same_bytes(card):
    assert render_card(make_report(classes=8)[0], SUBJECT) == card


def test_names_that_mean_harm_are_text():
    names = [name for name in HOSTILE if name]
    text = render_card(make_report(names)[0], HOSTILE_SUBJECT)
    body = ModelCard(text).text
    kinds = {token.type for token in tokens(body)}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open"}
    tame = render_card(make_report([f"layer{number}" for number in range(len(names))])[0], SUBJECT)
    assert [each.type for each in MARKDOWN.parse(body)] == [each.type for each in MARKDOWN.parse(ModelCard(tame).text)]
    assert HOSTILE[0] in "".join(token.content for token in tokens(body))
    text.encode()


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name.isprintable()] + ["1. a", "- a", "# a", "a\\", "&lt;"]
)
def test_what_is_escaped_reads_as_it_was_written(name):
    for text in (plain(name), f"- {plain(name)}"):
        read = [token.content for token in tokens(text) if token.type in {"text", "text_special"}]
        assert "".join(read) == name.strip()
    for text in (code(name), f"| a |\n| - |\n| {cell(name)} |"):
        (span,) = [token for token in tokens(text) if token.type == "code_inline"]
        assert span.content.strip() == name.strip()


def test_an_analysis_has_a_card_that_claims_no_model():
    card = render_card(make_analysis(), Subject())
    assert "no model comes with it" in card
    assert ModelCard(card).data.to_dict() == {
        "library_name": "onnx",
        "tags": ["model-compression", "onnxruntime", "pruning"],
    }
    assert "| model | not known | not known |" in card
