"""The long form: ``python -m tests.hostile [MUTATIONS PER FORMAT]`` prints how every hostile file ended.

``--write-reasons`` keeps why each crafted file was refused; read what changed before committing it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from tests.e2e.service import Service
from tests.hostile.corpus import Tally, run_crafted, run_labels, run_mutations, write_real
from tests.hostile.crafted import make_all
from tests.hostile.labels import make_labels
from tests.hostile.live import run_live

REASONS = Path(__file__).with_name("reasons.json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument("mutations", type=int, nargs="?", default=600)
    parser.add_argument("--write-reasons", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        marker = folder / "marker"
        files = write_real(folder)
        tally = Tally()
        run_crafted(tally, folder, files["pt2"], marker)
        crafted_passed = list(tally.passed)
        if given.write_reasons:
            REASONS.write_text(json.dumps(tally.reasons, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        run_labels(tally, folder)
        run_mutations(tally, folder, files, given.mutations)
        ran = marker.exists()
    print(*tally.lines(), sep="\n")
    changed, harmless = (sum(after[end] for after in tally.after.values()) for end in ("changed", "harmless"))
    print(f"valid after mutation: {changed}, run harmlessly: {harmless}; only an upload's Repr-Digest tells of these")
    print(f"crafted files that passed: {[path.name for path in crafted_passed]}; code ran: {ran}")
    _upload_all()
    return int(ran or bool(crafted_passed))


def _upload_all() -> None:
    """Send what was crafted through a live service as well; raises where one is taken or a part dies."""
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name, "corpus")
        corpus.mkdir()
        made = [*make_all(corpus, write_real(corpus)["pt2"]), *make_labels(corpus)]
        service = Service(Path(name, "data"))
        try:
            ends = run_live(service, made)
        finally:
            service.close()
    print(f"{ends.total()} uploaded to a live service, none taken, no 5xx, no part died:")
    print(", ".join(f"{code} {count}" for code, count in ends.most_common()))


if __name__ == "__main__":
    sys.exit(main())
