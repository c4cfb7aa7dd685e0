import os
import socket
import subprocess
import sys

import pytest

from app.domain.errors import Unavailable
from app.embedded import broker_command, broker_socket, clear_stale_broker, locked, wait_for_broker

pytestmark = pytest.mark.timeout(90)


def ask(path, command):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
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
    assert stale.wait(10) == 0
    assert not path.exists()
    path, process = start(tmp_path)
    assert b"waiting" in ask(path, "GET job")
    process.terminate()
    process.wait(10)


def test_a_socket_too_deep_for_the_kernel_stands_elsewhere(tmp_path):
    data = tmp_path / ("d" * 110)
    data.mkdir()
    path, process = start(data)
    assert len(os.fsencode(path)) <= 107
    assert path.parent.stat().st_mode & 0o777 == 0o700
    process.terminate()
    process.wait(10)
    path.parent.rmdir()


def test_one_service_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(Unavailable, match="already runs"), locked(tmp_path):
        pass


def test_migrations_and_tables_agree():
    subprocess.run([sys.executable, "-m", "app.cli", "migrate", "--check"], check=True, capture_output=True)
