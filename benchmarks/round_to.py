"""Whether widths that are multiples buy time: network F at the same MACs, multiples against single channels.

``python -m benchmarks.round_to [--multiples 4 8 16] [--seconds 3]`` prints, for fp32 and static int8 at batch 1 on one
thread, how many times faster the file of multiples runs, with its 95 % interval, both timed in turn.
"""

import argparse
import tempfile
from pathlib import Path

from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec
from benchmarks.recovery import as_network, fashion_rows, make_context
from benchmarks.reference import read_network_f
from workers.compression.counting import count_macs
from workers.compression.environment import read_environment
from workers.compression.formats import onnx
from workers.compression.latency import draw_rows, measure_pair
from workers.compression.network import Network
from workers.compression.pruning import prune
from workers.compression.quantization import static
from workers.compression.step import Context

RATIOS = (2.0, 4.0, 8.0)
CALIBRATION_ROWS = 256


def write_files(network: Network, multiple: int, context: Context) -> dict[str, Path]:
    """Write a pruned network in both arithmetics."""
    paths = {kind: context.folder / f"{kind}-{multiple}.onnx" for kind in ("fp32", "int8")}
    onnx.save(network, paths["fp32"])
    spec = QuantizeSpec(method="quantize", samples=CALIBRATION_ROWS)
    onnx.save(static.run(network, spec, context).network, paths["int8"])
    return paths


def measure(ratio: float, multiples: list[int], context: Context, seconds: float) -> None:
    """Print a line for each multiple and arithmetic at one ratio of MACs."""
    whole, files, met = count_macs(context.baseline), {}, {}
    for multiple in (1, *multiples):
        spec = PruneSpec(method="prune", macs_ratio=ratio, round_to=multiple)
        smaller = prune.run(context.baseline, spec, context).network
        met[multiple] = whole / count_macs(smaller)
        files[multiple] = write_files(smaller, multiple, context)
    for multiple in multiples:
        for kind in ("fp32", "int8"):
            (pair,) = measure_pair(
                files[1][kind], files[multiple][kind], (1,), 1, draw_rows(files[1][kind], 0), seconds=seconds
            )
            low, high = pair.ratio.ci95
            print(
                f"{ratio:>5g} {met[1]:>8.3f} {met[multiple]:>8.3f} {multiple:>8} {kind} {pair.baseline.p50_ms:>8.3f}"
                f" {pair.compressed.p50_ms:>8.3f} {pair.ratio.value:>6.2f} ({low:.2f} to {high:.2f})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time network F with widths that are multiples and widths that are not."
    )
    parser.add_argument("--multiples", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seconds", type=float, default=3.0, help="limit for each pair of files")
    asked = parser.parse_args()
    network, epochs = read_network_f()
    found = read_environment(1, "benchmark")
    print(f"{found.cpu}, {', '.join(found.isa)}; ONNX Runtime {found.onnxruntime}; F after {epochs} epochs")
    print(f"{'MACs':>5} {'met by 1':>8} {'met':>8} {'multiple':>8}      {'1, ms':>8} {'ms':>8} {'faster':>6} (95 %)")
    with tempfile.TemporaryDirectory(prefix="winnow-round-to-") as name:
        baseline = as_network(network)
        context = make_context(baseline, fashion_rows(CALIBRATION_ROWS), Path(name), 0)
        for ratio in RATIOS:
            measure(ratio, asked.multiples, context, asked.seconds)


if __name__ == "__main__":
    main()
