"""The container files, as far as a client without an engine can judge them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REQUIREMENT = re.compile(r"[A-Za-z0-9_.-]+")


def compose_command() -> list[str]:
    if (
        shutil.which("docker")
        and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    ):
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("no compose client on this machine: .ci/system-packages installs one")


def services(*options: str) -> set[str]:
    result = subprocess.run(
        [*compose_command(), *options, "config", "--services"],
        cwd=ROOT,
        env={**os.environ, "POSTGRES_PASSWORD": "secret"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.split())


def test_compose_file_is_valid_and_keeps_the_gpu_behind_a_profile():
    everyday = {"api", "worker-cpu", "worker-inspect", "migrations", "postgres", "redis"}
    assert services("--profile", "gpu") == everyday | {"worker-gpu"}


def test_compose_refuses_to_start_without_a_database_password():
    environment = {name: value for name, value in os.environ.items() if name != "POSTGRES_PASSWORD"}
    result = subprocess.run(
        [*compose_command(), "config"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "POSTGRES_PASSWORD" in result.stderr


def test_every_package_is_pinned():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = {REQUIREMENT.match(item)[0].lower() for item in sum(extras, project["dependencies"])}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    assert {name.replace("_", "-") for name in wanted} <= {name.replace("_", "-") for name in pinned}


def test_api_image_holds_no_engine():
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    api = next(stage for stage in stages if stage.startswith("runtime AS api"))
    assert "worker]" not in api
    assert "torch" not in api
