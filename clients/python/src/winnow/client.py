"""The client: what can be asked of the service, in the words of those who know Qualcomm AI Hub's."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from winnow import config, packing, recipes, uploading
from winnow.jobs import Job
from winnow.objects import Dataset, Device, Method, Model
from winnow.transport import Transport
from winnow.uploading import Progress

Recipe = Sequence[Mapping[str, Any]]
ModelLike = Model | str | Path | Any
DatasetLike = Dataset | str | Path | Mapping[str, Any]
DEVICE = "onnxruntime-cpu"
_MOST_A_PAGE = 200
_LONGEST_NAME = 200


class Client:
    """One service, as one key sees it.

    Where the address or the key is left out it is looked for in ``WINNOW_URL`` and ``WINNOW_KEY``, then in the file
    that ``winnow configure`` writes. ``retries`` is how often a request is tried again that another try may mend.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        retries: int = 5,
        timeout: float = 60,
        verbose: bool = False,
    ) -> None:
        self._transport = Transport(config.load(url, key), retries=retries, timeout=timeout)
        self.verbose = verbose

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    @property
    def url(self) -> str:
        return self._transport.url

    def set_verbose(self, verbose: bool = True) -> None:  # noqa: FBT001, FBT002  known so
        """Say on standard error how uploads get on, where nothing else is told of it."""
        self.verbose = verbose

    def upload_model(
        self,
        model: ModelLike,
        name: str | None = None,
        *,
        progress: Progress | None = None,
        resumable: bool | None = None,
    ) -> Model:
        """Upload a file, a folder of Hugging Face's libraries, or what ``torch.export.export`` gave.

        The service then looks into it: see ``wait``.
        Files above 8 MiB are sent so that a cut upload goes on where it was, in a later process too. A folder is packed
        anew each time, and what was exported is written anew: their uploads go on within one process alone.
        """
        if isinstance(model, Model):
            return model
        if isinstance(model, str | Path) and not Path(model).is_dir():
            body = self._upload("models", Path(model), name, progress, resumable)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                if isinstance(model, str | Path):
                    path = Path(scratch) / f"{Path(model).resolve().name}.zip"
                    packing.pack(Path(model), path)
                else:
                    path = Path(scratch) / f"{name or 'model'}.pt2"
                    _save_program(model, path)
                body = self._upload("models", path, name, progress, resumable)
        return Model.of(body, _transport=self._transport)

    def upload_dataset(
        self,
        data: DatasetLike,
        name: str | None = None,
        *,
        progress: Progress | None = None,
        resumable: bool | None = None,
    ) -> Dataset:
        """Upload a data set's file, or arrays by name: ``{"train.x": …, "train.y": …, "validation.x": …}``."""
        if isinstance(data, Dataset):
            return data
        if isinstance(data, Mapping):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name or 'dataset'}.npz"
                _save_arrays(data, path)
                body = self._upload("datasets", path, name, progress, resumable)
        else:
            body = self._upload("datasets", Path(data), name, progress, resumable)
        return Dataset.of(body, _transport=self._transport)

    def get_model(self, model_id: str) -> Model:
        return Model.of(self._transport.get(f"models/{quote(model_id, safe='')}"), _transport=self._transport)

    def get_models(self, offset: int = 0, limit: int = 50, *, state: str | None = None) -> list[Model]:
        """List models, newest first."""
        found = self._listed("models", offset, limit, state=state)
        return [Model.of(it, _transport=self._transport) for it in found]

    def get_dataset(self, dataset_id: str) -> Dataset:
        return Dataset.of(self._transport.get(f"datasets/{quote(dataset_id, safe='')}"), _transport=self._transport)

    def get_datasets(self, offset: int = 0, limit: int = 50, *, state: str | None = None) -> list[Dataset]:
        """List data sets, newest first."""
        found = self._listed("datasets", offset, limit, state=state)
        return [Dataset.of(it, _transport=self._transport) for it in found]

    def get_devices(self, name: str = "") -> list[Device]:
        """List what networks are compressed for, those of one name or all."""
        found = [Device.of(it) for it in self._transport.get("targets")["items"]]
        return [device for device in found if name in {"", device.name}]

    get_targets = get_devices

    def get_methods(self) -> list[Method]:
        """List what a recipe can be made of."""
        return [Method.of(it) for it in self._transport.get("methods")["items"]]

    def submit_job(
        self,
        model: ModelLike,
        dataset: DatasetLike,
        recipe: Recipe,
        *,
        name: str | None = None,
        device: Device | str = DEVICE,
        objective: Mapping[str, Any] | None = None,
        max_drop: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Compress a model by a recipe. Files are uploaded first; ``fields`` are further ones of ``POST /jobs``.

        ``max_drop`` is short for an objective on the task's own metric: as much may be lost, as a fraction.
        Raises ConfigurationError, before anything is uploaded, where recipe or objective can be no part of a job.
        """
        recipes.check(recipe, objective, max_drop=max_drop, **fields)
        if max_drop is not None:
            objective = {**(objective or {}), "max_drop": max_drop}
        ready, rows = self.upload_model(model).wait(), self.upload_dataset(dataset).wait()
        payload = {
            "name": ready.name if name is None else name,
            "model_id": ready.id,
            "dataset_id": rows.id,
            "recipe": [dict(step) for step in recipe],
            "target": device.name if isinstance(device, Device) else device,
            "objective": objective,
            **fields,
        }
        return Job(self._transport, self._transport.post("jobs", payload, idempotency_key=idempotency_key))

    submit = submit_job
    submit_compress_job = submit_job

    def submit_quantize_job(
        self,
        model: ModelLike,
        calibration_data: DatasetLike,
        weights_dtype: str = "int8",
        activations_dtype: str = "uint8",
        name: str | None = None,
        *,
        step: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Job:
        """Quantize for integer kernels; ``step`` are further fields of the method, such as ``{"scheme": "qat"}``."""
        quantize = {"method": "quantize", "scheme": "static", "weights": weights_dtype} | dict(step or {})
        if quantize["scheme"] in {"static", "qat"}:
            quantize.setdefault("activations", activations_dtype)
        return self.submit_job(model, calibration_data, [quantize], name=name, **fields)

    def submit_compile_job(
        self,
        model: ModelLike,
        device: Device | str = DEVICE,
        name: str | None = None,
        *,
        calibration_data: DatasetLike,
        recipe: Recipe | None = None,
        **fields: Any,
    ) -> Job:
        """Make a file for a device. Without a recipe it is quantized to int8, calibrated by the data."""
        if recipe is None:
            return self.submit_quantize_job(model, calibration_data, name=name, device=device, **fields)
        return self.submit_job(model, calibration_data, recipe, name=name, device=device, **fields)

    def submit_profile_job(
        self,
        model: ModelLike,
        device: Device | str = DEVICE,
        name: str | None = None,
        *,
        dataset: DatasetLike,
        **fields: Any,
    ) -> Job:
        """Time a model in its runtime, and judge it by the data; ``Job.download_profile`` has the timings.

        The service has no job that measures and does nothing else: this one stores the weights as float16, which is
        the least that can be done, and what it measures of the model as it was stands beside that. Every other job
        has the same figures.
        """
        cast = {"method": "quantize", "scheme": "cast", "weights": "fp16"}
        return self.submit_job(model, dataset, [cast], name=name, device=device, **fields)

    def get_job(self, job_id: str) -> Job:
        return Job(self._transport, self._transport.get(f"jobs/{quote(job_id, safe='')}"))

    def get_jobs(
        self,
        offset: int = 0,
        limit: int = 50,
        *,
        state: str | None = None,
        model_id: str | None = None,
        label: str | None = None,
    ) -> list[Job]:
        """List jobs, newest first; ``label`` is ``key:value``."""
        found = self._listed("jobs", offset, limit, state=state, model_id=model_id, label=label)
        return [Job(self._transport, it) for it in found]

    get_job_summaries = get_jobs

    def compare_jobs(self, job_ids: Sequence[str]) -> dict[str, Any]:
        """Set jobs beside each other; ``pareto_front`` names those that none beats."""
        found: dict[str, Any] = self._transport.get("comparisons", job_id=list(job_ids))
        return found

    def _upload(
        self,
        noun: str,
        path: Path,
        name: str | None,
        progress: Progress | None,
        resumable: bool | None,  # noqa: FBT001
    ) -> Any:
        told = progress or (_say(path.name) if self.verbose else None)
        query = {"name": _name_of(path) if name is None else name}
        return uploading.upload(self._transport, noun, path, query, progress=told, resumable=resumable)

    def _listed(self, noun: str, offset: int, limit: int, **filters: Any) -> list[Any]:
        """Read the items from ``offset`` on, page by page."""
        found: list[Any] = []
        for page in self._pages(noun, offset + limit, filters):
            found += page
            if len(found) >= offset + limit:
                break
        return found[offset : offset + limit]

    def _pages(self, noun: str, count: int, filters: Mapping[str, Any]) -> Iterator[list[Any]]:
        cursor = None
        while True:
            page = self._transport.get(noun, limit=max(1, min(count, _MOST_A_PAGE)), cursor=cursor, **filters)
            yield page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return


def _name_of(path: Path) -> str:
    """Name what a file holds for the file: of what the service takes for no name, as much as it takes."""
    # A file may be named by bytes that are no text; control characters are no part of a name.
    text = os.fsencode(path.stem).decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)[:_LONGEST_NAME]


def _save_program(model: Any, path: Path) -> None:
    """Write an exported program; whoever has one has torch, which is not needed for anything else here."""
    import torch

    if not isinstance(model, torch.export.ExportedProgram):
        raise TypeError(f"A model is a path or what torch.export.export gives, not {type(model).__name__}.")
    torch.export.save(model, path)


def _save_arrays(data: Mapping[str, Any], path: Path) -> None:
    import numpy as np

    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in data.items()}
    np.savez(path, **arrays)


def _say(name: str) -> Progress:
    def progress(sent: int, size: int) -> None:
        sys.stderr.write(f"\r{name}: {sent:,} of {size:,} bytes" + ("\n" if sent == size else ""))

    return progress
