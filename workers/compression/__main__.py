"""The child process: ``python -m workers.compression FOLDER --messages-fd N`` (see ``app.domain.task``)."""

import argparse
import errno
import logging
import os
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from pydantic import BaseModel, ValidationError

from app.domain.errors import InternalError, NoSensitivity, OutOfMemory, StorageFull, Unavailable, WinnowError
from app.domain.job import EventType, Stage
from app.domain.sensitivity import SensitivityTable
from app.domain.steps.prune import PruneSpec
from app.domain.task import (
    CHECKPOINTS_FOLDER,
    FACTS_FILE,
    OUTPUT_FOLDER,
    TASK,
    TASK_FILE,
    Compress,
    DoneMessage,
    EventMessage,
    FailureMessage,
    InspectDataset,
    InspectModel,
    TurnMessage,
)
from workers.compression.admission import admit

Send = Callable[[BaseModel], None]
TORCH_OUT_OF_MEMORY = "not enough memory"
"""What torch's CPU allocator says; on a GPU there is a class for it."""


def main(arguments: list[str]) -> int:
    """Carry out the task of a folder. Exit status 0 where the last message told how it went, 1 where it is a bug."""
    parser = argparse.ArgumentParser(prog="python -m workers.compression")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--messages-fd", type=int, required=True)
    given = parser.parse_args(arguments)
    # It takes a folder for closed that access() cannot reach through those around it, and tells the job's log of paths.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    send = _sender(given.messages_fd)
    try:
        _run(given.folder, send, _turns(given.messages_fd, send))
    except WinnowError as error:
        send(FailureMessage(failure=error.failure()))
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: whatever it was, the supervisor hears of it
        known = _in_our_words(error)
        if known is not None:
            send(FailureMessage(failure=known.failure()))
            return 0
        data = {"level": "error", "message": traceback.format_exc()}
        send(EventMessage(type=EventType.LOG, data=data))
        detail = f"The engine met an error it does not know: {type(error).__name__}."
        send(FailureMessage(failure=InternalError(detail).failure()))
        return 1
    send(DoneMessage())
    return 0


def _sender(descriptor: int) -> Send:
    """Give the function that writes one message as one line, in one call."""

    def send(message: BaseModel) -> None:
        line = message.model_dump_json().encode() + b"\n"
        while line:
            line = line[os.write(descriptor, line) :]

    return send


def _turns(descriptor: int, send: Send) -> Callable[[], AbstractContextManager[None]]:
    """Give what to measure within: alone on this host, where the supervisor can be asked for that."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return nullcontext

    @contextmanager
    def turn() -> Iterator[None]:
        send(TurnMessage(wanted=True))
        os.read(descriptor, 1)
        yield
        send(TurnMessage(wanted=False))

    return turn


def _run(folder: Path, send: Send, turn: Callable[[], AbstractContextManager[None]]) -> None:
    task = TASK.validate_json((folder / TASK_FILE).read_bytes())
    output = folder / OUTPUT_FOLDER
    output.mkdir(exist_ok=True)
    match task:
        case InspectModel():
            admit(folder / task.path, task.format)
            from workers.compression.inspection import inspect_model

            _write_facts(output, inspect_model(folder / task.path, task.format))
        case InspectDataset():
            admit(folder / task.path, task.format)
            from workers.compression.dataset_inspection import inspect_dataset

            _write_facts(output, inspect_dataset(folder / task.path, task.format, task.preprocessing))
        case Compress():
            # Told before torch is imported, which takes seconds.
            send(EventMessage(type=EventType.STAGE, data={"stage": Stage.PREPARING.value}))
            admit(folder / task.model_path, task.model_format)
            admit(folder / task.dataset_path, task.dataset_format)
            for file in task.models.values():
                admit(folder / file.path, file.format)
            _compress(folder, task, send, turn)


def _write_facts(output: Path, facts: BaseModel) -> None:
    (output / FACTS_FILE).write_text(facts.model_dump_json(), encoding="utf-8")


def _compress(folder: Path, task: Compress, send: Send, turn: Callable[[], AbstractContextManager[None]]) -> None:
    import torch

    from workers.compression.analysis import analyze
    from workers.compression.datasets import load_dataset
    from workers.compression.formats.models import load_model
    from workers.compression.pages.subject import subject_of
    from workers.compression.pipeline import Output, compress, require_objective

    torch.set_num_threads(task.threads)
    torch.use_deterministic_algorithms(mode=True)
    job, device = task.job, torch.device(task.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Unavailable("This worker serves the queue of GPU jobs and finds no GPU.")
    network = load_model(folder / task.model_path, task.model_format, task.model_way)
    path = folder / task.dataset_path
    data = load_dataset(
        path, task.dataset_format, network.signature, job.seed, job.task, preprocessing=task.preprocessing
    )
    output = Output(folder / OUTPUT_FOLDER, folder / CHECKPOINTS_FOLDER, send, send)
    match job.recipe:
        case (PruneSpec(analyze=True) as spec,):
            analyze(
                network,
                spec,
                data,
                latency=job.latency,
                seed=job.seed,
                device=device,
                output=output,
                service_version=task.service_version,
                subject=subject_of(task),
            )
        case recipe:
            report = compress(
                network,
                recipe,
                data,
                objective=job.objective,
                latency=job.latency,
                seed=job.seed,
                device=device,
                output=output,
                service_version=task.service_version,
                models={
                    name: load_model(folder / file.path, file.format, file.way) for name, file in task.models.items()
                },
                sensitivities={name: _read_table(folder / path) for name, path in task.sensitivities.items()},
                turn=turn,
                subject=subject_of(task),
            )
            require_objective(report)


def _read_table(path: Path) -> SensitivityTable:
    try:
        return SensitivityTable.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise NoSensitivity(f"The table cannot be read: {error}", hint="Analyze the model again.") from error


def _in_our_words(error: Exception) -> WinnowError | None:
    """Name what the system lacked, where that was it."""
    if _is_out_of_memory(error):
        return OutOfMemory("The job ran out of memory.", hint="Use smaller batches.")
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull("The worker has no room left for the job's files.")
    return None


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or TORCH_OUT_OF_MEMORY in str(error)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking torch down in good order takes seconds, and all that matters is written.
    os._exit(status)
