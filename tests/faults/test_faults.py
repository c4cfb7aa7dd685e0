"""The short form of ``make faults``: one round of each fault that tells most."""

from tests.faults.__main__ import small_disk
from tests.faults.cluster import Cluster
from tests.faults.rounds import Rounds

STILL_SECONDS = 60
NAMES = [
    "kill the worker",
    "kill the child",
    "stop the worker",
    "flush the broker",
    "deliver thrice",
    "cut the database",
]


def test_whatever_dies_every_job_ends_once_and_as_it_should(tmp_path):
    with small_disk(tmp_path / "objects") as objects:
        cluster = Cluster(tmp_path / "data", objects, real=False)
        try:
            rounds = Rounds(cluster, tmp_path, 1, print, STILL_SECONDS)
            names = [*NAMES, *({"fill the storage"} & {*rounds.faults()})]
            for name in names:
                rounds.run(name)
        finally:
            cluster.close()
    assert sum(rounds.done.values()) == len(names)
