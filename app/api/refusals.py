"""What each operation may refuse, by its id: the table that the OpenAPI document and its tests read.

Rules add what holds for kinds of operations alike; a new operation needs an entry for the rest, an empty one too.
"""

from collections.abc import Mapping, Sequence

from app.domain import errors
from app.domain.errors import WinnowError

Refusals = tuple[type[WinnowError], ...]

_OF_UPLOADS: Refusals = (
    errors.DigestMismatch,
    errors.TruncatedUpload,
    errors.Unsupported,
    errors.UnknownFormat,
    errors.CorruptFile,
    errors.UnsafeFile,
    errors.QuotaReached,
    errors.StorageFull,
)
_OF_CONTENTS: Refusals = (errors.NotFound, errors.RangeNotSatisfiable)
_OF_RECIPES: Refusals = (
    errors.UnknownMethod,
    errors.UnknownTarget,
    errors.DatasetMismatch,
    errors.TaskMismatch,
    errors.LabelsOutOfRange,
    errors.NothingToPrune,
    errors.NothingToQuantize,
    errors.UnsupportedPrecision,
    errors.UnsupportedNetwork,
    errors.NotTrainable,
    errors.RecipeOrder,
    errors.NoSensitivity,
    errors.ModelMismatch,
    errors.NoStudent,
)

OF_OPERATIONS: Mapping[str, Refusals] = {
    "create_upload": (
        errors.Malformed,
        errors.Unsupported,
        errors.VersionMismatch,
        errors.TooLarge,
        errors.QuotaReached,
        errors.StorageFull,
        errors.TruncatedUpload,
        errors.ChecksumMismatch,
    ),
    "list_uploads": (),
    "get_upload": (errors.NotFound, errors.UploadLocked, errors.VersionMismatch),
    "append_to_upload": (
        errors.NotFound,
        errors.Malformed,
        errors.Unsupported,
        errors.VersionMismatch,
        errors.WrongOffset,
        errors.UploadLocked,
        errors.TooLarge,
        errors.TruncatedUpload,
        errors.ChecksumMismatch,
        errors.StorageFull,
    ),
    "delete_upload": (errors.NotFound, errors.UploadLocked, errors.VersionMismatch),
    "create_model": (errors.NotFound, errors.UploadIncomplete, errors.UploadLocked, *_OF_UPLOADS),
    "list_models": (),
    "get_model": (errors.NotFound,),
    "delete_model": (errors.NotFound, errors.InUse),
    "get_model_content": _OF_CONTENTS,
    "get_model_layers": (errors.NotFound, errors.NotReady),
    "create_dataset": (errors.NotFound, errors.UploadIncomplete, errors.UploadLocked, *_OF_UPLOADS),
    "list_datasets": (),
    "get_dataset": (errors.NotFound,),
    "delete_dataset": (errors.NotFound, errors.InUse),
    "get_dataset_content": _OF_CONTENTS,
    "list_methods": (),
    "get_method": (errors.NotFound,),
    "list_targets": (),
    "create_job": (errors.NotFound, errors.NotReady, errors.Unsupported, errors.TooManyJobs, *_OF_RECIPES),
    "list_jobs": (),
    "get_job": (errors.NotFound,),
    "delete_job": (errors.NotFound, errors.Conflict),
    "cancel_job": (errors.NotFound, errors.JobEnded),
    "retry_job": (errors.NotFound, errors.Conflict, errors.NotReady, errors.TooManyJobs),
    "list_job_artifacts": (errors.NotFound,),
    "get_job_report": (*_OF_CONTENTS, errors.NotAcceptable),
    "list_job_events": (errors.Malformed, errors.NotFound),
    "get_job_logs": (errors.NotFound, errors.NotAcceptable),
    "get_artifact": (errors.NotFound,),
    "get_artifact_content": _OF_CONTENTS,
    "get_signing_key": (),
    "compare_jobs": (errors.NotFound, errors.NoReport),
    "create_sweep": (errors.NotFound, errors.NotReady, errors.Unsupported, errors.TooManyJobs, *_OF_RECIPES),
    "list_sweeps": (),
    "get_sweep": (errors.NotFound,),
    "delete_sweep": (errors.NotFound, errors.Conflict),
    "cancel_sweep": (errors.NotFound, errors.SweepEnded),
    "create_webhook": (errors.AddressRefused, errors.TooManyWebhooks, errors.Unsupported),
    "list_webhooks": (),
    "get_webhook": (errors.NotFound,),
    "delete_webhook": (errors.NotFound,),
    "rotate_webhook": (errors.NotFound,),
    "ping_webhook": (errors.NotFound, errors.Conflict),
    "enable_webhook": (errors.NotFound,),
    "list_deliveries": (errors.NotFound,),
    "get_delivery": (errors.NotFound,),
    "redeliver": (errors.NotFound, errors.Conflict),
    "get_usage": (),
    "create_project": (errors.NameTaken, errors.Unsupported),
    "list_projects": (),
    "get_project": (errors.NotFound,),
    "delete_project": (errors.NotFound, errors.Conflict),
    "create_key": (errors.NotFound, errors.Conflict, errors.Unsupported),
    "list_keys": (),
    "get_key": (errors.NotFound,),
    "delete_key": (errors.NotFound,),
    "rotate_key": (errors.NotFound, errors.Conflict),
    "list_audit": (),
    "get_health": (),
    "get_readiness": (errors.Unavailable,),
    "get_metrics": (errors.Unavailable,),
}

_OF_ALL: Refusals = (
    errors.Unauthenticated,
    errors.Forbidden,
    errors.ValidationFailed,
    errors.RateLimited,
    errors.InternalError,
    errors.Unavailable,
)
_OF_POSTS: Refusals = (
    errors.Malformed,
    errors.TooLarge,
    errors.IdempotencyInFlight,
    errors.IdempotencyKeyReused,
)


def of_operation(operation_id: str, method: str, *, versioned: bool) -> Sequence[type[WinnowError]]:
    """List the errors that an operation may answer, each once."""
    found = [*OF_OPERATIONS[operation_id]]
    if versioned:
        found += _OF_ALL
        if method == "post":
            found += _OF_POSTS
    return list(dict.fromkeys(found))
