import math

import pytest
import torch
from torch.nn import functional as F

from workers.compression.distillation.losses import kd_loss

STUDENT = torch.tensor([[2.0, 0.0]])
TEACHER = torch.tensor([[0.0, 2.0]])
LABELS = torch.tensor([0])


def test_loss_is_that_of_the_paper_by_hand():
    # At T = 2 both are softmax of (1, 0) in one order or the other: p = e/(1+e) = 0.7310586, q = 0.2689414.
    # KL(teacher ‖ student) = q·ln(q/p) + p·ln(p/q) = (p − q)·ln(p/q) = p − q = 0.4621172, as ln(p/q) = 1.
    # CE at T = 1 is ln(1 + e⁻²) = 0.1269280.
    divergence, cross_entropy = 0.4621172, math.log(1 + math.exp(-2))
    expected = 0.3 * cross_entropy + 0.7 * 4 * divergence
    assert kd_loss(STUDENT, TEACHER, LABELS, temperature=2, alpha=0.7).item() == pytest.approx(expected, abs=1e-6)


def test_loss_is_the_mean_over_rows():
    twice = kd_loss(STUDENT.repeat(5, 1), TEACHER.repeat(5, 1), LABELS.repeat(5), temperature=4, alpha=0.7)
    assert twice.item() == pytest.approx(kd_loss(STUDENT, TEACHER, LABELS, temperature=4, alpha=0.7).item())


def test_alpha_zero_is_cross_entropy_and_a_like_student_has_no_divergence():
    assert kd_loss(STUDENT, TEACHER, LABELS, 4, 0).item() == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())
    assert kd_loss(TEACHER, TEACHER, LABELS, 4, 1).item() == pytest.approx(0, abs=1e-7)


def test_gradient_flows_through_the_student_alone():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    kd_loss(student, teacher, LABELS, temperature=4, alpha=1).backward()
    assert teacher.grad is None
    # d/dz_S of T²·KL is T·(softmax(z_S/T) − softmax(z_T/T)).
    expected = 4 * (torch.softmax(STUDENT / 4, 1) - torch.softmax(TEACHER / 4, 1))
    torch.testing.assert_close(student.grad, expected)
