"""What quantization costs and gains, beside ONNX Runtime's own and NNCF's, in one table.

``python -m benchmarks.quantization`` after ``make bench-setup``. Each file and each line of figures stays in the cache
folder and is not made twice, so that a run that is cut off goes on. ``--rows`` and ``--seconds`` bound how many rows
judge and how long a pair is timed, and belong to the name of what they made. All calibrate on the same rows. The last
rows are of a network that static int8 harms: what training with the rounding brings back (``benchmarks.rounding``).
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from app.domain.steps.quantize import QuantizeSpec
from benchmarks.reference import CACHE
from benchmarks.subjects import SUBJECTS, Array, Subject
from workers.compression.formats import onnx as onnx_format
from workers.compression.formats import pt2
from workers.compression.latency import measure_pair, name_rows
from workers.compression.quantization import quantize
from workers.compression.step import Context

FOLDER = CACHE / "quantization"
FLOAT, OURS = "float", "winnow static"
PEERS = ("onnxruntime static", "nncf static")
AGREEING_ROWS = 64
BATCH = 32
Make = Callable[[Subject, Path, Path], dict[str, Any]]
"""Writes a quantized file from a subject and its float file, and gives figures of its own."""


def by_winnow(subject: Subject, _: Path, written: Path, **fields: Any) -> dict[str, Any]:
    """Run one step, write both files and compare the decisions of the two."""
    spec = QuantizeSpec.model_validate({"method": "quantize"} | fields)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(subject.network, subject.data(), 0, torch.device("cpu"), lambda _event: None, Path(folder))
        network = quantize.run(subject.network, spec, context).network
    onnx_format.save(network, written)
    pt2.save(network, written.with_suffix(".pt2"))
    rows = tuple(np.array(values[:AGREEING_ROWS]) for values in subject.rows)
    with torch.no_grad():
        ours = pt2.load(written.with_suffix(".pt2")).module(*map(torch.from_numpy, rows)).numpy()
    theirs = predict(written, rows)
    return {"agreement_of_files": float((ours.argmax(1) == theirs.argmax(1)).mean())}


def by_runtime(subject: Subject, source: Path, written: Path, *, dynamic: bool) -> dict[str, Any]:
    """Quantize the float file with ONNX Runtime's own tools: U8S8 with weights by channel, or its dynamic default."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = feeds(subject.network.signature.inputs, subject.calibration)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        if dynamic:
            quantize_dynamic(prepared, written)
        else:
            quantize_static(
                prepared,
                written,
                Reader(),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    return {}


def by_nncf(subject: Subject, source: Path, written: Path) -> dict[str, Any]:
    """Quantize the float file with NNCF as it comes."""
    import nncf
    import onnx

    rows = list(feeds(subject.network.signature.inputs, subject.calibration, batch=1))
    kind = nncf.ModelType.TRANSFORMER if subject.name == "MiniLM" else None
    found = nncf.quantize(onnx.load(source), nncf.Dataset(rows), subset_size=len(rows), model_type=kind)
    onnx.save(found, written)
    return {}


WAYS: dict[str, Make] = {
    OURS: partial(by_winnow, scheme="static"),
    PEERS[0]: partial(by_runtime, dynamic=False),
    PEERS[1]: by_nncf,
    "winnow dynamic": partial(by_winnow, scheme="dynamic"),
    "onnxruntime dynamic": partial(by_runtime, dynamic=True),
    "winnow int8 packed": partial(by_winnow, scheme="weight_only", weights="int8"),
    "winnow int4 packed": partial(by_winnow, scheme="weight_only", weights="int4"),
    "winnow fp16": partial(by_winnow, scheme="cast"),
}


def feeds(inputs: Iterable[Any], rows: tuple[Array, ...], batch: int = BATCH) -> Iterator[dict[str, Array]]:
    """Give batches of rows by the names of a file's or a signature's inputs."""
    names = [value.name for value in inputs]
    for start in range(0, len(rows[0]), batch):
        yield {name: np.array(values[start : start + batch]) for name, values in zip(names, rows, strict=True)}


def predict(path: Path, rows: tuple[Array, ...]) -> Array:
    """Give the file's first output over all rows, from one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in feeds(session.get_inputs(), rows)])


class Bench:
    """Cells of the table, made once each and kept."""

    def __init__(self, folder: Path, rows: int, seconds: float) -> None:
        self.folder, self.rows, self.seconds = folder, rows, seconds
        folder.mkdir(parents=True, exist_ok=True)
        self._subjects: dict[str, Subject] = {}

    def subject(self, key: str) -> Subject:
        if key not in self._subjects:
            print(f"loading {key}", flush=True)
            self._subjects[key] = SUBJECTS[key](self.rows)
        return self._subjects[key]

    def path(self, key: str, way: str) -> Path:
        return self.folder / f"{key}-{way.replace(' ', '-')}-{self.rows}.onnx"

    def kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Give figures from the cache, or make and keep them; a way that fails is told and not tried again."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            try:
                found = make()
            except Exception as error:  # noqa: BLE001 - peers fail in ways of their own, and the table goes on
                lines = str(error).splitlines() or [""]
                found = {"failed": f"{type(error).__name__}: {lines[0][:120]}"}
            partial_ = path.with_suffix(".partial")
            partial_.write_text(json.dumps(found))
            partial_.replace(path)
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
        return found

    def float_file(self, key: str) -> Path:
        path = self.path(key, FLOAT)
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            onnx_format.save(self.subject(key).network, unfinished)
            unfinished.replace(path)
        return path

    def judged(self, key: str, way: str) -> dict[str, Any]:
        """Give size and figure of one way, and its speed beside the float file's."""

        def make() -> dict[str, Any]:
            path, source, subject = self.path(key, way), self.float_file(key), self.subject(key)
            more = WAYS[way](subject, source, path) if way in WAYS else {}
            figure = subject.judge(predict(path, subject.rows))
            return {"figure": figure, "kind": subject.figure, "bytes": path.stat().st_size} | more

        found = self.kept(f"{key}-{way.replace(' ', '-')}-{self.rows}", make)
        return found | ({} if way == FLOAT or "failed" in found else self.timed(key, FLOAT, way))

    def timed(self, key: str, one: str, other: str) -> dict[str, Any]:
        """Give median(one) / median(other) of one row at a time from one thread, with its interval."""

        def make() -> dict[str, Any]:
            files = self.path(key, one), self.path(key, other)
            rows = name_rows(files[0], self.subject(key).rows)
            (pair,) = measure_pair(*files, (1,), 1, rows, seconds=self.seconds)
            return {
                "speed": pair.ratio.value,
                "speed_ci95": pair.ratio.ci95,
                "p50_ms": pair.compressed.p50_ms,
            }

        names = "-".join(name.replace(" ", "-") for name in (one, other))
        return self.kept(f"{key}-time-{names}-{self.seconds:g}s", make)


def table(bench: Bench, keys: list[str], ways: list[str]) -> None:
    print(
        f"{'network':<20}{'way':<22}{'MB':>8}{'of float':>9}{'figure':>9}{'drop':>9}{'p50 ms':>9}{'speed-up':>10}  95 %"
    )
    for key in keys:
        whole = bench.judged(key, FLOAT)
        print(f"{key:<20}{FLOAT:<22}{whole['bytes'] / 1e6:8.2f}{1:9.3f}{whole['figure']:9.4f}  {whole['kind']}")
        for way in ways:
            found = bench.judged(key, way)
            if "failed" in found:
                print(f"{'':<20}{way:<22}  {found['failed']}", flush=True)
                continue
            low, high = found["speed_ci95"]
            print(
                f"{'':<20}{way:<22}{found['bytes'] / 1e6:8.2f}{found['bytes'] / whole['bytes']:9.3f}"
                f"{found['figure']:9.4f}{whole['figure'] - found['figure']:9.4f}"
                f"{found['p50_ms']:9.3f}{found['speed']:9.2f}  {low:.2f} to {high:.2f}",
                flush=True,
            )
        _beside_peers(bench, key, ways)


def _beside_peers(bench: Bench, key: str, ways: list[str]) -> None:
    """Time static int8 against each peer's in pairs of their own: at most 1.05 of the latency of the best is asked."""
    for peer in PEERS:
        if OURS in ways and peer in ways and not any("failed" in bench.judged(key, way) for way in (OURS, peer)):
            found = bench.timed(key, OURS, peer)
            low, high = found["speed_ci95"]
            print(f"{'':<20}{OURS} takes {found['speed']:.3f} ({low:.3f} to {high:.3f}) of the time of {peer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rows", type=int, default=10_000, help="rows to judge on at most")
    parser.add_argument("--seconds", type=float, default=10, help="limit for each timed pair")
    parser.add_argument("--no-recovery", action="store_true", help="leave out what training with the rounding recovers")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table(Bench(FOLDER, asked.rows, asked.seconds), asked.networks, asked.ways)
    if not asked.no_recovery:
        # It judges by this module's own means.
        from benchmarks.rounding import print_recovery

        print_recovery()


if __name__ == "__main__":
    main()
