"""A client that is generated from the OpenAPI document drives the main job."""

import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.api.openapi import examples
from app.db import datasets, models
from tests.factories import dataset_facts, model_facts, npz, pt2

ROOT = Path(__file__).parents[2]
NAME = "generated_winnow"
RECIPE = [{"method": "prune", "amount": 0.5}, {"method": "quantize", "scheme": "static"}]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    # Its last step formats the code with the ruff that is on the path.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    # It knows the pieces of tus by no name of their own.
    config = folder / "config.json"
    config.write_text('{"content_type_overrides": {"application/offset+octet-stream": "application/octet-stream"}}')
    arguments = ["--path", ROOT / "docs" / "openapi.json", "--output-path", folder / NAME, "--config", config]
    done = subprocess.run(
        [*command, *arguments], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield lambda module: importlib.import_module(f"{NAME}.{module}")
    sys.path.remove(str(folder))


def test_it_has_every_operation(generated):
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    for methods in paths.values():
        for operation in methods.values():
            (tag,) = operation["tags"]
            assert generated(f"api.{tag}.{operation['operationId']}").sync_detailed


def test_it_uploads_submits_polls_reads_the_report_and_downloads(generated, project):
    types, schemas = generated("types"), generated("models")
    with generated("client").AuthenticatedClient(base_url=project.server.url, token=project.key) as client:

        def call(tag, operation, /, *arguments, **named):
            return generated(f"api.{tag}.{operation}").sync_detailed(*arguments, client=client, **named)

        def file(content):
            return types.File(payload=io.BytesIO(content))

        network = pt2()
        model = call("models", "create_model", body=file(network), name="digits").parsed
        dataset = call("datasets", "create_dataset", body=file(npz()), name="digits").parsed
        assert (model.state, dataset.state) == ("validating", "validating")
        with project.server.parts.sessions.begin() as session:
            assert models.finish_inspection(session, model.id, model_facts())
            assert datasets.finish_inspection(session, dataset.id, dataset_facts())
        assert call("models", "get_model", model.id, wait=5).parsed.state == "ready"
        assert call("models", "get_model_layers", model.id).parsed.items[0].name == "conv1"

        spec = schemas.JobSpec.from_dict({"model_id": model.id, "dataset_id": dataset.id, "recipe": RECIPE})
        submitted = call("jobs", "create_job", body=spec, idempotency_key="once")
        assert submitted.status_code == 202
        assert call("jobs", "create_job", body=spec, idempotency_key="once").parsed.id == submitted.parsed.id
        job = submitted.parsed
        assert job.recipe[0].amount == 0.5

        project.claim(job.id)
        report = examples()["get_job_report"]["response"]
        artifact_id = project.add_artifact(job.id, "model.pt2", network)
        project.add_artifact(job.id, "report.json", json.dumps(report).encode(), kind="report")
        project.finish(job.id, summary={"size_ratio": 2.88})
        ended = call("jobs", "get_job", job.id, wait=5).parsed
        assert (ended.state, ended.summary["size_ratio"]) == ("succeeded", 2.88)
        found = call("jobs", "get_job_report", job.id).parsed
        assert found.delta.size_ratio == report["delta"]["size_ratio"]
        listed = call("jobs", "list_job_artifacts", job.id).parsed.items
        assert artifact_id in [item.id for item in listed]
        content = call("artifacts", "get_artifact_content", artifact_id)
        assert content.parsed.payload.read() == network
        again = schemas.ModelFromArtifact(name="digits, smaller", artifact_id=artifact_id)
        made = call("models", "create_model", body=again).parsed
        assert made.origin.job_id == job.id

        refused = call("jobs", "create_job", body=schemas.JobSpec.from_dict(spec.to_dict() | {"model_id": "mdl_1"}))
        assert refused.status_code == 404
        assert (refused.parsed.code, refused.parsed.errors[0].pointer) == ("not_found", "/model_id")
