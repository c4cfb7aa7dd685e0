"""Hostile files through a live service: each ends as a problem or as a rejected object, and everybody lives on."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.service import OCTETS, Service

NOUNS = {"pt2": "models", "onnx": "models"}
"""Where a format is uploaded to; all others are data sets."""
BLAMELESS = frozenset({"child_crashed", "internal_error", "unavailable"})
"""Codes that say the service failed, where it was to refuse."""
WAIT_SECONDS = 30


def run_live(service: Service, files: Iterable[tuple[str, Path]]) -> Counter[str]:
    """Upload each file and wait for its end; count the ends by code.

    Raises:
        AssertionError: a file was taken, or an answer or an end was the service's fault.
    """
    ends: Counter[str] = Counter()
    before = {process.pid for process in service.family()}
    for kind, path in files:
        code = _end_of(service, NOUNS.get(kind, "datasets"), path)
        assert code not in BLAMELESS, (path.name, code)
        ends[code] += 1
    assert before == {process.pid for process in service.family()}, "a part of the service died"
    assert service.client.get(f"http://127.0.0.1:{service.port}/readyz").status_code == 200
    return ends


def _end_of(service: Service, noun: str, path: Path) -> str:
    answer = service.client.post(noun, params={"name": path.stem}, content=path.read_bytes(), headers=OCTETS)
    if answer.status_code != 201:
        assert 400 <= answer.status_code < 500, (path.name, answer.status_code, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        return str(answer.json()["code"])
    item = answer.json()
    while item["state"] == "validating":
        item = service.get(f"{noun}/{item['id']}", params={"wait": WAIT_SECONDS})
    assert item["state"] == "rejected", (path.name, item)
    return str(item["problem"]["code"])
