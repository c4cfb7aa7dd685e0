"""Accuracy at a half, a quarter and an eighth of network F's MACs: our criteria against Torch-Pruning.

``python -m benchmarks.pruning`` prunes F by each method to the same MACs within 3 %, distils each result from F for the
same steps, rows, order, rate and seed, and judges it on the 10,000 validation rows. Rows of the table are kept in the
cache as they come, so that a run that was cut off goes on; whatever changes a row (F, budget, code) changes its key.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch

from app.domain.steps.prune import PruneSpec
from benchmarks import peer, recovery
from benchmarks.recovery import Budget, accuracy_of, as_network, fashion_rows, make_context, recover, teacher_outputs
from benchmarks.reference import CACHE, NetworkF, read_network_f
from workers.compression.counting import count_macs, count_parameters
from workers.compression.distillation.teacher import Outputs
from workers.compression.environment import read_environment
from workers.compression.formats import onnx
from workers.compression.latency import draw_rows, measure_pair
from workers.compression.network import Network
from workers.compression.pruning import prune, selecting
from workers.compression.step import Context

RATIOS = (2.0, 4.0, 8.0)
CRITERIA = ("l1", "l2", "taylor", "bn_scale")
PEERS = {"torch-pruning": "layer", "torch-pruning global": "global"}
"""Its magnitude pruner as it comes, with one share for every layer, and with scores that compete over the network."""
CONTROL = ("random", "random 1", "random 2")
"""Three draws, of which the mean is the control: one may be lucky."""
METHODS = (*CRITERIA, *CONTROL, *PEERS)
STEPS = 200
SEED = 0
LATENCY_SECONDS = 2.0
_SOURCES = Path(prune.__file__).parent

Method = Callable[[float], Network]


@dataclass(frozen=True)
class Row:
    """One result; ratios are of F over the pruned network, latency of p50 at batch 1 on one thread."""

    method: str
    ratio: float
    before: float
    after: float
    macs_ratio: float
    parameters_ratio: float
    latency_ratio: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.ratio:>4g} {self.method:<21} {self.before:>7.4f} {self.after:>7.4f} {self.macs_ratio:>7.3f}"
            f" {self.parameters_ratio:>7.3f} {self.latency_ratio:>8.2f} {self.seconds:>6.0f}"
        )


@dataclass(frozen=True)
class Bench:
    """What all rows have in common."""

    module: NetworkF
    context: Context
    budget: Budget
    targets: Outputs

    def methods(self) -> dict[str, Method]:
        """Give by name what prunes F to a ratio of MACs."""
        ours = {name: self._by_engine(name, SEED) for name in CRITERIA}
        drawn = {name: self._by_engine("random", SEED + place) for place, name in enumerate(CONTROL)}
        return ours | drawn | {name: self._by_peer(scope) for name, scope in PEERS.items()}

    def _by_engine(self, criterion: str, seed: int) -> Method:
        def run(ratio: float) -> Network:
            # Single channels, as the peer removes: multiples would meet the ratio less exactly.
            asked = {"method": "prune", "criterion": criterion, "macs_ratio": ratio, "round_to": 1}
            spec = PruneSpec.model_validate(asked)
            return prune.run(self.context.baseline, spec, replace(self.context, seed=seed)).network

        return run

    def _by_peer(self, scope: str) -> Method:
        return lambda ratio: peer.prune_by_peer(self.module, ratio, scope=scope)

    def measure(self, name: str, method: Method, ratio: float) -> Row:
        """Prune, recover and measure. Exits where the ratio of MACs is missed by more than 3 %."""
        began, whole = time.monotonic(), self.context.baseline
        pruned = method(ratio)
        met = count_macs(whole) / count_macs(pruned)
        if abs(met / ratio - 1) > selecting.TOLERANCE:
            raise SystemExit(f"{name} met a ratio of {met:.3f}, where {ratio:g} was asked for")
        before = accuracy_of(pruned, self.context)
        recovered = recover(pruned, self.budget, self.context, self.targets)
        files = [self.context.folder / f"{part}.onnx" for part in ("baseline", "pruned")]
        for path, network in zip(files, (whole, recovered), strict=True):
            onnx.save(network, path)
        (pair,) = measure_pair(files[0], files[1], (1,), 1, draw_rows(files[0], SEED), seconds=LATENCY_SECONDS)
        return Row(
            method=name,
            ratio=ratio,
            before=before,
            after=accuracy_of(recovered, self.context),
            macs_ratio=met,
            parameters_ratio=count_parameters(whole) / count_parameters(recovered),
            latency_ratio=pair.ratio.value,
            seconds=time.monotonic() - began,
        )


class Kept:
    """Rows of earlier runs of the same code on the same F within the same budget."""

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / f"pruning-{key}.json"
        self._rows = [Row(**row) for row in json.loads(self._path.read_text())] if self._path.exists() else []

    def find(self, method: str, ratio: float) -> Row | None:
        return next((row for row in self._rows if (row.method, row.ratio) == (method, ratio)), None)

    def add(self, row: Row) -> None:
        self._rows.append(row)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(row) for row in self._rows], indent=1))
        partial.replace(self._path)


def key_of(module: NetworkF, budget: Budget) -> str:
    """Name all that a row depends on but its method and ratio."""
    digest = hashlib.sha256(repr((budget, SEED, torch.__version__)).encode())
    for value in module.state_dict().values():
        digest.update(value.numpy().tobytes())
    for path in (*sorted(_SOURCES.glob("*.py")), Path(__file__), Path(peer.__file__), Path(recovery.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def judge(rows: list[Row]) -> Iterator[str]:
    """Say how far each criterion is above the better of the peer's, and above the mean of the control."""
    for ratio in sorted({row.ratio for row in rows}):
        after = {row.method: row.after for row in rows if row.ratio == ratio}
        theirs = [after[name] for name in PEERS if name in after]
        drawn = [after[name] for name in CONTROL if name in after]
        for name in (name for name in CRITERIA if name in after):
            above = [f"{after[name] - max(theirs):+.4f} to Torch-Pruning"] if theirs else []
            above += [f"{after[name] - fmean(drawn):+.4f} to random"] if drawn else []
            yield f"{ratio:>4g} {name:<9} {', '.join(above)}"


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prune network F by our criteria and by Torch-Pruning.")
    parser.add_argument("--steps", type=int, default=STEPS, help="batches of 128 rows to recover with")
    parser.add_argument("--learning-rate", type=float, default=Budget.learning_rate)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    return parser.parse_args()


def main() -> None:
    asked = _asked()
    module, epochs = read_network_f()
    budget = Budget(asked.steps, asked.learning_rate)
    key = key_of(module, budget)
    kept, baseline = Kept(CACHE, key), as_network(module)
    found = read_environment(torch.get_num_threads(), "benchmark")
    print(f"{found.cpu}, {', '.join(found.isa)}; {found.threads} threads; torch {found.torch}", flush=True)
    with tempfile.TemporaryDirectory(prefix="winnow-pruning-") as name:
        context = make_context(baseline, fashion_rows(budget.rows), Path(name), SEED)
        print(f"F after {epochs} epochs: accuracy {accuracy_of(baseline, context):.4f} on the 10,000 validation rows")
        print(
            f"recovery: {budget.steps} steps of 128 rows once over the first {budget.rows} of train, no augmentation,"
            f" distilled from F at a peak rate of {budget.learning_rate:g}; seed {SEED}"
        )
        print(
            f"{'MACs':>4} {'method':<21} {'before':>7} {'after':>7} {'MACs':>7} {'params':>7} {'latency':>8} {'s':>6}"
        )
        bench = Bench(module, context, budget, teacher_outputs(context, CACHE / f"teacher-{key}.npy"))
        rows = []
        for ratio in asked.ratios:
            for method in asked.methods:
                row = kept.find(method, ratio)
                if row is None:
                    row = bench.measure(method, bench.methods()[method], ratio)
                    kept.add(row)
                rows.append(row)
                print(row, flush=True)
        print("\n".join(judge(rows)))


if __name__ == "__main__":
    main()
