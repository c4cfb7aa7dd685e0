"""Reports such as jobs leave, with names that nobody means well by."""

import numpy as np

from app.domain.job import Objective
from app.domain.report import ANY_REPORT
from app.domain.task import Upload
from workers.compression.latency import describe
from workers.compression.pages.subject import Subject

HOSTILE = (
    "</style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "]]></svg><a href='javascript:alert(1)'>",
    r"$\frac{1}{0}$ ${x",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnol\u0000\u0008\ud800",
    "层.卷积🔥",
    "`a|b` [x](javascript:alert(1)) <b> https://example.org www.example.org",
    "x" * 5000,
    "",
)
SUBJECT = Subject(
    name="digits for the edge",
    labels=(("team", "vision"),),
    model=Upload(name="digits.pt2", sha256="ab" * 32),
    dataset=Upload(name="digits", sha256="cd" * 32),
)
HOSTILE_SUBJECT = Subject(
    name=HOSTILE[0],
    labels=((HOSTILE[1], HOSTILE[2]),),
    model=Upload(name=HOSTILE[7], sha256="ab" * 32),
    dataset=Upload(name=HOSTILE[3], sha256="cd" * 32),
)


def paired(batch_size=1, *, noisy=False, seed=0):
    """Make samples of both files the way a measurement gives them: the baseline three times as slow."""
    generator = np.random.default_rng(seed)
    spread = 0.5 if noisy else 0.03
    before, after = (
        scale * batch_size * generator.lognormal(0, spread, 300) + generator.exponential(0.01, 300)
        for scale in (3.0, 1.0)
    )
    rounds = tuple(zip(np.split(before, 5), np.split(after, 5), strict=True))
    return describe(rounds, batch_size, 1, (None, None))


def side(latency, *, value, size_bytes, operators):
    return {
        "size_bytes": size_bytes, "parameters": size_bytes // 4, "nonzero_parameters": size_bytes // 4,
        "macs": size_bytes * 10, "peak_memory_bytes": 80_000_000, "load_ms": 1.5, "latency": latency,
        "metrics": {"accuracy": {"value": value, "ci95": [value - 0.02, value + 0.02], "samples": 360}},
        "operators": operators,
    }  # fmt: skip


def operators(*kinds):
    return [
        {"operator": kind, "nodes": 2, "time_ms": 1 / rank, "time_share": 0.5 / rank, "weight_bytes": 4000 // rank}
        for rank, kind in enumerate(kinds, 1)
    ]


def epochs(count):
    return [
        {"epoch": at, "loss": 1 / at, "learning_rate": 0.1 * (1 - at / count), "accuracy": 1 - 0.5 / at}
        for at in range(1, count + 1)
    ]


def layers(names):
    return [
        {"name": name, "sparsity": 0.1 * (place % 3), "bits": 8, "sqnr_db": 20.0 + place, "range": [-1.0, 1.0],
         "saturated": 0.01, "parameters": 100, "macs": 1000}
        for place, name in enumerate(names)
    ]  # fmt: skip


ENVIRONMENT = {
    "cpu": "AMD EPYC", "isa": ["avx2", "avx512_vnni"], "threads": 1, "torch": "2.13.0", "onnxruntime": "1.32.0",
    "python": "3.11.7", "service": "0.1.0",
}  # fmt: skip
DATA = {"train": 1437, "calibration": 256, "validation": 360, "overlap": 3}


def make_report(
    names=("conv1", "conv2", "fc"), *, classes=10, noisy=False, pairs=None, task="classification", losing=True
):
    """Give a report and the pairs it was made from."""
    pairs = pairs or (paired(1, noisy=noisy), paired(8, seed=1))
    report = {
        "task": task,
        "baseline": side(
            [pair.baseline.model_dump() for pair in pairs], value=0.96, size_bytes=21_680,
            operators=operators("Conv", "Gemm"),
        ),
        "compressed": side(
            [pair.compressed.model_dump() for pair in pairs], value=0.95, size_bytes=7_110,
            operators=operators("QLinearConv", "QGemm", *names[:2]),
        ),
        "delta": {
            "size_ratio": 21_680 / 7_110, "parameters_ratio": 3.05, "macs_ratio": 3.05,
            "latency_ratio": pairs[0].ratio.model_dump(),
            "metric_drop": {"value": 0.01, "ci95": [-0.01, 0.03], "p_value": 0.4}, "agreement": 0.97,
            "metric_drops": {"accuracy": {"value": 0.01, "ci95": [-0.01, 0.03], "p_value": 0.4}},
        },
        "objective": Objective(metric="accuracy", max_drop=0.02).model_dump() | {"met": True},
        "verdict": {
            "faster": True, "smaller": True, "as_accurate": False,
            "reasons": ["It runs at 3.00 times the speed.", *names[:20]],
        },
        "steps": [
            step("prune", {"rounds": [{"round": 1, "recovery": {"epochs": epochs(2)}}, {"round": 2}]}),
            step("distill", {"epochs": epochs(6)}),
            step("quantize", {}),
        ],
        "layers": layers(names),
        "classes": [
            {"class": number, "samples": 36, "baseline": 0.95, "compressed": 0.95 - 0.01 * (number % 7) * losing}
            for number in range(classes)
        ],
        "files": {
            "rows": 360, "equal_predictions": 1.0, "largest_difference": 1e-6, "relative_difference": 7e-8,
            "widest_tie": 0.0,
        },
        "data": DATA, "timed_rows": {"tokens": [128], "image": [3, 28, 28]}, "environment": ENVIRONMENT, "seed": 7,
        "recipe": [
            {"method": "prune", "amount": 0.3, "exclude": [name for name in names if name][:100]},
            {"method": "quantize"},
        ],
    }  # fmt: skip
    return ANY_REPORT.validate_python(report), pairs


def step(method, details, **spec):
    figures = {"parameters": 5178, "macs": 83264}
    return {
        "method": method, "spec": {"method": method, "amount": 0.3, "exclude": [], "teacher": None, **spec},
        "seconds": 1.25, "before": figures, "after": figures | {"parameters": 2568}, "details": details,
    }  # fmt: skip


def make_analysis(names=("conv1", "conv2")):
    groups = [
        {
            "group": f"g{place}", "layers": [name or "?"], "size": 8,
            "measurements": [
                {"amount": amount, "removed": 2, "accuracy": 0.9, "drop": 0.01 * place * amount, "loss": None}
                for amount in (0.25, 0.5)
            ],
        }
        for place, name in enumerate(names)
    ]  # fmt: skip
    table = {
        "granularity": "channel", "criterion": "l2", "split": "train", "rows": 500, "accuracy": 0.96, "loss": 0.1,
        "complete": True, "seconds": 3.0, "groups": groups, "unmeasured": [],
    }  # fmt: skip
    details = {
        "groups": len(names), "groups_measured": len(names), "measurements": 2, "complete": True, "sensitivity": table,
    }  # fmt: skip
    return ANY_REPORT.validate_python(
        {
            "baseline": side([], value=0.96, size_bytes=21_680, operators=[]),
            "verdict": {"reasons": ["Nothing was compressed: the job measured.", *names]},
            "steps": [step("prune", details, analyze=True)],
            "layers": layers(names), "classes": [], "data": DATA, "environment": ENVIRONMENT, "seed": 7,
            "recipe": [{"method": "prune", "analyze": True}],
        }
    )  # fmt: skip
