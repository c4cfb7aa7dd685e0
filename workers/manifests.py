"""The signed manifest of a job, delivered last, when all else is."""

import tempfile
from importlib.metadata import version

from app.db import artifacts, datasets, models
from app.db.tables import JobRow
from app.domain.manifest import MANIFEST_FILE, SIGNATURE_FILE, FileDigest, Manifest, Source
from app.domain.task import CHECKPOINT_FILE, ArtifactMessage
from app.services import manifests, signing
from workers.deliveries import deliver
from workers.workplace import Workplace


def deliver_manifest(workplace: Workplace, job: JobRow) -> None:
    """List every artifact that the job keeps, sign the list and deliver both. May be done twice."""
    key = signing.load_key(workplace.signing_key)
    with workplace.sessions() as session:
        model = models.get(session, job.project_id, job.model_id)
        dataset = datasets.get(session, job.project_id, job.dataset_id)
        assert model is not None  # the row's foreign keys
        assert dataset is not None
        left_out = {CHECKPOINT_FILE, MANIFEST_FILE, SIGNATURE_FILE}
        listed = sorted(
            (row.name, row.size_bytes, row.sha256)
            for row in artifacts.of_job(session, job.id)
            if row.name not in left_out
        )
    manifest = Manifest(
        job_id=job.id,
        model=Source(id=model.id, sha256=model.sha256),
        dataset=Source(id=dataset.id, sha256=dataset.sha256),
        artifacts=tuple(FileDigest(name=name, size_bytes=size, sha256=sha256) for name, size, sha256 in listed),
        service=version("winnow"),
        public_key=signing.public_text(key),
    )
    content, signature = manifests.sign(manifest, key)
    for name, data, format_ in ((MANIFEST_FILE, content, "json"), (SIGNATURE_FILE, signature, "text")):
        with tempfile.TemporaryFile(dir=workplace.scratch, buffering=0) as file:
            file.write(data)
            deliver(workplace, job, file, ArtifactMessage(name=name, kind="report", format=format_))
