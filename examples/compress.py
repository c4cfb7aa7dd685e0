"""Compress a network over HTTP: upload, submit, follow, compare, download.

``python examples/compress.py model.pt2 data.npz`` with the service's address in ``WINNOW_URL``
and a key in ``WINNOW_KEY``. ``model.onnx`` is written beside the model as ``model.small.onnx``.
"""

import base64
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

RECIPE = [
    {"method": "prune", "granularity": "channel", "criterion": "l2", "amount": 0.6, "round_to": 8},
    {"method": "distill", "teacher": "baseline", "epochs": 8, "temperature": 4.0, "alpha": 0.7, "learning_rate": 0.02},
    {"method": "quantize", "scheme": "static", "observer": "histogram", "samples": 256},
]


def connect(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=f"{url}/api/v1/", headers={"Authorization": f"Bearer {key}"}, timeout=120)


def checked(response: httpx.Response) -> Any:
    """Give the body, or stop with the problem that the service described."""
    body = response.json()
    if response.is_error:
        sys.exit(f"{body['code']}: {body['detail']} {body.get('hint', '')}")
    return body


def upload(client: httpx.Client, noun: str, path: Path) -> str:
    """Send a file as it is, wait until the service has looked into it and give its id."""
    with path.open("rb") as body:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        item = checked(client.post(noun, params={"name": path.stem}, content=body, headers=headers))
    while item["state"] == "validating":
        item = checked(client.get(f"{noun}/{item['id']}", params={"wait": 30}))
    if item["state"] == "rejected":
        sys.exit(f"{path}: {item['problem']['detail']}")
    return str(item["id"])


def follow(client: httpx.Client, job_id: str) -> None:
    """Draw a progress bar from the job's event stream until the job ends."""
    stage, share = "queued", 0.0
    with client.stream("GET", f"jobs/{job_id}/events", headers={"Accept": "text/event-stream"}) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data:"):
                continue
            data = json.loads(line[5:])["data"]
            stage, share = data.get("stage", data.get("state", stage)), data.get("fraction", share)
            bar = "█" * round(share * 30)
            print(f"\r{bar:░<30} {share:4.0%}  {stage:<12}", end="", flush=True)
    print()


def table(report: dict[str, Any]) -> str:
    """Lay baseline and result side by side."""
    before, after, delta = report["baseline"], report["compressed"], report["delta"]

    # The first is the one that the task is judged by.
    metric = report["objective"]["metric"] if report["objective"] else next(iter(before["metrics"]))

    def measured(side: dict[str, Any]) -> str:
        found = side["metrics"][metric]
        low, high = found["ci95"]
        return f"{found['value']:.4f} [{low:.4f}, {high:.4f}]"

    low, high = delta["latency_ratio"]["ci95"]
    drop = delta["metric_drop"]["value"]
    rows = [
        (f"{metric} [95 %]", measured(before), measured(after), f"{abs(drop):.4f} {'gained' if drop < 0 else 'lost'}"),
        ("latency p50 (ms)", *(f"{side['latency'][0]['p50_ms']:.3f}" for side in (before, after)),
         f"{delta['latency_ratio']['value']:.2f}x [{low:.2f}, {high:.2f}]"),
        ("latency p95 (ms)", *(f"{side['latency'][0]['p95_ms']:.3f}" for side in (before, after)),
         f"{before['latency'][0]['p95_ms'] / after['latency'][0]['p95_ms']:.2f}x"),
        ("file (bytes)", *(f"{side['size_bytes']:,}" for side in (before, after)), f"{delta['size_ratio']:.2f}x"),
        ("parameters", *(f"{side['parameters']:,}" for side in (before, after)), f"{delta['parameters_ratio']:.2f}x"),
        ("MACs a row", *(f"{side['macs']:,}" for side in (before, after)), f"{delta['macs_ratio']:.2f}x"),
    ]  # fmt: skip
    header = ("", "before", "after", "gain")
    return "\n".join(f"{a:<17}{b:>26}{c:>26}{d:>21}" for a, b, c, d in (header, *rows))


def download(client: httpx.Client, job_id: str, name: str, path: Path) -> None:
    """Fetch one artifact of the job and check it against the digest that the service sends."""
    listed = checked(client.get(f"jobs/{job_id}/artifacts"))["items"]
    artifact = next(item for item in listed if item["name"] == name)
    digest = hashlib.sha256()
    with client.stream("GET", f"artifacts/{artifact['id']}/content") as response, path.open("wb") as out:
        for block in response.iter_bytes():
            out.write(block)
            digest.update(block)
    if response.headers["Repr-Digest"] != f"sha-256=:{base64.b64encode(digest.digest()).decode()}:":
        sys.exit(f"{name} arrived damaged: its digest is {digest.hexdigest()}")


def compress(
    url: str,
    key: str,
    model: Path,
    data: Path,
    result: Path,
    recipe: Sequence[Mapping[str, Any]] = RECIPE,
    max_drop: float = 0.01,
) -> None:
    """Run one job to its end and fetch the network; the objective is about the task's own metric."""
    with connect(url, key) as client:
        job = {
            "name": f"{model.stem}: {', '.join(step['method'] for step in recipe)}",
            "model_id": upload(client, "models", model),
            "dataset_id": upload(client, "datasets", data),
            "recipe": recipe,
            "target": "onnxruntime-cpu",
            "objective": {"max_drop": max_drop},
        }
        job_id = checked(client.post("jobs", json=job))["id"]
        follow(client, job_id)
        ended = checked(client.get(f"jobs/{job_id}"))
        failure = ended["failure"] or {}
        if ended["state"] == "succeeded" or failure.get("code") == "objective_missed":
            report = checked(client.get(f"jobs/{job_id}/report"))
            print(table(report), *report["verdict"]["reasons"], sep="\n")
        if ended["state"] != "succeeded":
            sys.exit(f"{job_id} {ended['state']}. {failure.get('detail', '')} {failure.get('hint') or ''}")
        download(client, job_id, "model.onnx", result)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not {"WINNOW_URL", "WINNOW_KEY"} <= os.environ.keys():
        sys.exit(__doc__)
    model, data = Path(sys.argv[1]), Path(sys.argv[2])
    compress(os.environ["WINNOW_URL"], os.environ["WINNOW_KEY"], model, data, model.with_suffix(".small.onnx"))
