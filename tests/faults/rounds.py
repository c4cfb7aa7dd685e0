"""Rounds of faults: jobs are submitted, harm is done at a random moment, and everything must come right."""

import random
import time
from collections import Counter

from sqlalchemy import select

from app.db.tables import JobRow
from tests.compression.digits import write_digits, write_network
from tests.faults.inflict import FAULTS, can_fill, deliver_thrice
from tests.faults.verdict import check, nothing_left

RECIPE = [{"method": "finetune", "epochs": 12, "learning_rate": 0.001}]
STILL_SECONDS = 240


class Rounds:
    """Runs one undisturbed job first, whose length and models are what the others are held to.

    Jobs may take as long as a busy machine makes them, but not ``still_seconds`` in which nothing happens.
    """

    def __init__(self, cluster, folder, seed, say, still_seconds=STILL_SECONDS):
        self.cluster, self.say, self.random = cluster, say, random.Random(seed)
        self.still_seconds = still_seconds
        self.done, self.attempts, self.resumed = Counter(), Counter(), 0
        write_digits(folder / "digits.npz")
        write_network(folder / "digits.pt2", epochs=2)
        self.inputs = (
            cluster.upload("models", folder / "digits.pt2"),
            cluster.upload("datasets", folder / "digits.npz"),
        )
        began = time.monotonic()
        job = self._submit()
        self._await([job])
        self.seconds = time.monotonic() - began
        self.models, *_ = check(cluster, job, None)
        say(f"an undisturbed job takes {self.seconds:.1f} s")

    def faults(self):
        """Name the faults that can be done here."""
        return [name for name in FAULTS if name != "fill the storage" or can_fill(self.cluster)]

    def run(self, name):
        """Do one round with one fault."""
        fault = FAULTS[name]
        # Where messages are lost or doubled, some must still wait behind the job that runs.
        jobs, moment = self._midst(2 if name in ("flush the broker", "deliver thrice") else 1)
        began = time.monotonic()
        if fault is deliver_thrice:
            fault(self.cluster, jobs)
        else:
            fault(self.cluster)
        self._await(jobs)
        checked = [check(self.cluster, job, self.models) for job in jobs]
        attempts = [attempt for _, attempt, _ in checked]
        self.resumed += sum(resumed for *_, resumed in checked)
        self._await_rest()
        self.done[name] += 1
        self.attempts.update(attempts)
        seconds = time.monotonic() - began
        self.say(f"{name} after {moment:.1f} s: right again after {seconds:.1f} s, attempts {attempts}")

    def _midst(self, count):
        """Submit jobs and wait for a random moment of the first; anew where it ended before, on a quicker machine."""
        while True:
            jobs = [self._submit() for _ in range(count)]
            moment = self.random.uniform(0, self.seconds * 0.9)
            time.sleep(moment)
            if not self._rows(jobs)[0].ended_at:
                return jobs, moment
            self._await(jobs)
            self.seconds = moment

    def _submit(self):
        model, dataset = self.inputs
        body = {"model_id": model, "dataset_id": dataset, "recipe": RECIPE}
        return self.cluster.request("POST", "jobs", json=body).json()["id"]

    def _await(self, jobs):
        before, deadline = None, 0
        while True:
            rows = self._rows(jobs)
            if all(row.ended_at for row in rows):
                return
            if rows != before:
                before, deadline = rows, time.monotonic() + self.still_seconds
            assert time.monotonic() < deadline, (rows, self.cluster.engines())
            time.sleep(0.1)

    def _rows(self, jobs):
        query = select(JobRow.id, JobRow.state, JobRow.attempt, JobRow.stage, JobRow.last_event_id, JobRow.ended_at)
        with self.cluster.sessions() as session:
            return session.execute(query.where(JobRow.id.in_(jobs)).order_by(JobRow.id)).all()

    def _await_rest(self):
        deadline = time.monotonic() + self.still_seconds
        while left := nothing_left(self.cluster):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
