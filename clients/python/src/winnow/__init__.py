"""Client of Winnow: compress a trained network through the service.

    import winnow

    job = winnow.submit_job("model.pt2", "data.npz", [{"method": "quantize"}], max_drop=0.01)
    job.wait()
    job.download_results("out")

The functions here are those of one :class:`Client`, made when it is first needed from ``WINNOW_URL`` and
``WINNOW_KEY``, or from what ``winnow configure`` wrote.
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from winnow.client import DEVICE, Client
from winnow.errors import (
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    DamagedTransfer,
    Error,
    FieldFault,
    Forbidden,
    InternalError,
    Invalid,
    JobFailed,
    NotFound,
    ProblemError,
    RateLimitedError,
    Rejected,
    TooLarge,
    Unauthenticated,
    UserError,
)
from winnow.jobs import Event, Job, JobResult, JobStatus
from winnow.objects import Artifact, Dataset, Device, Method, Model

__version__ = _version("winnow-client")

_default: Client | None = None


def default_client() -> Client:
    """Give the client behind the functions of this module."""
    global _default  # noqa: PLW0603  one for the whole program, like the library that users come from
    if _default is None:
        _default = Client()
    return _default


if TYPE_CHECKING:
    _typed = Client()
    set_verbose = _typed.set_verbose
    upload_model = _typed.upload_model
    upload_dataset = _typed.upload_dataset
    get_model = _typed.get_model
    get_models = _typed.get_models
    get_dataset = _typed.get_dataset
    get_datasets = _typed.get_datasets
    get_devices = _typed.get_devices
    get_targets = _typed.get_targets
    get_methods = _typed.get_methods
    submit = _typed.submit
    submit_job = _typed.submit_job
    submit_compress_job = _typed.submit_compress_job
    submit_compile_job = _typed.submit_compile_job
    submit_quantize_job = _typed.submit_quantize_job
    submit_profile_job = _typed.submit_profile_job
    get_job = _typed.get_job
    get_jobs = _typed.get_jobs
    get_job_summaries = _typed.get_job_summaries
    compare_jobs = _typed.compare_jobs

_FUNCTIONS = (
    "set_verbose",
    "upload_model",
    "upload_dataset",
    "get_model",
    "get_models",
    "get_dataset",
    "get_datasets",
    "get_devices",
    "get_targets",
    "get_methods",
    "submit",
    "submit_job",
    "submit_compress_job",
    "submit_compile_job",
    "submit_quantize_job",
    "submit_profile_job",
    "get_job",
    "get_jobs",
    "get_job_summaries",
    "compare_jobs",
)


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(default_client(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})


__all__ = [
    "DEVICE",
    "Artifact",
    "Client",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "DamagedTransfer",
    "Dataset",
    "Device",
    "Error",
    "Event",
    "FieldFault",
    "Forbidden",
    "InternalError",
    "Invalid",
    "Job",
    "JobFailed",
    "JobResult",
    "JobStatus",
    "Method",
    "Model",
    "NotFound",
    "ProblemError",
    "RateLimitedError",
    "Rejected",
    "TooLarge",
    "Unauthenticated",
    "UserError",
    "compare_jobs",
    "default_client",
    "get_dataset",
    "get_datasets",
    "get_devices",
    "get_job",
    "get_job_summaries",
    "get_jobs",
    "get_methods",
    "get_model",
    "get_models",
    "get_targets",
    "set_verbose",
    "submit",
    "submit_compile_job",
    "submit_compress_job",
    "submit_job",
    "submit_profile_job",
    "submit_quantize_job",
    "upload_dataset",
    "upload_model",
]
