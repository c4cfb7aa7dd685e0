import csv
import io
import json
import platform
import subprocess
import sys
import zipfile

import numpy as np
import onnxruntime
import pytest
from torch import nn

from tests.compression.quantization.networks import make_network
from workers.compression import environment as environment_module
from workers.compression.bundle import write_bundle
from workers.compression.environment import has_vnni, isa, read_environment
from workers.compression.formats import onnx as onnx_format
from workers.compression.latency import measure_pair


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    for name, width in (("baseline", 512), ("compressed", 16)):
        network = make_network(nn.Sequential(nn.Linear(32, width), nn.Linear(width, 4)), (32,))
        onnx_format.save(network, folder / f"{name}.onnx")
    files = folder / "baseline.onnx", folder / "compressed.onnx"
    rows = {"input": np.random.default_rng(3).standard_normal((4, 32), np.float32)}
    latency = measure_pair(*files, (1, 2), 1, rows, seconds=0.0)
    # What numpy calls its own arguments may be the name of an input.
    rows = {"file": rows["input"]}
    for name in ("first.zip", "second.zip"):
        write_bundle(folder / name, *files, latency, rows, environment=read_environment(1, "1.2.3"))
    return folder, latency


def unpack(bundle, folder):
    with zipfile.ZipFile(bundle[0] / "first.zip") as archive:
        archive.extractall(folder)
    return folder


def run_harness(folder, *arguments):
    # -I: neither this checkout nor the environment's variables may help it.
    command = [sys.executable, "-I", "benchmark.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_same_measurement_gives_the_same_bytes(bundle):
    folder, _ = bundle
    assert (folder / "first.zip").read_bytes() == (folder / "second.zip").read_bytes()


def test_the_harness_repeats_the_measurement_alone(bundle, tmp_path):
    done = run_harness(unpack(bundle, tmp_path), "--seconds", "0.01")
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert [(row[0], row[2]) for row in table if row[0] in {"1", "2"}] == [
        ("1", "baseline.onnx"), ("1", "model.onnx"), ("2", "baseline.onnx"), ("2", "model.onnx"),
    ]  # fmt: skip
    assert done.stdout.count("ratio of medians") == 2


def test_the_bundle_runs_the_rows_that_the_job_did(bundle, tmp_path):
    folder = unpack(bundle, tmp_path)
    with np.load(folder / "inputs.npz") as stored:
        assert np.array_equal(stored["file"], np.random.default_rng(3).standard_normal((4, 32), np.float32))
    assert run_harness(folder, "--seconds", "0.01").stdout.startswith("rows of file 32\n")


def test_the_harness_runs_where_nothing_can_be_pinned(bundle, tmp_path):
    folder = unpack(bundle, tmp_path)
    script = (
        "import os, runpy, sys; sys.platform = 'darwin'; del os.sched_getaffinity, os.sched_setaffinity;"
        " sys.argv = ['benchmark.py', '--seconds', '0.01']; runpy.run_path('benchmark.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ratio of medians") == 2


def test_the_harness_measures_noise_again_and_tells_of_it(bundle, tmp_path):
    folder = unpack(bundle, tmp_path)
    script = (
        "import sys; sys.path.insert(0, '.'); import benchmark; benchmark.WIDEST_SPREAD = -1.0; tries = [];"
        " rounds = benchmark.time_rounds; benchmark.time_rounds = lambda *given: tries.append(1) or rounds(*given);"
        " sys.argv = ['benchmark.py', '--seconds', '0', '--batch-sizes', '1']; benchmark.main(); print(len(tries))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3"
    assert done.stdout.count("noisy") == 3  # both files, and the ratio


def test_the_harness_refuses_another_file(bundle, tmp_path):
    folder = unpack(bundle, tmp_path)
    (folder / "model.onnx").write_bytes((folder / "baseline.onnx").read_bytes())
    done = run_harness(folder)
    assert done.returncode != 0
    assert "model.onnx is not the file that was measured" in done.stderr


def test_samples_and_environment_are_those_of_the_job(bundle, tmp_path):
    folder = unpack(bundle, tmp_path)
    samples = list(csv.DictReader(io.StringIO((folder / "samples.csv").read_text())))
    for measured in bundle[1]:
        mine = [row for row in samples if int(row["batch_size"]) == measured.batch_size]
        assert {row["round"] for row in mine} == {"0", "1", "2", "3", "4"}
        np.testing.assert_allclose([float(row["baseline_ms"]) for row in mine], measured.baseline_ms, atol=1e-6)
        np.testing.assert_allclose([float(row["compressed_ms"]) for row in mine], measured.compressed_ms, atol=1e-6)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["service"] == "1.2.3"
    assert environment["python"] == platform.python_version()
    pins = (folder / "requirements.txt").read_text().split()
    assert pins == [f"numpy=={np.__version__}", f"onnxruntime=={onnxruntime.__version__}"]


@pytest.mark.parametrize(
    ("flags", "extensions", "vnni"),
    [
        ("fpu avx avx2 fma", ("avx", "avx2", "fma"), False),
        ("avx2 avx_vnni", ("avx2", "avx_vnni"), True),
        ("avx512f avx512_vnni", ("avx512f", "avx512_vnni"), True),
    ],
)
def test_the_processors_own_words_tell_its_extensions(tmp_path, monkeypatch, flags, extensions, vnni):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: Test CPU\nflags\t\t: {flags}\n\nmodel name\t: another\nflags\t\t: sse4_2\n")
    monkeypatch.setattr(environment_module, "_CPUINFO", cpuinfo)
    environment_module._cpuinfo.cache_clear()
    try:
        assert (isa(), has_vnni()) == (extensions, vnni)
        assert read_environment(2, "x").cpu == "Test CPU"
    finally:
        environment_module._cpuinfo.cache_clear()
