"""Deliveries in the database: written with what they tell of, taken by one at a time, settled once, given up."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, event, insert, select
from sqlalchemy.exc import DBAPIError

from app.db import jobs, places
from app.db.engine import make_sessions
from app.db.tables import DeliveryRow, JobRow, WebhookRow, table_of
from app.domain.job import JobState
from app.domain.webhook import GIVEN_UP_AFTER, DeliveryError, DeliveryState
from app.posting import Outcome
from app.services import deliveries
from app.services.deliveries import Bounds
from tests.serving import statements

# Later than any clock, so that the courier of the server leaves all of it alone.
NOW = datetime(2100, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=20)
OK, BAD = Outcome(200, None), Outcome(500, DeliveryError.HTTP_STATUS)


@pytest.fixture(autouse=True)
def alone(sessions):
    """Leave nothing due to the next test."""
    yield
    with sessions.begin() as session:
        for row in session.scalars(select(WebhookRow)):
            session.delete(row)


def make(project, *events):
    body = {"url": "https://receiver.invalid/", "events": list(events) or ["job.succeeded"]}
    return project.client.post("webhooks", json=body).json()["id"]


def end(project, sessions, now=NOW):
    job_id = project.queued()
    project.claim(job_id)
    with sessions.begin() as session:
        assert jobs.finish(session, job_id, 1, JobState.SUCCEEDED, None, None, now)
    return job_id


def take(engine, sessions, now=NOW, underway=(), bounds=None):
    readers = make_sessions(engine, read_only=True)
    held = {it.delivery.id: it for it in underway}
    return deliveries.take(readers, sessions, held, bounds or Bounds(), now, now + LEASE)


def rows_of(sessions, webhook_id):
    with sessions() as session:
        query = select(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id)
        return session.scalars(query.order_by(DeliveryRow.id)).all()


def test_a_delivery_is_there_exactly_when_its_event_is(project, sessions):
    webhook = make(project)
    job_id = project.queued()
    project.claim(job_id)

    class Killed(Exception):
        pass

    with suppress(Killed), sessions.begin() as session:
        assert jobs.finish(session, job_id, 1, JobState.SUCCEEDED, None, None, NOW)
        raise Killed
    assert rows_of(sessions, webhook) == []
    with sessions.begin() as session:
        assert jobs.finish(session, job_id, 1, JobState.SUCCEEDED, None, None, NOW)
    (row,) = rows_of(sessions, webhook)
    assert (row.event, row.state, row.body["data"]["id"]) == ("job.succeeded", "pending", job_id)
    with sessions.begin() as session:
        assert not jobs.finish(session, job_id, 1, JobState.FAILED, None, None, NOW)
    assert len(rows_of(sessions, webhook)) == 1


def test_the_end_of_a_job_costs_one_query_where_nobody_listens(engine, project, sessions):
    job_id = project.queued()
    project.claim(job_id)
    asked = []

    def note(*it):
        asked.append(it[2])

    event.listen(engine, "before_cursor_execute", note)
    with sessions.begin() as session:
        assert jobs.finish(session, job_id, 1, JobState.SUCCEEDED, None, None, NOW)
    event.remove(engine, "before_cursor_execute", note)
    assert len([it for it in asked if "webhooks" in it]) == 1


def test_one_courier_at_a_time_has_a_delivery_and_one_that_died_loses_it(engine, project, sessions):
    webhook = make(project)
    end(project, sessions)
    (parcel,) = take(engine, sessions)
    assert take(engine, sessions) == []
    assert take(engine, sessions, NOW + LEASE - timedelta(seconds=1)) == []
    (again,) = take(engine, sessions, NOW + LEASE)
    assert (again.delivery.id, again.delivery.attempts) == (parcel.delivery.id, 2)
    deliveries.settle(sessions, parcel, BAD, NOW)  # from the dead: it no longer counts
    (row,) = rows_of(sessions, webhook)
    assert (row.state, row.error) == ("pending", None)
    deliveries.settle(sessions, again, OK, NOW)
    (row,) = rows_of(sessions, webhook)
    assert (row.state, row.response_status, row.due_at) == ("delivered", 200, None)


def test_what_nobody_takes_is_given_up_after_a_day_and_the_webhook_disabled(engine, project, sessions):
    webhook = make(project)
    end(project, sessions)
    now, attempts = NOW, 0
    while (row := rows_of(sessions, webhook)[0]).state == DeliveryState.PENDING:
        now = max(now, row.due_at)
        (parcel,) = take(engine, sessions, now)
        deliveries.settle(sessions, parcel, BAD, now)
        attempts += 1
    assert now == NOW + GIVEN_UP_AFTER
    assert (row.state, row.attempts, row.ended_at, row.due_at) == ("failed", attempts, now, None)
    with sessions() as session:
        shown = session.get(WebhookRow, webhook)
        assert (shown.failing_since, shown.disabled_at) == (NOW, now)
    end(project, sessions, now)
    assert len(rows_of(sessions, webhook)) == 1


def test_one_delivery_that_fails_for_a_day_disables_nothing_that_takes_others(engine, project, sessions):
    webhook = make(project)
    end(project, sessions)
    (bad,) = take(engine, sessions)
    deliveries.settle(sessions, bad, BAD, NOW)
    end(project, sessions)
    (good,) = take(engine, sessions)
    deliveries.settle(sessions, good, OK, NOW)
    (bad,) = take(engine, sessions, NOW + GIVEN_UP_AFTER)
    deliveries.settle(sessions, bad, BAD, NOW + GIVEN_UP_AFTER)
    assert sorted(row.state for row in rows_of(sessions, webhook)) == ["delivered", "failed"]
    with sessions() as session:
        assert session.get(WebhookRow, webhook).disabled_at is None


def test_no_receiver_and_no_project_has_more_underway_than_it_may(engine, project, foreign, sessions):
    webhooks = [make(project) for _ in range(3)]
    job_ids = [end(project, sessions) for _ in range(5)]
    make(foreign)
    end(foreign, sessions)
    bounds = Bounds(total=8, failing=1, project=5, webhook=2, failing_webhook=1)
    first = take(engine, sessions, bounds=bounds)
    count = [sum(it.webhook.id == webhook for it in first) for webhook in webhooks]
    assert max(count) == 2
    assert sum(count) == 5
    assert len(first) == 6  # the other project's is not behind those
    assert take(engine, sessions, underway=first, bounds=bounds) == []
    with sessions.begin() as session:
        for webhook in webhooks:
            session.get(WebhookRow, webhook).failing_since = NOW
    failing = take(engine, sessions, NOW + LEASE, bounds=bounds)
    assert len([it for it in failing if it.webhook.id in webhooks]) == 1
    assert len(job_ids) == 5


def test_the_log_is_cleared_of_what_is_old(engine, project, sessions):
    webhook = make(project)
    end(project, sessions)
    readers = make_sessions(engine, read_only=True)
    assert deliveries.forget(readers, sessions, 30, datetime.now(UTC) + timedelta(days=29)) == 0
    assert deliveries.forget(readers, sessions, 30, datetime.now(UTC) + timedelta(days=31)) == 1
    assert rows_of(sessions, webhook) == []


def test_a_page_of_queued_jobs_costs_as_many_queries_as_one(project, server):
    def count(path):
        with statements(server) as asked:
            items = project.client.get(path).json()["items"]
        return len([it for it in asked if "jobs" in it]), items

    model, dataset = project.add_model(), project.add_dataset()
    ids = [project.queued(model_id=model, dataset_id=dataset, priority=number % 3) for number in range(12)]
    one, _ = count("jobs?limit=1")
    many, items = count("jobs")
    assert one == many == 2
    alone = {job_id: project.client.get(f"jobs/{job_id}").json()["queue_position"] for job_id in ids}
    assert {it["id"]: it["queue_position"] for it in items} == alone
    assert sorted(ids, key=alone.get) == sorted(ids, key=lambda it: (-(ids.index(it) % 3), it))


@pytest.mark.parametrize("count", [1, 3])
def test_a_job_claimed_since_it_was_read_has_no_place(engine, project, count):
    model, dataset = project.add_model(), project.add_dataset()
    ids = [project.queued(model_id=model, dataset_id=dataset) for _ in range(count)]
    readers = make_sessions(engine, read_only=True)
    with readers() as session:
        rows = jobs.get_several(session, project.id, ids)
    project.claim(ids[0])
    with readers() as session:
        assert places.queue_positions(session, rows).keys() == set(ids[1:])


def test_places_beyond_those_counted_are_told_as_the_last(engine, project, sessions):
    ids = [project.queued(), project.queued()]
    with sessions.begin() as session:
        row = session.get_one(JobRow, ids[0])
        values = {it.key: getattr(row, it.key) for it in JobRow.__mapper__.column_attrs}
        session.execute(delete(JobRow).where(JobRow.id.in_(ids)))
        more = [values | {"id": f"job_{number:04d}", "priority": 9} for number in range(places.MOST_COUNTED + 2)]
        session.execute(insert(JobRow), more)
    try:
        with make_sessions(engine, read_only=True)() as session:
            rows = jobs.get_several(session, project.id, [more[place]["id"] for place in (0, 1, -2, -1)])
            found = places.queue_positions(session, rows)
            assert [found[it.id] for it in sorted(rows, key=lambda it: it.id)] == [1, 2, 1000, 1000]
            last = max(rows, key=lambda it: it.id)
            assert places.queue_positions(session, [last]) == {last.id: 1000}
    finally:
        with sessions.begin() as session:
            session.execute(delete(JobRow).where(JobRow.project_id == project.id))


def test_a_secret_that_the_database_does_not_take_stands_in_no_error(sessions, project):
    """As errors are logged with all that they say."""
    make(project)
    with sessions() as session:
        (row,) = session.scalars(select(WebhookRow).where(WebhookRow.project_id == project.id))
        again = insert(WebhookRow).values({column.name: getattr(row, column.name) for column in table_of(WebhookRow).c})
        with pytest.raises(DBAPIError) as caught:
            session.execute(again)  # of an id that is there
    assert row.secret.startswith("whsec_")
    assert row.secret not in str(caught.value)
