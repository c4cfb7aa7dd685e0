import base64

from app.db.tables import ModelRow
from app.domain.errors import ObjectiveMissed
from app.domain.manifest import Manifest
from app.services import signing
from workers.runner import run_job

LEAVES = """
open(out + "/model.onnx", "w").write("small")
say(type="artifact", name="model.onnx", kind="model", format="onnx")
"""
TURNED_DOWN = ObjectiveMissed("too much was lost").failure().model_dump(mode="json")


def test_a_job_leaves_a_signed_list_of_all_else_that_it_left(site, job_id):
    run_job(site.workplace(LEAVES + 'say(type="done")'), job_id, 1)
    content, signature = site.manifest(job_id)
    manifest = Manifest.model_validate_json(content)
    assert {found.name: found.sha256 for found in manifest.artifacts} == {
        name: row.sha256 for name, row in site.artifacts(job_id).items()
    }
    assert {found.name for found in manifest.artifacts} == {"job.log", "model.onnx"}
    job = site.job(job_id)
    assert (manifest.job_id, manifest.model.id, manifest.dataset.id) == (job_id, job.model_id, job.dataset_id)
    assert manifest.model.sha256 == site.upload(ModelRow, job.model_id).sha256
    key = signing.load_key(site.data / "signing.key")
    assert manifest.public_key == signing.public_text(key)
    assert signing.is_signed(content, base64.b64decode(signature), signing.public_text(key))


def test_a_failed_jobs_files_are_listed_too(site, job_id):
    run_job(site.workplace(LEAVES + f'say(type="failure", failure={TURNED_DOWN!r})'), job_id, 1)
    assert site.job(job_id).state == "failed"
    assert b"model.onnx" in site.manifest(job_id)[0]


def test_a_child_signs_nothing(site, job_id):
    body = """
    open(out + "/manifest.json", "w").write("{}")
    say(type="artifact", name="manifest.json", kind="report", format="json")
    """
    run_job(site.workplace(body), job_id, 1)
    assert site.job(job_id).state == "queued"  # a breach of the protocol: tried again
    assert site.manifest(job_id) is None


def test_a_job_whose_files_cannot_be_signed_is_tried_again(site, job_id):
    (site.data / "signing.key").write_text("no key")
    run_job(site.workplace(LEAVES + 'say(type="done")'), job_id, 1)
    assert site.job(job_id).state == "queued"
    assert site.events(job_id)[-1].data == {"state": "queued", "reason": "unavailable"}
    assert site.manifest(job_id) is None
