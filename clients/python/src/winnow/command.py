"""``winnow``, the command of those who have a model."""

import argparse
import getpass
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from winnow import __version__, config, recipes
from winnow.client import DEVICE, Client
from winnow.errors import Error, ProblemError
from winnow.following import Bar, Detached, follow
from winnow.jobs import Job
from winnow.table import table

OK, FAILED, JOB_FAILED, OBJECTIVE_MISSED, CANCELLED, TIMED_OUT, DETACHED = 0, 1, 3, 4, 5, 6, 130
_EXIT = {"succeeded": OK, "failed": JOB_FAILED, "cancelled": CANCELLED, "timed_out": TIMED_OUT}
_EPILOG = """\
exit status: 0 the job succeeded; 1 an error; 2 wrong usage; 3 the job failed; 4 it missed its objective;
5 it was cancelled; 6 it ran out of time; 130 it was left running (Ctrl-C twice)
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except Detached as left:
        sys.stderr.write(f"\n{left}\n")
        return DETACHED
    except KeyboardInterrupt:
        sys.stderr.write("\nwinnow: stopped; an upload that was cut goes on where it was when it is asked for again.\n")
        return DETACHED
    except EOFError:
        sys.stderr.write("\nwinnow: there is nobody to ask: give --url before the command and --key behind it.\n")
        return FAILED
    except (Error, OSError, TimeoutError) as error:
        sys.stderr.write(f"winnow: {error}\n")
        if isinstance(error, ProblemError):
            for fault in error.errors:
                sys.stderr.write(f"  {fault.pointer or '/'}: {fault.message}\n")
            sys.stderr.write(f"  request {error.request_id}\n")
        return FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="winnow",
        description="Compress trained networks through a Winnow service.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="the service's address, else WINNOW_URL, else what `configure` wrote")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser

    asked = add("configure", help="write the service's address and a key to a file")
    asked.add_argument("--key", help="asked for where left out, so that no shell keeps it")
    asked.set_defaults(run=_configure)

    compress = add("compress", help="upload, compress, wait and download", epilog=_EPILOG)
    compress.add_argument("model", help="a .pt2 or .onnx file, a folder of Hugging Face's libraries, or an id")
    compress.add_argument("data", help="a data set's file, or the id of one")
    compress.add_argument("--recipe", type=Path, required=True, help="steps in .yaml or .json")
    compress.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for all that the job leaves")
    compress.add_argument("--name")
    compress.add_argument("--target", default=None, help=f"{DEVICE} where neither this nor the recipe names one")
    compress.add_argument(
        "--max-drop", type=_share, metavar="SHARE", help="the most of the task's metric to lose, such as 0.01"
    )
    compress.add_argument("--detach", action="store_true", help="print the job's id and leave it running")
    compress.set_defaults(run=_compress)

    for noun in ("model", "dataset"):
        sent = add(f"upload-{noun}", help=f"upload a {noun} and print its id")
        sent.add_argument("file", type=Path)
        sent.add_argument("--name")
        sent.set_defaults(run=_upload, noun=noun)

    for noun, columns in _COLUMNS.items():
        listed = add(noun, help=f"list {noun}")
        if noun in _PAGED:
            listed.add_argument("--limit", type=int, default=50)
            listed.add_argument("--state")
        listed.add_argument("--json", action="store_true", help="all fields, a line for each")
        listed.set_defaults(run=_list, noun=noun, columns=columns)

    for name, run, text in (
        ("wait", _wait, "follow a job to its end"),
        ("cancel", _cancel, "cancel a job"),
        ("retry", _retry, "queue a job again that ended without success"),
        ("logs", _logs, "print a job's log"),
        ("report", _report, "print what a job measured"),
        ("download", _download, "download all that a job left, when it has ended"),
    ):
        one = add(name, help=text)
        one.add_argument("job")
        one.set_defaults(run=run)
        if name == "report":
            one.add_argument("--format", choices=("table", "json", "html", "markdown"), default="table")
        if name == "download":
            one.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"a share is a number from 0 to 1, not {text!r}")
    return share


_PAGED = frozenset({"models", "datasets", "jobs"})
_COLUMNS = {
    "models": ("id", "state", "format", "size_bytes", "parameters", "name"),
    "datasets": ("id", "state", "format", "size_bytes", "classes", "name"),
    "jobs": ("id", "state", "stage", "progress", "created_at", "name"),
    "methods": ("name", "trains", "help"),
    "targets": ("name", "runtime", "device", "available"),
}


def _configure(arguments: argparse.Namespace) -> int:
    url = arguments.url or input("Address of the service, such as http://127.0.0.1:8000: ").strip()
    key = arguments.key or getpass.getpass("Key (not shown): ").strip()
    with Client(url, key, retries=0) as client:
        client.get_devices()
    sys.stdout.write(f"The service answers. Written to {config.save(url, key)}.\n")
    return OK


def _compress(arguments: argparse.Namespace) -> int:
    fields = recipes.read(arguments.recipe)
    if arguments.max_drop is not None:
        fields["objective"] = {**(fields.get("objective") or {}), "max_drop": arguments.max_drop}
    if arguments.target is not None:
        fields["target"] = arguments.target
    with Client(arguments.url) as client:
        with Bar() as bar:
            model = _found(arguments.model, client.get_model, client.upload_model, bar)
            dataset = _found(arguments.data, client.get_dataset, client.upload_dataset, bar)
            bar.draw("checking the files", 1)
        named, recipe, device = fields.pop("name", None), fields.pop("recipe"), fields.pop("target", DEVICE)
        job = client.submit_job(model, dataset, recipe, name=arguments.name or named, device=device, **fields)
        if arguments.detach:
            sys.stdout.write(f"{job.job_id}\n")
            return OK
        sys.stderr.write(f"{job.job_id}\n")
        return _finish(job, arguments.out)


def _found(text: str, get: Callable[[str], Any], upload: Callable[..., Any], bar: Bar) -> Any:
    """Upload a file; what is none and looks like an id is looked up."""
    path = Path(text)
    if not path.exists() and text.startswith(("mdl_", "dat_")):
        return get(text)
    return upload(path, progress=bar.transfer(f"uploading {path.name}"))


def _finish(job: Job, out: Path | None) -> int:
    """Follow a job, print its table and fetch what it left; give the exit status."""
    try:
        status = follow(job)
    except Detached:
        raise Detached(f"{job.job_id} goes on. Take it up again with: winnow wait {job.job_id}") from None
    code = (job.failure or {}).get("code")
    if status.success or code == "objective_missed":
        sys.stdout.write(f"{table(job.get_report())}\n")
    if out is not None:
        with Bar() as bar:
            result = job.download_results(out, progress=bar.transfer("downloading"))
        sys.stdout.write("".join(f"{path}\n" for path in result.files))
    if not status.success:
        failure = job.failure or {}
        sys.stderr.write(
            f"winnow: {job.job_id} {status.state}. {failure.get('detail', '')} {failure.get('hint') or ''}\n"
        )
    return OBJECTIVE_MISSED if code == "objective_missed" else _EXIT[status.state]


def _upload(arguments: argparse.Namespace) -> int:
    with Client(arguments.url) as client, Bar() as bar:
        send: Callable[..., Any] = getattr(client, f"upload_{arguments.noun}")
        made = send(arguments.file, arguments.name, progress=bar.transfer(f"uploading {arguments.file.name}"))
        bar.draw("checking the file", 1)
        made = made.wait()
    sys.stdout.write(f"{made.id}\n")
    return OK


def _list(arguments: argparse.Namespace) -> int:
    with Client(arguments.url) as client:
        ask: Callable[..., Any] = getattr(client, f"get_{arguments.noun}")
        found = ask(limit=arguments.limit, state=arguments.state) if arguments.noun in _PAGED else ask()
    rows = [item.raw for item in found]
    if arguments.json:
        sys.stdout.write("".join(f"{json.dumps(row)}\n" for row in rows))
        return OK
    cells = [arguments.columns, *([_cell(row.get(name)) for name in arguments.columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")
    return OK


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _wait(arguments: argparse.Namespace) -> int:
    with Client(arguments.url) as client:
        return _finish(client.get_job(arguments.job), None)


def _cancel(arguments: argparse.Namespace) -> int:
    with Client(arguments.url) as client:
        sys.stdout.write(f"{client.get_job(arguments.job).cancel().state}\n")
    return OK


def _retry(arguments: argparse.Namespace) -> int:
    with Client(arguments.url) as client:
        sys.stdout.write(f"{client.get_job(arguments.job).retry().state}\n")
    return OK


def _logs(arguments: argparse.Namespace) -> int:
    with Client(arguments.url) as client:
        sys.stdout.write(client.get_job(arguments.job).get_logs())
    return OK


def _report(arguments: argparse.Namespace) -> int:
    with Client(arguments.url) as client:
        job = client.get_job(arguments.job)
        form = "json" if arguments.format == "table" else arguments.format
        report = job.get_report(form)
    if arguments.format == "table":
        sys.stdout.write(f"{table(report)}\n")
    else:
        sys.stdout.write(json.dumps(report, indent=2) + "\n" if form == "json" else report)
    return OK


def _download(arguments: argparse.Namespace) -> int:
    with Client(arguments.url) as client, Bar() as bar:
        job = client.get_job(arguments.job)
        result = job.download_results(arguments.out, progress=bar.transfer("downloading"))
    sys.stdout.write("".join(f"{path}\n" for path in result.files))
    return OK
