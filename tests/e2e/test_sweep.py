"""A sweep over HTTP, its trials by a real worker."""

import pytest


@pytest.mark.long
def test_a_sweep_ends_with_the_smallest_file_that_keeps_its_accuracy(service, digits):
    model, dataset = digits
    amount = {"low": 0.1, "high": 0.5}
    space = {"recipes": [[{"method": "prune", "amount": amount}, {"method": "finetune", "epochs": 2}]]}
    body = {
        "model_id": model,
        "dataset_id": dataset,
        "space": space,
        "objective": {"max_drop": 0.2, "minimize": "size"},
        "budget": {"trials": 3},
    }
    sweep_id = service.post("sweeps", json=body)["id"]
    sweep = service.wait(sweep_id, lambda item: item["state"] != "running", seconds=300, noun="sweeps")
    assert sweep["state"] == "succeeded", sweep["failure"]
    assert sweep["launched"] == len(sweep["trials"]) == 3
    good = [trial for trial in sweep["trials"] if trial["state"] == "succeeded"]
    best = next(trial for trial in good if trial["job_id"] == sweep["best_job_id"])
    assert best["figures"]["size_bytes"] == min(trial["figures"]["size_bytes"] for trial in good)
    assert best["figures"]["metric_drop"] <= 0.2
    assert sweep["best_job_id"] in sweep["pareto_front"]
    report = service.get(f"jobs/{best['job_id']}/report")
    assert report["compressed"]["size_bytes"] == best["figures"]["size_bytes"]
