"""Everything an operator can set, read from ``WINNOW_*`` variables of the environment."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

GIBIBYTE = 1024**3
MEASURING_LOCK = Path(tempfile.gettempdir()) / "winnow-measuring.lock"


def _with_driver(url: str) -> str:
    """Name the driver that is installed, so that a plain ``postgresql://`` works."""
    for scheme in ("postgres://", "postgresql://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def _default_database(values: dict[str, Any]) -> str:
    return f"sqlite:///{values['data'].absolute() / 'winnow.db'}"


def _default_storage(values: dict[str, Any]) -> str:
    return (values["data"].absolute() / "objects").as_uri()


def _default_signing_key(values: dict[str, Any]) -> Path:
    return Path(values["data"].absolute() / "signing.key")


def _most_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 * 3


class Settings(BaseSettings):
    """The service's settings; they never change while it runs."""

    model_config = SettingsConfigDict(env_prefix="WINNOW_", frozen=True, extra="forbid")

    data: Path = Field(Path("data"), description="Folder under which the embedded parts keep everything.")
    database_url: Annotated[str, AfterValidator(_with_driver)] = Field(
        default_factory=_default_database, description="SQLAlchemy URL: SQLite under the data folder, or PostgreSQL."
    )
    broker_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis or Valkey: ``redis://…`` or ``redis+socket:///path``."
    )
    storage_url: str = Field(
        default_factory=_default_storage, description="Where contents are kept: ``file:///folder`` or ``s3://bucket``."
    )
    max_upload_bytes: int = Field(8 * GIBIBYTE, ge=1, description="Largest model or data set accepted.")
    max_body_bytes: int = Field(1024**2, ge=1, description="Largest body of every other request.")
    max_requests_per_minute: int | None = Field(
        None, ge=1, description="Most requests of one project to one API process; without a limit where unset."
    )
    max_active_jobs: int | None = Field(
        None, ge=1, description="Most jobs of one project that have not ended; without a limit where unset."
    )
    max_project_bytes: int | None = Field(
        None, ge=1, description="Most bytes that uploads may fill a project to; without a limit where unset."
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins whose pages a browser lets use the API, as a JSON list; none where unset."
    )
    job_memory_bytes: int = Field(
        default_factory=_most_memory,
        ge=GIBIBYTE,
        description="Most memory of one job; three quarters of the machine's.",
    )
    job_disk_bytes: int = Field(
        64 * GIBIBYTE, ge=1, description="Largest folder of one job, its model and data set included."
    )
    trust_models: bool = Field(
        default=False, description="Let a worker run that can put no walls around what users upload."
    )
    lease_seconds: float = Field(
        60, gt=0, description="A worker unheard of for so long has lost its job to another attempt."
    )
    requeue_after_seconds: float = Field(
        60, gt=0, description="A job or an inspection queued for so long, and not in the broker, is sent there again."
    )
    retry_delay_seconds: float = Field(
        10, ge=0, description="Wait before the second try after a transient failure; it doubles with each."
    )
    checkpoint_seconds: float = Field(15, gt=0, description="Checkpoints of a running job are stored so often.")
    checkpoint_days: float = Field(7, ge=0, description="Checkpoints of ended jobs are kept for so long.")
    log_days: float = Field(90, ge=0, description="Logs of ended jobs are kept for so long.")
    input_days: float | None = Field(
        None, ge=0, description="Models and data sets are kept for so long after the last job on them; else for ever."
    )
    webhook_private_addresses: bool = Field(
        default=False, description="Let webhooks go to private and loopback addresses, as a network of one's own has."
    )
    webhook_redirects: bool = Field(
        default=False, description="Let webhooks follow redirects (307 and 308), each to an address that is checked."
    )
    webhook_timeout_seconds: float = Field(
        10, gt=0, le=60, description="A receiver of webhooks that takes longer to answer has not."
    )
    delivery_days: float = Field(30, ge=1, description="What webhooks were sent is kept in their logs for so long.")
    upload_hours: float = Field(
        24, gt=0, description="A resumable upload is kept for so long after the last piece of it."
    )
    collect_seconds: float = Field(3600, gt=0, description="The API clears away what has expired so often.")
    signing_key: Path = Field(
        default_factory=_default_signing_key,
        description="Ed25519 key in PEM that signs manifests, made where it is missing. All workers must share it.",
    )
    measuring_lock: Path = Field(
        MEASURING_LOCK,
        description="Locked by the job that measures latency: one at a time. Workers in containers on one host need"
        " the folder that it lies in to be shared among them.",
    )
    worker_health_port: int | None = Field(
        None, ge=1, le=65535, description="Port of a worker's own ``/healthz`` and ``/readyz``; none where unset."
    )
    worker_health_host: str = Field("127.0.0.1", description="Address on which a worker serves them.")
    worker_timeout_seconds: int = Field(60, ge=1, description="A worker unseen for longer counts as gone.")
