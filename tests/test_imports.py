"""The service and the Celery parent stay light: what computes is loaded by the engine's own process alone."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "scipy", "safetensors", "matplotlib", "jinja2"}


@pytest.mark.parametrize("modules", ["app.main", "app.cli", "app.embedded", "workers.celery_app, workers.tasks"])
def test_nothing_heavy_is_imported(modules):
    code = f"import sys, {modules}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_what_draws_and_what_reads_one_format_is_imported_by_the_engine_only_once_it_does():
    code = (
        "import sys, workers.compression.pipeline, workers.compression.analysis, workers.compression.inspection;"
        "print(*{'matplotlib', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
