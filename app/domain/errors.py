"""Every error that a user can meet, in one tree.

::

    WinnowError
    ├── ClientError                     the caller can mend it
    │   ├── Malformed                   the request itself cannot be read
    │   ├── Unauthenticated, Forbidden
    │   ├── NotFound, MethodNotAllowed
    │   ├── NotAcceptable, RangeNotSatisfiable
    │   ├── Conflict                    the object is in another state
    │   ├── UploadLocked                somebody else writes to it
    │   ├── ChecksumMismatch, VersionMismatch
    │   │                               of tus, with statuses of their own
    │   ├── TooLarge
    │   ├── Unsupported                 a file in no format that is known
    │   ├── Invalid                     well formed and impossible
    │   └── Limited                     later, perhaps
    └── ServiceError                    the service's own
        └── Unavailable, StorageFull    transient: trying again may help

A leaf has a stable ``code``. The kind decides the HTTP status (``app.api.errors``)
and the ``class`` of a job's failure; ``retryable`` says whether a job tries again by itself.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Kind(StrEnum):
    """What sort of error it is; ``app.api.errors`` maps each to one HTTP status."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    NOT_ACCEPTABLE = "not_acceptable"
    UNSATISFIABLE = "unsatisfiable"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    LOCKED = "locked"
    CHECKSUM = "checksum"
    PRECONDITION = "precondition"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    INVALID = "invalid"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class FieldError(BaseModel):
    """One fault of a payload, with a JSON pointer (RFC 6901) to its place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pointer: str
    message: str


class Failure(BaseModel):
    """Why a job failed or a file was rejected, as the API shows it."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)

    code: str
    class_: Literal["user", "service", "transient"] = Field(alias="class")
    title: str
    detail: str
    hint: str | None = None


class WinnowError(Exception):
    """Root of the tree. ``detail`` says what was wrong and where; ``hint`` what to do."""

    code: ClassVar[str] = "internal_error"
    kind: ClassVar[Kind] = Kind.INTERNAL
    title: ClassVar[str] = "Something went wrong inside the service"
    retryable: ClassVar[bool] = False
    headers: Mapping[str, str] = MappingProxyType({})
    """What the refusal says beside its body; for one error of a kind, where it says more than the kind."""

    def __init__(self, detail: str, *, hint: str | None = None, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.errors = tuple(errors)

    def failure(self) -> Failure:
        """Give the error in the form that a job or a rejected object keeps."""
        if self.retryable:
            blame: Literal["user", "service", "transient"] = "transient"
        else:
            blame = "user" if isinstance(self, ClientError) else "service"
        return Failure(code=self.code, class_=blame, title=self.title, detail=self.detail, hint=self.hint)


class ClientError(WinnowError):
    """The caller can mend it."""


class ServiceError(WinnowError):
    """The service's own fault."""


# the request itself
class Malformed(ClientError):
    code, kind, title = "malformed_request", Kind.MALFORMED, "The request cannot be read"


class DigestMismatch(Malformed):
    code, title = "digest_mismatch", "The bytes received do not match the digest sent"


class OriginRefused(Malformed):
    code, title = "origin_refused", "Pages of another origin may not send this"


class TruncatedUpload(Malformed):
    code, title = "truncated_upload", "The upload ended before the file did"


class Unauthenticated(ClientError):
    code, kind, title = "unauthenticated", Kind.UNAUTHENTICATED, "A valid API key is needed"


class Forbidden(ClientError):
    code, kind, title = "forbidden", Kind.FORBIDDEN, "The key lacks the scope for this"


class NotFound(ClientError):
    code, kind, title = "not_found", Kind.NOT_FOUND, "There is no such object"


class MethodNotAllowed(ClientError):
    code, kind, title = "method_not_allowed", Kind.METHOD_NOT_ALLOWED, "The resource has no such method"


class NotAcceptable(ClientError):
    code, kind, title = "not_acceptable", Kind.NOT_ACCEPTABLE, "None of the accepted media types can be given"


class RangeNotSatisfiable(ClientError):
    code, kind, title = "range_not_satisfiable", Kind.UNSATISFIABLE, "The range lies outside the content"


class Conflict(ClientError):
    code, kind, title = "conflict", Kind.CONFLICT, "The object is not in a state that allows this"


class NotReady(Conflict):
    code, title = "not_ready", "The model or data set is not ready"


class NoReport(Conflict):
    code, title = "no_report", "The job has no report to compare"


class JobEnded(Conflict):
    code, title = "job_ended", "The job has already ended"


class SweepEnded(Conflict):
    code, title = "sweep_ended", "The sweep has already ended"


class InputExpired(Conflict):
    code, title = "input_expired", "The upload was kept for as long as this service keeps them"


class NameTaken(Conflict):
    code, title = "name_taken", "Another object has this name"


class IdempotencyInFlight(Conflict):
    code, title = "idempotency_in_flight", "A request with this Idempotency-Key is still at work"
    headers = MappingProxyType({"Retry-After": "1"})


class InUse(Conflict):
    code, title = "in_use", "Other objects still refer to this one"


class TooManyWebhooks(Conflict):
    code, title = "too_many_webhooks", "The project has as many webhooks as it may"


class WrongOffset(Conflict):
    code, title = "wrong_offset", "The upload stands at another offset"


class UploadIncomplete(Conflict):
    code, title = "upload_incomplete", "The upload has not come to its end"


class UploadLocked(ClientError):
    code, kind, title = "upload_locked", Kind.LOCKED, "Another request writes to the upload"


class ChecksumMismatch(ClientError):
    code, kind, title = "checksum_mismatch", Kind.CHECKSUM, "The bytes received do not match the checksum sent"


class VersionMismatch(ClientError):
    code, kind, title = "version_mismatch", Kind.PRECONDITION, "The service speaks another version of tus"
    headers = MappingProxyType({"Tus-Version": "1.0.0"})


class TooLarge(ClientError):
    code, kind, title = "too_large", Kind.TOO_LARGE, "The body is over the limit"


class Limited(ClientError):
    """``retry_after_seconds`` is when it is worth another try."""

    code, kind, title = "limited", Kind.LIMITED, "A limit of this project is reached"

    def __init__(self, detail: str, *, retry_after_seconds: int = 5, hint: str | None = None) -> None:
        super().__init__(detail, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(Limited):
    code, title = "rate_limited", "The project has sent too many requests"


class TooManyJobs(Limited):
    code, title = "too_many_jobs", "The project has too many jobs that have not ended"


class QuotaReached(Limited):
    code, title = "quota_reached", "The project stores as much as it may"


# files
class Unsupported(ClientError):
    code, kind, title = "unsupported_media_type", Kind.UNSUPPORTED, "The media type is not accepted here"


class UnknownFormat(Unsupported):
    code, title = "unknown_format", "The file is in no format that the service reads"


class Invalid(ClientError):
    code, kind, title = "invalid", Kind.INVALID, "The payload makes no sense"


class ValidationFailed(Invalid):
    code, title = "validation_failed", "The payload does not fit the schema"


class IdempotencyKeyReused(Invalid):
    code, title = "idempotency_key_reused", "This Idempotency-Key was sent with another request"


class AddressRefused(Invalid):
    code, title = "address_refused", "The service sends nothing to this address"


class CorruptFile(Invalid):
    code, title = "corrupt_file", "The file is damaged"


class UnsafeFile(Invalid):
    code, title = "unsafe_file", "The file holds something that is not admitted"


class NonFiniteWeights(Invalid):
    code, title = "non_finite_weights", "The network's weights hold NaN or infinite values"


class UnsupportedNetwork(Invalid):
    code, title = "unsupported_network", "The network cannot be handled"


class InvalidDataset(Invalid):
    code, title = "invalid_dataset", "The data set cannot be used"


class InvalidLabels(InvalidDataset):
    code, title = "invalid_labels", "The labels are nothing that a network can learn"


# jobs, at submission and while they run
class UnknownMethod(Invalid):
    code, title = "unknown_method", "The recipe names a method that does not exist"


class UnknownTarget(Invalid):
    code, title = "unknown_target", "There is no such target"


class DatasetMismatch(Invalid):
    code, title = "dataset_mismatch", "The data set does not fit the model's signature"


class TaskMismatch(Invalid):
    code, title = "task_mismatch", "This makes no sense for what the network learns"


class LabelsOutOfRange(Invalid):
    code, title = "labels_out_of_range", "A label is outside the model's classes"


class NothingToPrune(Invalid):
    code, title = "nothing_to_prune", "No channel of this network can be removed"


class NothingToQuantize(Invalid):
    code, title = "nothing_to_quantize", "No layer of this network can be quantized"


class UnsupportedPrecision(Invalid):
    code, title = "unsupported_precision", "The target does not run this precision"


class RangeNotFound(Invalid):
    code, title = "range_not_found", "The calibration rows give no range for a value to be quantized"


class NotTrainable(Invalid):
    code, title = "not_trainable", "This network cannot be trained"


class RecipeOrder(Invalid):
    code, title = "recipe_order", "The steps cannot follow each other like this"


class NoSensitivity(Invalid):
    code, title = "no_sensitivity", "The job named has no sensitivity table that this step can use"


class ModelMismatch(Invalid):
    code, title = "model_mismatch", "A model that the recipe names does not fit the one to be compressed"


class NoStudent(Invalid):
    code, title = "no_student", "No student can be derived from this network as asked"


class NoTrialSucceeded(Invalid):
    code, title = "no_trial_succeeded", "No trial of the sweep met its objective"


class NoChange(ClientError):
    code, kind, title = "no_change", Kind.INVALID, "A step changed nothing"


class TargetUnreachable(ClientError):
    code, kind = "target_unreachable", Kind.INVALID
    title = "No choice of channels comes near enough to the ratio"


class ObjectiveMissed(ClientError):
    code, kind, title = "objective_missed", Kind.INVALID, "The result loses more than the objective allows"


class Diverged(ClientError):
    code, kind, title = "diverged", Kind.INVALID, "Training diverged"


class TimeLimitExceeded(ClientError):
    code, kind, title = "time_limit_exceeded", Kind.INVALID, "The job ran longer than its limit"


class OutOfMemory(ClientError):
    code, kind, title = "out_of_memory", Kind.INVALID, "The job needed more memory than it may have"


class ResourceLimitExceeded(ClientError):
    code, kind, title = "resource_limit_exceeded", Kind.INVALID, "The job used more of the machine than it may have"


# the service's own
class InternalError(ServiceError):
    code, kind = "internal_error", Kind.INTERNAL


class CheckFailed(ServiceError):
    code, title = "check_failed", "A result did not pass the engine's own checks"


class ChildCrashed(ServiceError):
    code, title = "child_crashed", "The process that ran the job died"
    retryable = True


class WorkerLost(ServiceError):
    code, title = "worker_lost", "The worker that ran the job was lost"
    retryable = True


class Unavailable(ServiceError):
    code, kind, title = "unavailable", Kind.UNAVAILABLE, "A part of the service cannot be reached"
    retryable = True


class StorageFull(Unavailable):
    code, title = "storage_full", "The service has no room left to store this"
