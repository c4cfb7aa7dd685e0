"""Every operation of the OpenAPI document, so that a new one is asked what the others are."""

import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.main import API, create_app
from app.settings import Settings

METHODS = ("get", "post", "put", "patch", "delete")
WORDS = {"name"}
"""Parameters of paths that name something every tenant has, such as a method."""


@dataclass(frozen=True)
class Operation:
    """``path`` is below the version prefix, with its parameters in braces; ``needed`` are required queries."""

    method: str
    path: str
    parameters: tuple[str, ...]
    needed: tuple[str, ...]
    scope: str
    headers: tuple[str, ...]

    def __str__(self):
        return f"{self.method} {self.path}"


@cache
def document():
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data=Path(folder)))
        found = app.openapi()
        app.state.parts.engine.dispose()
    return found


@cache
def refusals(method, path):
    """Give the codes that the document names for a request, by status; null where it knows no such operation."""
    for template, methods in document()["paths"].items():
        pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
        if method.lower() in methods and re.fullmatch(pattern, path) and (":" in path) == (":" in template):
            responses = methods[method.lower()]["responses"]
            return {
                int(status): set(response["content"].get("application/problem+json", {}).get("examples", ()))
                for status, response in responses.items()
                if "content" in response
            }
    return None


@cache
def operations():
    return tuple(
        _operation(method, path, methods[method])
        for path, methods in document()["paths"].items()
        for method in METHODS
        if path.startswith(API) and method in methods
    )


def of_objects():
    """Give the operations on one object of a tenant."""
    return [it for it in operations() if set(it.parameters) - WORDS]


def _operation(method, path, described):
    parameters = described.get("parameters", [])
    path = path.removeprefix(API + "/")
    admin = path.split("/")[0] in {"keys", "projects", "audit"}
    return Operation(
        method=method.upper(),
        path=path,
        parameters=tuple(it["name"] for it in parameters if it["in"] == "path"),
        needed=tuple(it["name"] for it in parameters if it["in"] == "query" and it.get("required")),
        headers=tuple(it["name"] for it in parameters if it["in"] == "header"),
        scope="admin" if admin else "read" if method == "get" else "write",
    )
