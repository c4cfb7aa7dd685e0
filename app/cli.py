"""``winnowd``, the command of the server side."""

import argparse
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.db.engine import Sessions

QUEUES = ("cpu", "gpu", "inspect")
_LOOPBACK = "127.0.0.1"
_PORT = 8000
_HIGHEST_PORT = 65535
_MOST_PROCESSES = 64
_HUNG_SECONDS = 30


_SERVER: dict[str, Any] = {
    # Its lines are written as ours are; those of each request are ours.
    "log_config": None,
    "access_log": False,
    "server_header": False,
    # There are none: a request that asks for one is answered as if it had not.
    "ws": "none",
    # Streams and long polls are cut after this; their clients resume.
    "timeout_graceful_shutdown": 3,
}


def main(argv: Sequence[str] | None = None) -> int:
    from pydantic import ValidationError
    from pydantic_settings import SettingsError
    from sqlalchemy.exc import DBAPIError

    from app.domain.errors import WinnowError

    arguments = _parser().parse_args(argv)
    if getattr(arguments, "data", None) is not None:
        os.environ["WINNOW_DATA"] = str(arguments.data.resolve())
    try:
        status: int = arguments.run(arguments)
    except WinnowError as error:
        found = error.detail
    except ValidationError as error:
        # What follows from other settings has no fault of its own.
        faults = [it for it in error.errors() if it["type"] != "default_factory_not_called"]
        found = "; ".join(f"WINNOW_{'_'.join(map(str, it['loc'])).upper()}: {it['msg']}" for it in faults)
    except SettingsError as error:
        found = f"{error}: {error.__cause__}. Lists are written in JSON."
    except DBAPIError as error:
        found = f"{error.orig}. Is WINNOW_DATA or WINNOW_DATABASE_URL that of the service, and `winnowd migrate` done?"
    except OSError as error:
        found = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        return status
    sys.stderr.write(f"winnowd: {found}\n")
    return 1


def _port(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= _HIGHEST_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"a port is a number from 1 to {_HIGHEST_PORT}, not {text!r}")


def _processes(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= _MOST_PROCESSES:
        return int(text)
    raise argparse.ArgumentTypeError(f"a number of processes is 1 to {_MOST_PROCESSES}, not {text!r}")


def _key_name(text: str) -> str:
    from pydantic import TypeAdapter, ValidationError

    from app.domain.job import NameText

    try:
        return TypeAdapter(NameText).validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"a name has 1 to 200 characters without controls, not {text!r}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="winnowd", description="The Winnow service and its parts.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the whole service: broker, API and workers")
    serve.add_argument("--data", type=Path, default=Path("data"), help="folder under which everything is kept")
    serve.set_defaults(run=_serve)
    api = commands.add_parser("api", help="run the API")
    api.add_argument("--processes", type=_processes, default=1, help="so many share the port; 1 where left out")
    api.set_defaults(run=_api)
    for command in (serve, api):
        command.add_argument("--host", default=_LOOPBACK)
        command.add_argument("--port", type=_port, default=_PORT)

    worker = commands.add_parser("worker", help="run a worker for one queue")
    worker.add_argument("--queue", choices=QUEUES, required=True)
    worker.add_argument("--health-port", type=_port, help="serve /healthz and /readyz on this port")
    worker.add_argument("--health-host", help=f"and on this address, {_LOOPBACK} where left out")
    worker.set_defaults(run=_worker)

    migrate = commands.add_parser("migrate", help="bring the database to this version")
    migrate.add_argument("--check", action="store_true", help="only tell whether migrations and tables agree")
    migrate.set_defaults(run=_migrate)

    collect = commands.add_parser("collect", help="clear away what has expired, and tell how much that was")
    collect.set_defaults(run=_collect)
    _take_data(collect)

    verify = commands.add_parser("verify", help="check a folder of a job's artifacts against its signed manifest")
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.add_argument("--key", help="the service's public key, as GET /api/v1/signing-key gives it")
    verify.set_defaults(run=_verify)

    openapi = commands.add_parser("openapi", help="print the API's OpenAPI document")
    openapi.set_defaults(run=_openapi)

    schema = commands.add_parser("report-schema", help="print the JSON Schema of a job's report")
    schema.set_defaults(run=_report_schema)

    errors = commands.add_parser("errors", help="print the table of error codes")
    errors.set_defaults(run=_errors)

    keys = commands.add_parser("keys", help="make, list and revoke API keys").add_subparsers(required=True)
    create = keys.add_parser("create")
    create.add_argument("--name", type=_key_name, required=True)
    create.add_argument("--scopes", nargs="+", choices=("read", "write", "admin"), default=["read", "write"])
    create.set_defaults(run=_create_key)
    list_ = keys.add_parser("list")
    list_.set_defaults(run=_list_keys)
    revoke = keys.add_parser("revoke")
    revoke.add_argument("key_id")
    revoke.set_defaults(run=_revoke_key)
    for command in (create, list_, revoke):
        _take_data(command)
    return parser


def _take_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, help="the data folder of an embedded service, as given to serve")


def _serve(arguments: argparse.Namespace) -> int:
    from app import embedded

    embedded.serve(arguments.data.resolve(), arguments.host, arguments.port)
    return 0


def _api(arguments: argparse.Namespace) -> int:
    import uvicorn

    from app import logs

    logs.configure()
    options: dict[str, Any] = {"host": arguments.host, "port": arguments.port, **_SERVER}
    if arguments.processes == 1:
        uvicorn.run(make_app(), **options)
    else:
        # The parent answers nothing itself: it holds the socket, and replaces whichever of its children ends or hangs.
        options |= {"workers": arguments.processes, "timeout_worker_healthcheck": _HUNG_SECONDS}
        uvicorn.run("app.cli:make_tied_app", factory=True, **options)
    return 0


def make_app() -> "FastAPI":
    """Build the application of a process that serves nothing else."""
    from app.main import create_app
    from app.settings import Settings

    app = create_app(Settings())
    # What is there now stays: to look through it for garbage every now and then would hold up every request meanwhile.
    gc.collect()
    gc.freeze()
    return app


def make_tied_app() -> "FastAPI":
    """Build the application of one of several processes, which stops when their parent is gone."""
    from app import logs
    from app.tether import tie

    tie(os.getppid(), signal.SIGTERM)
    logs.configure()
    app = make_app()
    _hear_the_end()
    return app


def _hear_the_end() -> None:
    """Let listeners learn that the server is asked to end.

    What tells them takes the place of ``Server.handle_exit`` as it is imported, with the application. The server that
    builds it has named its handlers by then, and would cut streams and long polls in the end.
    """
    import uvicorn

    for number in (signal.SIGTERM, signal.SIGINT):
        server = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(server, uvicorn.Server):
            signal.signal(number, server.handle_exit)


def _worker(arguments: argparse.Namespace) -> int:
    queue = arguments.queue
    for name in ("health_port", "health_host"):
        if (value := getattr(arguments, name)) is not None:
            os.environ[f"WINNOW_WORKER_{name.upper()}"] = str(value)
    node = f"{queue}-{os.getpid()}@%h"
    command = [sys.executable, "-m", "celery", "--quiet", "--app", "workers.celery_app", "worker"]
    options = ["--queues", queue, "--hostname", node, "--without-gossip", "--without-mingle", "--without-heartbeat"]
    os.execv(sys.executable, [*command, *options])  # noqa: S606  the service may not import the workers


def _migrate(arguments: argparse.Namespace) -> int:
    from alembic.util import CommandError

    from app.db import migrations
    from app.db.engine import make_engine
    from app.settings import Settings

    if not arguments.check:
        migrations.upgrade(make_engine(Settings().database_url))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{folder}/check.db")
        migrations.upgrade(engine)
        try:
            migrations.check(engine)
        except CommandError as error:
            sys.stderr.write(f"winnowd: {error}\n")
            return 1
        finally:
            engine.dispose()
    return 0


def _collect(_: argparse.Namespace) -> int:
    import json
    from datetime import UTC, datetime

    from app.services.retention import Collector
    from app.settings import Settings
    from app.storage import Storage

    settings = Settings()
    freed = Collector(_sessions(), Storage(settings.storage_url), settings, datetime.now(UTC)).collect()
    sys.stdout.write(f"{json.dumps(freed.as_json())}\n")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from app.services import manifests, signing

    manifest = manifests.read(arguments.folder, arguments.key)
    found = list(manifests.faults(arguments.folder, manifest))
    for fault in found:
        sys.stderr.write(f"winnowd: {fault}\n")
    if found:
        return 1
    sys.stdout.write(f"{len(manifest.artifacts)} artifacts are what {manifest.job_id} left.\n")
    if arguments.key is None:
        sys.stdout.write(
            "The signature is of the key that the manifest itself names. Compare its fingerprint with the service's:\n"
            f"{signing.fingerprint(manifest.public_key)}\n"
        )
    return 0


def _openapi(_: argparse.Namespace) -> int:
    import json

    from app.main import create_app
    from app.settings import Settings

    sys.stdout.write(f"{json.dumps(create_app(Settings()).openapi(), indent=2)}\n")
    return 0


def _report_schema(_: argparse.Namespace) -> int:
    import json

    from app.domain.report import report_schema

    sys.stdout.write(f"{json.dumps(report_schema(), indent=2, ensure_ascii=False)}\n")
    return 0


def _errors(_: argparse.Namespace) -> int:
    from app.api import catalogue

    sys.stdout.write(catalogue.markdown())
    return 0


def _create_key(arguments: argparse.Namespace) -> int:
    from app.services import keys

    with _sessions().begin() as session:
        secret = keys.create_default_key(session, arguments.scopes, name=arguments.name)
    sys.stdout.write(f"{secret}\n")
    return 0


def _list_keys(_: argparse.Namespace) -> int:
    from app.services import keys

    with _sessions(read_only=True)() as session:
        for row in keys.list_all(session):
            state = "revoked" if row.revoked_at else "active"
            sys.stdout.write(f"{row.id}  {row.created_at:%Y-%m-%d}  {state:<8}{','.join(row.scopes):<18}{row.name}\n")
    return 0


def _revoke_key(arguments: argparse.Namespace) -> int:
    from app.services import keys

    with _sessions().begin() as session:
        keys.revoke_any(session, arguments.key_id)
    return 0


def _sessions(*, read_only: bool = False) -> "Sessions":
    from app.db.engine import make_engine, make_sessions
    from app.settings import Settings

    return make_sessions(make_engine(Settings().database_url), read_only=read_only)


if __name__ == "__main__":
    sys.exit(main())
