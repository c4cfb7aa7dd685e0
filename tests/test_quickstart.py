"""docs/quickstart.md does what it says: its blocks are run as they stand, in order, in one shell."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the engine is not installed")

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "quickstart.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
PORT = "8000"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def script(folder):
    """Put the shell blocks behind each other; files are written into the folder, as their blocks ask."""
    lines = ["set -euo pipefail"]
    for language, title, code in BLOCKS:
        if title == "install":
            # What made this environment: only whether there is such a command is asked.
            lines += [f"cd {ROOT}", "export MAKEFLAGS=n", code, "unset MAKEFLAGS", f"cd {folder}"]
        elif language == "python":
            lines += [f"cat > {title} <<'END_OF_FILE'", code + "END_OF_FILE"]
        elif language == "sh":
            lines.append(code)
    # Whatever stops it, the service stops too.
    return "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n" + "\n".join(lines)


@pytest.mark.timeout(600)
def test_every_block_of_the_quickstart_runs(tmp_path):
    text = script(tmp_path).replace(PORT, free_port())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash"], input=text, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=570
    )
    log = tmp_path / "winnow-try" / "winnowd.log"
    told = log.read_text()[-3000:] if log.exists() else ""
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{told}"
    # The first key stands in both.
    for path in (log, tmp_path / "winnow-try" / "service" / "admin.key"):
        assert path.stat().st_mode & 0o077 == 0, path
    names = {path.name for path in (tmp_path / "winnow-try" / "results").iterdir()}
    assert {"model.onnx", "model.pt2", "report.json", "manifest.json", "benchmark.zip"} <= names
    assert "artifacts are what job_" in done.stdout
    used = float(re.search(r"^(0\.\d+) of 500 digits right$", done.stdout, re.MULTILINE)[1])
    judged = float(re.search(r"^after   accuracy (\S+)", done.stdout, re.MULTILINE)[1])
    assert used == pytest.approx(judged, abs=1e-4)
    with np.load(tmp_path / "winnow-try" / "digits.npz") as arrays:
        assert len(arrays["validation.x"]) == 500


def test_blocks_are_commands_files_or_samples_of_what_is_printed():
    assert {language for language, _, _ in BLOCKS} == {"sh", "python", "text"}
    assert all(title.endswith(".py") for language, title, _ in BLOCKS if language == "python")
    assert sum(language == "sh" for language, _, _ in BLOCKS) >= 10


def test_every_file_that_a_document_links_to_is_there():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text())
        missing = [link for link in links if not (path.parent / link).exists()]
        assert missing == [], f"{path.name} links to {missing}"
