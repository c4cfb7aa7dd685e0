"""Every error code in one table, for ``docs/errors.md``."""

from collections.abc import Iterator

from app.api.errors import STATUS
from app.domain.errors import WinnowError

_HEADER = """# Error codes

Made by `make errors` from `app/domain/errors.py`; a test fails when it is stale.

A problem carries its `code` and HTTP status; a failed job (`failure`) and a rejected upload (`problem`) carry the
`code` with the class of who can mend it: `user`, `service`, or `transient`, which a job tries again by itself.

| code | status | class | meaning |
|---|---|---|---|
"""


def error_classes(root: type[WinnowError] = WinnowError) -> Iterator[type[WinnowError]]:
    """Give every error that has a code of its own."""
    for error in root.__subclasses__():
        if "code" in vars(error):
            yield error
        yield from error_classes(error)


def markdown() -> str:
    """Write the table, by status and code."""
    rows = sorted(
        (STATUS[error.kind], error.code, error("").failure().class_, error.title) for error in error_classes()
    )
    return _HEADER + "".join(f"| `{code}` | {status} | {blame} | {title} |\n" for status, code, blame, title in rows)
