"""The OpenAPI document as the service answers: what the framework cannot read off the endpoints is added here."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.api import idempotency, refusals
from app.api.artifacts import ZSTANDARD
from app.api.deps import JSON, OCTETS
from app.api.errors import MEDIA_TYPE, STATUS, Problem
from app.api.middleware import REQUEST_ID
from app.domain.errors import IdempotencyInFlight, Kind, WinnowError
from app.domain.ids import Prefix, id_pattern

_METHODS = ("get", "post", "put", "patch", "delete")
_EXAMPLES = Path(__file__).with_name("examples.json")
_TEXT = {"type": "string"}
_HEADERS: dict[str, dict[str, Any]] = {
    REQUEST_ID: {"description": "Finds the request in the service's log.", "schema": _TEXT, "required": True},
    "Location": {"description": "Where the object is.", "schema": _TEXT, "required": True},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}, "required": True},
    "WWW-Authenticate": {"schema": {"const": "Bearer"}, "required": True},
    "ETag": {"description": 'The SHA-256, as `"<hexadecimal>"`.', "schema": _TEXT, "required": True},
    "Repr-Digest": {"description": "`sha-256=:<base64>:` (RFC 9530), of the whole.", "schema": _TEXT, "required": True},
    "Content-Disposition": {"schema": _TEXT},
    "Content-Range": {"description": "`bytes <first>-<last>/<size>`, or `bytes */<size>`.", "schema": _TEXT},
    idempotency.REPLAYED: {"description": "`true` where an earlier answer was given again.", "schema": _TEXT},
}
_OF_OPTIONS = ("Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm")
_HEADERS |= {name: {"schema": _TEXT, "required": True} for name in _OF_OPTIONS}
_CONTENT_HEADERS = ("ETag", "Repr-Digest")
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_CONTENTS: dict[str, tuple[str, ...]] = {
    "get_model_content": (OCTETS,),
    "get_dataset_content": (OCTETS,),
    "get_artifact_content": (OCTETS, ZSTANDARD),
    "get_job_report": (),
}
"""What gives a file, whole or a range of it (RFC 9110), in which media types beside those that it says itself."""
_ASKED_OF_CONTENTS = {
    "Range": "One range, `bytes=<first>-<last>`.",
    "If-Range": "The `ETag` that the range is of; where the content has another, all of it is sent.",
    "If-None-Match": "The `ETag` of what the caller has: 304 where it is still the content.",
}
_OF_ERRORS: dict[Kind, tuple[str, ...]] = {
    Kind.UNAUTHENTICATED: ("WWW-Authenticate",),
    Kind.LIMITED: ("Retry-After",),
    Kind.UNAVAILABLE: ("Retry-After",),
    Kind.UNSATISFIABLE: ("Content-Range",),
}


_CURSORS = {
    "list_models": Prefix.MODEL,
    "list_datasets": Prefix.DATASET,
    "list_jobs": Prefix.JOB,
    "list_uploads": Prefix.UPLOAD,
    "list_sweeps": Prefix.SWEEP,
    "list_webhooks": Prefix.WEBHOOK,
    "list_deliveries": Prefix.DELIVERY,
    "list_keys": Prefix.KEY,
    "list_projects": Prefix.PROJECT,
    "list_audit": Prefix.AUDIT,
}


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Read the requests and responses that the document shows, by operation id."""
    found: dict[str, dict[str, Any]] = json.loads(_EXAMPLES.read_text(encoding="utf-8"))
    return found


def complete(document: dict[str, Any], prefix: str) -> None:
    """Add refusals, headers and examples to each operation, once."""
    components = document["components"]
    _add_schema(components["schemas"], Problem)
    components["headers"] = {name: dict(header) for name, header in _HEADERS.items()}
    components["examples"] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if operation := methods.get(method):
                _name_bodies(operation, components["schemas"])
                _complete(operation, method, components["examples"], versioned=path.startswith(prefix))
        if options := methods.get("options"):
            # It asks for no key and refuses nothing.
            options["responses"].pop("4XX", None)
            _add_headers(options["responses"]["204"], [REQUEST_ID, *_OF_OPTIONS])
    idempotency.describe(document, prefix)
    _spell_out_constants(document)


def _name_bodies(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Give the schemas of bodies that endpoints read themselves a name, as all others have one."""
    body = operation.get("requestBody", {}).get("content", {}).get(JSON)
    for place in (body["schema"], *body["schema"].get("anyOf", ())) if body else ():
        if name := place.get("title"):
            schema = dict(place)
            schemas |= schema.pop("$defs", {})
            schemas[name] = schema
            place.clear()
            place["$ref"] = f"#/components/schemas/{name}"


def _spell_out_constants(node: Any) -> None:
    """Write a constant among alternatives as an enumeration of one, which is the same to a validator.

    Generators of clients take a constant for the only thing that can come.
    """
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _spell_out_constants(part)
    for choice in node.get("anyOf", ()) if isinstance(node, dict) else ():
        if "const" in choice:
            choice["enum"] = [choice.pop("const")]


def _complete(operation: dict[str, Any], method: str, shown: dict[str, Any], *, versioned: bool) -> None:
    responses = operation["responses"]
    responses.pop("4XX", None)
    if operation["operationId"] in _CONTENTS:
        _add_ranges(operation)
    for status, response in list(responses.items()):
        _add_headers(response, _of_success(operation, status, method, versioned=versioned))
    errors = refusals.of_operation(operation["operationId"], method, versioned=versioned)
    for status in sorted({STATUS[error.kind] for error in errors}):
        found = [error for error in errors if STATUS[error.kind] == status]
        responses[str(status)] = _refusal(found)
        shown |= {error.code: {"summary": error.title, "value": _example(error)} for error in found}
    _add_examples(operation)
    if prefix := _CURSORS.get(operation["operationId"]):
        (cursor,) = (it for it in operation["parameters"] if it["name"] == "cursor")
        cursor["schema"]["anyOf"][0]["pattern"] = id_pattern(prefix)


def _of_success(operation: dict[str, Any], status: str, method: str, *, versioned: bool) -> list[str]:
    headers = [REQUEST_ID]
    if status in {"201", "202"}:
        headers.append("Location")
    if status == "202":
        headers.append("Retry-After")
    if operation["operationId"] in _CONTENTS:
        headers += [*_CONTENT_HEADERS, "Content-Disposition"]
        headers += ["Content-Range"] if status == "206" else []
    if versioned and method == "post":
        headers.append(idempotency.REPLAYED)
    return headers


def _add_ranges(operation: dict[str, Any]) -> None:
    whole = operation["responses"]["200"]
    content = whole.get("content", {}) | dict.fromkeys(_CONTENTS[operation["operationId"]], _BYTES)
    whole["content"] = content
    operation["responses"] |= {
        # A part of JSON or of a page is neither.
        "206": {"description": "The range asked for.", "content": dict.fromkeys(content, _BYTES)},
        "304": {"description": "The caller has it already."},
    }
    operation.setdefault("parameters", []).extend(
        {"name": name, "in": "header", "required": False, "schema": _TEXT, "description": text}
        for name, text in _ASKED_OF_CONTENTS.items()
    )


def _refusal(errors: list[type[WinnowError]]) -> dict[str, Any]:
    names = [REQUEST_ID, *_OF_ERRORS.get(errors[0].kind, ())]
    response: dict[str, Any] = {
        "description": "; ".join(f"`{error.code}`: {error.title}" for error in errors) + ".",
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": f"#/components/schemas/{Problem.__name__}"},
                "examples": {error.code: {"$ref": f"#/components/examples/{error.code}"} for error in errors},
            }
        },
    }
    _add_headers(response, names)
    if IdempotencyInFlight in errors:
        # Of all that share the status, it alone is worth another try.
        response["headers"]["Retry-After"] = {
            name: it for name, it in _HEADERS["Retry-After"].items() if name != "required"
        }
    return response


def _add_headers(response: dict[str, Any], names: list[str]) -> None:
    response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _example(error: type[WinnowError]) -> dict[str, Any]:
    problem = Problem(
        type=f"urn:winnow:problem:{error.code}",
        title=error.title,
        status=STATUS[error.kind],
        detail="What was wrong, where, and what to do.",
        instance="/api/v1/jobs",
        code=error.code,
        request_id="req_01KB0Z3V5T8R6W2XJ4N7M0C1AB",
    )
    return problem.model_dump(mode="json")


def _add_examples(operation: dict[str, Any]) -> None:
    found = examples().get(operation["operationId"], {})
    if "request" in found:
        operation["requestBody"]["content"]["application/json"]["examples"] = {
            name: {"value": value} for name, value in found["request"].items()
        }
    if "response" in found:
        status = next(status for status in operation["responses"] if status.startswith("2"))
        operation["responses"][status]["content"]["application/json"]["example"] = found["response"]


def _add_schema(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    schema = model.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
