"""The client is installed alone, without anything of the server."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "clients" / "python"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "build"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    # The pip beside the interpreter that made this environment: Debian keeps ensurepip in a package of its own.
    pip = [os.path.realpath(sys.executable), "-m", "pip", "--python", folder / "venv" / "bin" / "python"]
    subprocess.run([*pip, "install", "--quiet", folder / "source"], check=True)
    return folder / "venv" / "bin"


def run(*command, cwd):
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)


def test_it_is_imported_without_the_engine_and_the_server(installed, tmp_path):
    code = (
        "import sys, winnow, winnow.command, importlib.metadata as m;"
        "print(sorted(d.name.lower() for d in m.distributions()));"
        "print({'torch', 'fastapi', 'numpy', 'yaml', 'app'} & set(sys.modules))"
    )
    done = run(installed / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names, loaded = done.stdout.splitlines()
    assert set(ast.literal_eval(names)) <= {
        "winnow-client",
        "httpx",
        "httpcore",
        "h11",
        "anyio",
        "idna",
        "certifi",
        "typing_extensions",
        "sniffio",
    }
    assert loaded == "set()"


def test_its_command_works_there_and_says_what_yaml_needs(installed, tmp_path):
    assert run(installed / "winnow", "--version", cwd=tmp_path).stdout == "0.1.0\n"
    (tmp_path / "recipe.yaml").write_text("[]")
    arguments = ["compress", "a.pt2", "b.npz", "--recipe", "recipe.yaml", "--out", "out"]
    done = run(installed / "winnow", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install 'winnow-client[yaml]'" in done.stderr


def test_its_types_are_there_for_others(installed, tmp_path):
    (tmp_path / "use.py").write_text("import winnow\nreveal_type(winnow.get_job('x').wait())\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed / "python", "use.py"]
    done = run(*command, cwd=tmp_path)
    assert 'Revealed type is "winnow.jobs.JobStatus"' in done.stdout, done.stdout
