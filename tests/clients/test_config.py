"""Where the client finds the service: arguments, the environment, a file."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import winnow
from winnow import config, recipes

URL, KEY = "http://127.0.0.1:9", "key_1.secret"


def test_arguments_come_before_the_environment_and_that_before_the_file(monkeypatch):
    path = config.save(f"{URL}/api/v1/", KEY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert config.load() == config.Config(URL, KEY)
    monkeypatch.setenv("WINNOW_URL", "http://elsewhere")
    with pytest.raises(winnow.ConfigurationError, match="no key for http://elsewhere"):
        config.load()  # a key goes to the service that it is of
    monkeypatch.setenv("WINNOW_KEY", "other")
    assert config.load() == config.Config("http://elsewhere", "other")
    assert config.load(URL, "third") == config.Config(URL, "third")
    assert "other" not in repr(config.load())


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "http://[::1",
        "http://host:port",
        "http://127.0.0.1:99999",
        "http://two..dots",
        "http://" + "a" * 64,
    ],
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(winnow.ConfigurationError, match="is no address"):
        config.load(url, KEY)


def test_a_file_that_is_no_text_is_told():
    path = config.save(URL, KEY)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(winnow.ConfigurationError, match=r"client\.toml is no text"):
        winnow.Client()


def test_without_any_it_says_what_to_do():
    with pytest.raises(winnow.ConfigurationError, match="winnow configure"):
        winnow.Client()


def test_the_functions_of_the_module_are_those_of_one_client(monkeypatch, project):
    monkeypatch.setenv("WINNOW_URL", project.server.url)
    monkeypatch.setenv("WINNOW_KEY", project.key)
    monkeypatch.setattr(winnow, "_default", None)
    assert winnow.get_jobs() == []
    assert {name for name in winnow._FUNCTIONS if not callable(getattr(winnow, name))} == set()
    assert set(winnow._FUNCTIONS) < set(dir(winnow))
    winnow.default_client().close()


def test_recipes_are_read_from_yaml_and_json(tmp_path):
    steps = [{"method": "prune", "amount": 0.5}]
    (tmp_path / "steps.yaml").write_text("- {method: prune, amount: 0.5}")
    (tmp_path / "job.json").write_text('{"recipe": [{"method": "prune", "amount": 0.5}], "seed": 3}')
    assert recipes.read(tmp_path / "steps.yaml") == {"recipe": steps}
    assert recipes.read(tmp_path / "job.json") == {"recipe": steps, "seed": 3}
    for name, text, why in (
        ("a.yaml", "a: [", "no YAML"),
        ("b.json", "[", "no JSON"),
        ("c.yaml", "word", "neither a list"),
        ("d.json", '{"recipe": [], "model_id": "mdl_1"}', "names model_id"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(winnow.ConfigurationError, match=why):
            recipes.read(tmp_path / name)


def run(environment, *arguments, **options):
    command = [sys.executable, "-m", "winnow", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


def test_configure_asks_the_service_before_it_writes(home, project):
    environment = {"XDG_CONFIG_HOME": str(home / "config"), "HOME": str(home)}
    refused = run(environment, "--url", project.server.url, "configure", "--key", "key_1.wrong")
    assert refused.returncode == 1
    assert "unauthenticated" in refused.stderr
    assert not config.config_file().exists()
    unasked = run(environment, "configure", stdin=subprocess.DEVNULL)
    assert (unasked.returncode, "Traceback" in unasked.stderr) == (1, False)
    assert "give --url" in unasked.stderr
    done = run(environment, "--url", project.server.url, "configure", "--key", project.key)
    assert done.returncode == 0, done.stderr
    job_id = project.queued(name="from the shell")
    listed = run(environment, "jobs").stdout
    assert job_id in listed
    assert "from the shell" in listed
    assert run(environment, "targets").stdout.split()[4] == winnow.DEVICE
    assert "prune" in run(environment, "methods").stdout
    assert run(environment, "cancel", job_id).stdout == "cancelled\n"
    again = run(environment, "cancel", job_id)
    assert (again.returncode, "job_ended" in again.stderr) == (1, True)
    assert run(environment, "wait", job_id).returncode == 5
    assert run(environment, "retry", job_id).stdout == "queued\n"
    assert run(environment, "nothing").returncode == 2


def test_what_is_installed_is_typed():
    assert (Path(winnow.__file__).parent / "py.typed").exists()
