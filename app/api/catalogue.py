"""Every error code in one table, for ``docs/errors.md``."""

from collections.abc import Iterator

from app.api.errors import STATUS
from app.api.remedies import REMEDIES
from app.domain.errors import WinnowError

_HEADER = """# Error codes

Made by `make errors` from `app/domain/errors.py`; a test fails when it is stale.

A problem carries its `code` and HTTP status; a failed job (`failure`) and a rejected upload (`problem`) carry the
`code` with the class of who can mend it: `user`, `service`, or `transient`, which a job tries again by itself. The
`detail` says what was wrong and where, the `hint` often what to do about this very case; `errors` points into the body.
Codes are stable: decide by `code`, not by the words. Every answer has an `X-Request-ID`, the problem's `request_id`.

| code | status | class | meaning | what to do |
|---|---|---|---|---|
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
    lines = (
        f"| `{code}` | {status} | {blame} | {title} | {REMEDIES.get(code, '')} |\n"
        for status, code, blame, title in rows
    )
    return _HEADER + "".join(lines)
