from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from app.db import outbox
from app.db.tables import DatasetRow, ModelRow, OutboxRow
from app.domain.model import ObjectState
from app.services import recovery
from app.storage import content_key
from workers.inspection import inspect
from workers.workplace import Timing

MINUTE = timedelta(minutes=1)


def upload(site, row_class, name, state=ObjectState.READY):
    path = site.data / name
    path.write_bytes(name.encode())
    return site.add_upload(row_class, path, state)


def take_messages(site):
    """Publish to nowhere, as a broker that loses everything."""
    with site.sessions.begin() as session:
        rows = session.scalars(select(OutboxRow)).all()
        for row in rows:
            session.delete(row)
    return [row.payload for row in rows]


def sweep(site, later, waiting=0):
    now = datetime.now(UTC) + later
    return recovery.sweep(site.sessions, site.sessions, lambda _: waiting, now - MINUTE, now)


def test_a_job_whose_message_was_lost_is_asked_for_again_and_once_a_minute(site):
    job = site.submit(upload(site, ModelRow, "m.pt2"), upload(site, DatasetRow, "d.npz"))
    assert sweep(site, 2 * MINUTE) == 0  # the message is still to be published
    assert take_messages(site) == [{"job_id": job, "attempt": 1}]
    assert sweep(site, MINUTE / 2) == 0
    assert sweep(site, 2 * MINUTE, waiting=1) == 0  # the broker holds it
    assert sweep(site, 2 * MINUTE) == 1
    assert take_messages(site) == [{"job_id": job, "attempt": 1}]
    assert sweep(site, 2.5 * MINUTE) == 0
    assert sweep(site, 4 * MINUTE) == 1


@pytest.mark.parametrize(
    ("kind", "row_class", "name"), [("model", ModelRow, "m.pt2"), ("dataset", DatasetRow, "d.npz")]
)
def test_an_upload_whose_inspection_was_lost_is_asked_for_again(site, kind, row_class, name):
    row = upload(site, row_class, name, ObjectState.VALIDATING)
    upload(site, row_class, f"ready-{name}")
    assert sweep(site, MINUTE / 2) == 0
    assert sweep(site, 2 * MINUTE) == 1
    assert take_messages(site) == [{"kind": kind, "id": row.id}]
    assert sweep(site, 2 * MINUTE) == 0


def test_an_inspection_at_work_is_not_asked_for_again(site):
    row = upload(site, ModelRow, "m.pt2", ObjectState.VALIDATING)
    body = 'import time\ntime.sleep(1.5)\nsay(type="done")\nopen(out + "/facts.json", "w").write("none")'
    inspect(replace(site.workplace(body), timing=Timing(lease_seconds=0.4)), "model", row.id)
    after = site.upload(ModelRow, row.id)
    assert after.state == ObjectState.REJECTED
    assert after.asked_at > row.asked_at + timedelta(seconds=1)


def test_an_inspection_waits_for_a_storage_that_cannot_be_read(site):
    row = upload(site, ModelRow, "m.pt2", ObjectState.VALIDATING)
    path = site.data / "objects" / content_key(site.project, row.sha256)
    path.unlink()
    path.symlink_to(path)  # there, and cannot be opened
    workplace = site.workplace('say(type="done")')
    inspect(workplace, "model", row.id)
    assert site.upload(ModelRow, row.id).state == ObjectState.VALIDATING
    with site.sessions() as session:
        message = session.scalars(select(OutboxRow)).one()
    assert (message.task, message.payload) == (outbox.INSPECT, {"kind": "model", "id": row.id})
    assert message.due_at > message.created_at
