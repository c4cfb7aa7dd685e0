"""What the command refuses before it sends a file, and answers that are none of a service's."""

import json

import pytest
import winnow
from winnow import recipes
from winnow.command import main

from app.domain.job import JobSpec
from tests.factories import PRUNE

PAGE = (200, {"Content-Type": "text/html"}, b"<html>Welcome</html>")
STEPS = [{"method": "prune"}]


@pytest.fixture
def command(flaky, tmp_path, monkeypatch):
    """Give what runs ``winnow compress`` with a recipe of this text, and the requests that came of it."""
    monkeypatch.setenv("WINNOW_URL", flaky.url)
    monkeypatch.setenv("WINNOW_KEY", "key")
    for name in ("net.pt2", "data.npz"):
        (tmp_path / name).write_bytes(b"x")

    def run(text, *arguments, name="recipe.yaml"):
        (tmp_path / name).write_text(text)
        files = [str(tmp_path / it) for it in ("net.pt2", "data.npz")]
        out = ["--recipe", str(tmp_path / name), "--out", str(tmp_path / "out")]
        return main(["compress", *files, *out, *arguments])

    return run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- prune", "Step 1 is 'prune'"),
        ('{"recipe": [1]}', "Step 1 is 1"),
        ("- {method: prune, when: 2026-01-01}", "JSON has no words for"),
        ("- {method: prune, amount: .nan}", "JSON has no words for"),
        ("- {method: prune, when: 2026-13-45}", "it is no YAML"),
        ("[" * 100_000, "it is no YAML"),
        *(
            (json.dumps({"recipe": STEPS, name: "x"}), f"it names {name};")
            for name in ("model", "dataset", "device", "idempotency_key", "max_drop", "progress")
        ),
        (json.dumps({"recipe": STEPS, "model_id": "mdl_1"}), "it names model_id, which"),
        (json.dumps({"recipe": STEPS, "objective": [1]}), "The objective is [1]"),
    ],
)
def test_a_recipe_that_can_be_none_is_told_before_any_upload(command, flaky, capsys, text, said):
    for arguments in ([], ["--max-drop", "0.1"]):
        assert command(text, *arguments) == 1
        told = capsys.readouterr().err
        assert told.startswith("winnow: ")
        assert "recipe.yaml is no recipe" in told
        assert said in told
    assert flaky.requests == []


@pytest.mark.parametrize("text", ["[" * 100_000, '{"recipe": [' + "9" * 5000 + "]}"])
def test_json_that_cannot_be_read_is_told_too(command, flaky, capsys, text):
    assert command(text, name="recipe.json") == 1
    assert "it is no JSON" in capsys.readouterr().err
    assert flaky.requests == []


@pytest.mark.parametrize("share", ["nan", "-1", "1.5", "much"])
def test_a_drop_that_is_no_share_is_wrong_usage(command, flaky, share):
    with pytest.raises(SystemExit) as left:
        command("- {method: prune}", "--max-drop", share)
    assert left.value.code == 2
    assert flaky.requests == []


@pytest.mark.parametrize(
    ("arguments", "name"), [([], "from the file"), (["--name", "from the shell"], "from the shell")]
)
def test_a_job_is_named_by_the_command_else_by_the_recipe(project, tmp_path, monkeypatch, capsys, arguments, name):
    monkeypatch.setenv("WINNOW_URL", project.server.url)
    monkeypatch.setenv("WINNOW_KEY", project.key)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"name": "from the file", "recipe": [PRUNE]}))
    asked = [project.add_model(), project.add_dataset(), "--recipe", str(recipe), "--out", str(tmp_path), "--detach"]
    assert main(["compress", *asked, *arguments]) == 0
    (job_id,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("job_"))
    assert project.client.get(f"jobs/{job_id}").json()["name"] == name


def test_recipe_files_may_name_every_field_of_a_job_that_the_command_does_not_fill_in():
    assert recipes.FIELDS | {"model_id", "dataset_id"} == JobSpec.model_fields.keys()


@pytest.mark.parametrize(
    ("recipe", "fields"),
    [("prune", {}), ({"method": "prune"}, {}), ([1], {}), (STEPS, {"objective": [1], "max_drop": 0.1})],
)
def test_in_python_too_nothing_is_uploaded(stubborn, flaky, tmp_path, recipe, fields):
    with pytest.raises(winnow.ConfigurationError) as caught:
        stubborn.submit_job(tmp_path / "net.pt2", tmp_path / "data.npz", recipe, **fields)
    assert caught.value.code == "bad_recipe"
    assert flaky.requests == []


@pytest.mark.parametrize("answer", [PAGE, (200, {}, ["no object"])])
def test_an_answer_of_something_else_is_told(command, flaky, capsys, answer):
    flaky.answers = [answer]
    assert main(["jobs"]) == 1
    assert command("- {method: prune}") == 1
    for line in capsys.readouterr().err.splitlines():
        if line.startswith("winnow: "):
            assert f"{flaky.url}/api/v1/" in line
            assert "as no Winnow service does. Check the address" in line
    assert len(flaky.requests) == 2


def test_an_upload_in_pieces_to_something_else_is_told(stubborn, flaky, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"x")
    flaky.answers = [PAGE]
    with pytest.raises(winnow.ConnectionFailed) as caught:
        stubborn.upload_model(tmp_path / "net.pt2", resumable=True)
    assert caught.value.code == "not_the_service"
