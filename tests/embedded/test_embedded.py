import os
import signal
import socket
import subprocess
import sys

import pytest
from sqlalchemy import text

from app.db import migrations
from app.db.engine import make_engine
from app.domain.errors import Unavailable
from app.embedded import (
    Household,
    broker_command,
    broker_socket,
    check_address,
    clear_stale_broker,
    locked,
    url_of,
    wait_for_broker,
)

pytestmark = pytest.mark.timeout(150)


def ask(path, command):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(1024)


def start(data):
    path = broker_socket(data)
    process = subprocess.Popen(broker_command(data, path))
    wait_for_broker(path, process)
    return path, process


def test_a_stale_broker_is_ended_and_what_it_held_is_kept(tmp_path):
    path, stale = start(tmp_path)
    ask(path, "SET job waiting")
    clear_stale_broker(path)
    assert stale.wait(60) == 0
    assert not path.exists()
    path, process = start(tmp_path)
    assert b"waiting" in ask(path, "GET job")
    process.terminate()
    process.wait(60)


def test_a_socket_too_deep_for_the_kernel_stands_elsewhere(tmp_path):
    data = tmp_path / ("d" * 110)
    data.mkdir()
    path, process = start(data)
    assert len(os.fsencode(path)) <= 107
    assert path.parent.stat().st_mode & 0o777 == 0o700
    process.terminate()
    process.wait(60)
    path.parent.rmdir()


def test_one_service_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(Unavailable, match="already runs"), locked(tmp_path):
        pass


def test_migrations_and_tables_agree():
    subprocess.run([sys.executable, "-m", "app.cli", "migrate", "--check"], check=True, capture_output=True)


def winnowd(*arguments, **variables):
    command = [sys.executable, "-m", "app.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | variables, timeout=120)


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = winnowd("serve", "--data", tmp_path / "data", "--port", port)
        assert done.returncode == 1
        assert f"port {port}" in done.stderr
        assert "ready" not in done.stdout
        assert not (tmp_path / "data").exists()
    check_address("127.0.0.1", port)


@pytest.mark.parametrize("port", ["0", "999999", "http", "-1"])
def test_a_port_that_is_none_is_told(port):
    done = winnowd("api", "--port", port)
    assert done.returncode == 2
    assert "1 to 65535" in done.stderr


def test_addresses_of_the_sixth_version_stand_in_brackets():
    assert [url_of(host, 1) for host in ("0.0.0.0", "::", "::1", "localhost")] == [
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://[::1]:1",
        "http://localhost:1",
    ]


def test_a_part_that_dies_at_once_again_and_again_ends_the_service(capfd):
    household = Household()
    household.start("part", ["false"])
    with pytest.raises(Unavailable, match="5 times"):
        household.keep()
    assert capfd.readouterr().err.count("starting it again") == 4


def test_commands_beside_serve_find_its_folder_or_say_what_is_missing(tmp_path):
    # An empty folder holds no tables, and no setting is a word where a number belongs.
    missing = winnowd("keys", "list", "--data", tmp_path)
    assert missing.returncode == 1
    assert "migrate" in missing.stderr
    assert "Traceback" not in missing.stderr
    wrong = winnowd("keys", "list", WINNOW_LEASE_SECONDS="abc")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("winnowd: WINNOW_LEASE_SECONDS: ")
    assert winnowd("migrate", WINNOW_DATA=str(tmp_path)).returncode == 0
    assert winnowd("keys", "create", "--name", "mine", "--data", tmp_path).returncode == 0
    assert "mine" in winnowd("keys", "list", "--data", tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["migrate"], {"WINNOW_DATABASE_URL": "mysql://host/db"}, "is of mysql, which"),
        (["migrate"], {"WINNOW_DATABASE_URL": "postgresql://u:secret@host:port/db"}, "WINNOW_DATABASE_URL is no URL"),
        (["migrate"], {"WINNOW_DATABASE_URL": "sqlite://"}, "SQLite needs a file"),
        (["collect"], {"WINNOW_STORAGE_URL": "ftp://host"}, "WINNOW_STORAGE_URL is no storage"),
        (["api"], {"WINNOW_CORS_ORIGINS": "https://console.example"}, "written in JSON"),
        (["serve", "--data", "{file}/data"], {}, "file/data: Not a directory"),
        (["keys", "list", "--data", "{folder}"], {}, "file is not a database"),
        (["keys", "create", "--name", "two\nlines"], {}, "a name has 1 to 200"),
        (["keys", "create", "--name", "n" * 201], {}, "a name has 1 to 200"),
    ],
)
def test_what_is_wrong_with_a_setting_or_a_folder_is_told_in_a_line(tmp_path, arguments, variables, said):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "winnow.db").write_bytes(b"no database" * 500)
    places = {"file": tmp_path / "file", "folder": tmp_path / "folder"}
    done = winnowd(*(it.format(**places) for it in arguments), WINNOW_DATA=str(tmp_path / "data"), **variables)
    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("winnowd")
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_database_of_a_later_version_is_told(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path / 'winnow.db'}")
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    with pytest.raises(Unavailable, match="Where a later one has migrated it"):
        migrations.upgrade(engine)
    engine.dispose()


def open_to_others(folder):
    """Give what other users can read, by names from the folder; below a closed folder nothing counts."""
    found = []
    for path in folder.iterdir():
        if path.stat().st_mode & 0o077:
            found += [path.name, *open_to_others(path)] if path.is_dir() else [path.name]
    return found


def test_nothing_in_a_folder_that_others_can_enter_is_theirs_to_read(tmp_path):
    data = tmp_path / "service"
    data.mkdir()
    data.chmod(0o755)
    assert winnowd("migrate", WINNOW_DATA=str(data)).returncode == 0
    assert open_to_others(data) == []
    # As earlier versions left it.
    (data / "winnow.db").chmod(0o644)
    (data / "objects").mkdir(mode=0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "serve", "--data", str(data), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, umask=0o022) as process:
        assert any("is ready" in line for line in process.stdout)
        found, names = open_to_others(data), {path.name for path in data.iterdir()}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert {"winnow.db", "winnow.db-wal", "admin.key", "objects", "broker"} <= names
    assert found == []
    assert data.stat().st_mode & 0o777 == 0o755
