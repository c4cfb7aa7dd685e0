"""Within the walls the engine's real work still works."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from shutil import which

import pytest

from tests.workers.walls import ask
from workers.isolation.backends import NONE, Isolation, probe, works
from workers.isolation.policy import GIBIBYTE, Limits
from workers.sandbox import Sandbox

ROOT = Path(__file__).parents[3]
SYSTEM_PYTHON = "/usr/bin/python3"


def test_networks_are_trained_exported_and_run(sandbox, tmp_path):
    roomy = Sandbox(sandbox.isolation, Limits(4 * GIBIBYTE, GIBIBYTE))
    body = """
    import platform, subprocess, warnings
    warnings.simplefilter("ignore")
    import onnxruntime, torch
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 2))
    x = torch.randn(2, 3, 8, 8)
    network(x).sum().backward()
    exported = torch.export.export(network.eval(), (x,))
    torch.export.save(exported, "network.pt2")
    torch.export.load("network.pt2")
    torch.onnx.export(network, (x,), "network.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession("network.onnx")
    output, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    script = "print(open('/proc/cpuinfo').read(9))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    print(json.dumps([abs(float(output.sum() - network(x).sum())) < 1e-4, child.stdout.strip()]))
    """
    assert ask(roomy, tmp_path, body) == [True, "processor"]


def test_a_machine_without_walls_is_told_as_such(tmp_path):
    assert not works(Isolation("bubblewrap", NONE.command))
    assert probe().name in {"bubblewrap", "landlock"}


@pytest.mark.skipif(os.getuid() != 0 or not Path(SYSTEM_PYTHON).exists(), reason="becomes another user")
def test_an_ordinary_user_has_the_same_walls(sandbox, tmp_path):
    code = tmp_path / "code"
    for package in ("app", "workers"):
        (code / package).mkdir(parents=True)
        (code / package / "__init__.py").write_text("")
    subprocess.run(["cp", "-r", str(ROOT / "workers" / "isolation"), str(code / "workers")], check=True)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(code)!r})
        from workers.isolation import backends
        raise SystemExit(not backends.works(backends.{sandbox.isolation.name.upper()}))
    """)
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    done = subprocess.run([SYSTEM_PYTHON, "-c", script], check=False, cwd="/", env={}, **nobody)
    assert done.returncode == 0


def test_bubblewrap_that_is_missing_is_no_walls(monkeypatch):
    if which("bwrap") is None:
        pytest.skip("bubblewrap is not here to be missed")
    monkeypatch.setenv("PATH", "/nonexistent")
    done = subprocess.run(
        [sys.executable, "-c", "from workers.isolation.backends import probe; print(probe().name)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() in {"landlock", "none"}
