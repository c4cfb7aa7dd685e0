"""``python -m tests.fuzz``: ask the service what nobody foresaw, by its OpenAPI document, with every check."""

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import structlog

from tests.fuzz.world import world

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
_COUNT = re.compile(r"^\s*([\d,]+) generated", re.MULTILINE)


SEVERAL = 12
"""Sequences of requests for each request by itself: most of them end at the first that is refused."""


def fuzz(data, *options):
    """Run schemathesis against a service made for it; give its status, what it said and how many cases it made."""
    with world(data) as found:
        environment = os.environ | {"FUZZ_KEY": found.key, "FUZZ_KEY_ID": found.key_id}
        config = data / "schemathesis.toml"
        config.write_text(CONFIG.read_text() + _known(found.ids))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", "docs/openapi.json"]
        done = subprocess.run(
            [*command, "--url", found.server.url, *options],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    counted = _COUNT.search(done.stdout)
    return done.returncode, done.stdout + done.stderr, int(counted[1].replace(",", "")) if counted else 0


def _known(ids):
    """Let a third of the cases ask about what is there."""
    lines = [f'[dictionaries.{name}]\nvalues = ["{found}"]\n' for name, found in ids.items()]
    bound = [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.3 }}' for name in ids]
    return "\n" + "\n".join([*lines, "[parameters]", *bound]) + "\n"


def main():
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=120, help="cases an operation and a phase, at most")
    parser.add_argument("--least", type=int, default=5000, help="fail where fewer cases were made in all")
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    # The service's own lines, one a request, would hide what is told of them.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seed = [] if asked.seed is None else ["--seed", str(asked.seed)]
    worst, made = 0, 0
    for phases, examples in (("examples,coverage,fuzzing", asked.examples), ("stateful", SEVERAL * asked.examples)):
        with tempfile.TemporaryDirectory() as folder:
            status, said, cases = fuzz(Path(folder), "--phases", phases, "--max-examples", str(examples), *seed)
        print(said)
        worst, made = max(worst, status), made + cases
    if made < asked.least:
        print(f"{made} cases were made, fewer than {asked.least}: ask for more --examples.")
        return 1
    return worst


if __name__ == "__main__":
    sys.exit(main())
