"""The application: wiring alone."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from app.api import (
    artifacts,
    audit,
    comparisons,
    datasets,
    errors,
    events,
    jobs,
    keys,
    methods,
    models,
    openapi,
    operations,
    projects,
    resumable,
    signing,
    sweeps,
    targets,
    usage,
    webhooks,
)
from app.api.deps import Parts
from app.api.idempotency import HEADER, REPLAYED, Idempotency
from app.api.middleware import REQUEST_ID, BodyLimit, Cors, Head, RequestId
from app.api.watching import Watch
from app.courier import Courier
from app.db.engine import make_engine, make_sessions
from app.housekeeping import Housekeeper
from app.queue import Relay
from app.services.callers import Keyring
from app.services.limits import Rates
from app.services.metrics import JobCounts
from app.services.resumable import Uploads
from app.settings import Settings
from app.storage import Storage

API = "/api/v1"
_NOUNS = (
    models,
    datasets,
    resumable,
    methods,
    targets,
    jobs,
    events,
    artifacts,
    signing,
    comparisons,
    sweeps,
    usage,
    projects,
    keys,
    webhooks,
    audit,
)
_SUBMISSIONS_AT_ONCE = 6
_RESUMABLE = f"{API}/uploads"
_UPLOADS = frozenset({f"{API}/models", f"{API}/datasets"})
_ASKED_HEADERS = ("Authorization", "Content-Type", "Repr-Digest", "Range", "Last-Event-ID", HEADER)
_TOLD_HEADERS = ("Location", "Retry-After", "ETag", "Repr-Digest", "Content-Range", REQUEST_ID, REPLAYED)
_PROBLEM: dict[int | str, dict[str, Any]] = {"4XX": {"model": errors.Problem, "description": "A problem (RFC 9457)."}}


def create_app(settings: Settings) -> FastAPI:
    """Build the service. The database must have been migrated."""
    engine = make_engine(settings.database_url)
    sessions, readers = make_sessions(engine), make_sessions(engine, read_only=True)
    storage = Storage(settings.storage_url)
    parts = Parts(
        settings=settings,
        engine=engine,
        sessions=sessions,
        readers=readers,
        storage=storage,
        uploads=Uploads(sessions, readers, storage, settings),
        relay=Relay(settings, engine),
        rates=Rates(settings.max_requests_per_minute),
        keyring=Keyring(readers),
        watch=Watch(readers),
        submissions=CapacityLimiter(_SUBMISSIONS_AT_ONCE),
        job_counts=JobCounts(readers),
    )
    housekeeper = Housekeeper(settings, engine, parts.storage, parts.relay)
    courier = Courier(settings, engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.relay.start()
        housekeeper.start()
        courier.start()
        async with parts.watch.running():
            yield
        await run_in_threadpool(courier.stop)
        await run_in_threadpool(housekeeper.stop)
        await run_in_threadpool(parts.relay.stop)
        engine.dispose()

    app = FastAPI(
        title="Winnow",
        summary="Compress a trained network, and measure what it cost.",
        version=version("winnow"),
        lifespan=lifespan,
        # A redirect would make a client send its upload twice.
        redirect_slashes=False,
        telemetry=_telemetry(os.environ),
        generate_unique_id_function=lambda route: route.name,
        middleware=[
            Middleware(RequestId, prefix=f"{API}/"),
            *_cors(settings),
            Middleware(resumable.Tus, path=_RESUMABLE),
            Middleware(Head),
            Middleware(BodyLimit, limit=settings.max_body_bytes, uploads=_UPLOADS, resumable=_RESUMABLE),
            Middleware(Idempotency, prefix=f"{API}/"),
        ],
    )
    app.state.parts = parts
    errors.install(app)
    for noun in _NOUNS:
        # Each by itself: a router within a router would look for its route twice as often.
        app.include_router(noun.router, prefix=API, responses=_PROBLEM)
    app.include_router(operations.router)
    documented = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            openapi.complete(documented(), API)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    return app


def _telemetry(environment: Mapping[str, str]) -> TelemetryConfig:
    """Leave tracing to the framework where the environment speaks of it; else it would look for it on each request."""
    asked = any(name.startswith(("OTEL_", "FASTAPI_OTEL_")) for name in environment)
    return {"tracing": asked, "metrics": asked, "logs": asked}


def _cors(settings: Settings) -> list[Middleware]:
    """Let pages of the origins that are set use the API; without any, no page may."""
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            Cors,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=[*_ASKED_HEADERS, *resumable.ASKED_HEADERS],
            expose_headers=[*_TOLD_HEADERS, *resumable.TOLD_HEADERS],
        )
    ]
