import numpy as np
import torch
from torch.nn import functional as F

from app.domain.steps.distill import DistillSpec
from tests.compression.digits import write_network
from workers.compression.distillation import distill
from workers.compression.formats import pt2
from workers.compression.inference import compute_logits

CPU = torch.device("cpu")


def spec(**given):
    return DistillSpec(method="distill", **({"epochs": 3} | given))


def test_the_student_comes_closer_to_the_teacher(context, digits_network, tmp_path):
    write_network(tmp_path / "untrained.pt2", epochs=0)
    student = pt2.load(tmp_path / "untrained.pt2")
    result = distill.run(student, spec(alpha=1.0, learning_rate=0.1), context)
    rows = np.arange(360)
    teacher, before, after = (
        compute_logits(network, context.data, "validation", rows, CPU)
        for network in (digits_network, student, result.network)
    )
    assert F.mse_loss(after, teacher) < 0.5 * F.mse_loss(before, teacher)
    assert (after.argmax(1) == teacher.argmax(1)).double().mean() > 0.7


def test_the_baseline_and_the_network_stay_as_they_were(context, digits_network):
    before = {name: value.clone() for name, value in digits_network.module.state_dict().items()}
    result = distill.run(digits_network, spec(epochs=1), context)
    for name, value in context.baseline.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not digits_network.module.training
    moved = result.network.module.state_dict()
    assert not torch.equal(moved["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(moved["bn1.running_mean"], before["bn1.running_mean"])
