import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch.nn import functional as F

from workers.compression.distillation.losses import cosine_loss, dkd_loss, hint_loss, kd_loss, mse_loss, standardize

STUDENT = torch.tensor([[2.0, 0.0]])
TEACHER = torch.tensor([[0.0, 2.0]])
LABELS = torch.tensor([0])
# Three classes whose softmaxes are simple shares, with the label first.
ODDS_STUDENT, ODDS_TEACHER = torch.tensor([[2.0, 1, 1]]).log(), torch.tensor([[4.0, 3, 1]]).log()


def test_kd_is_that_of_the_paper_by_hand():
    # At T = 2 both are softmax of (1, 0) in one order or the other: p = e/(1+e) = 0.7310586, q = 0.2689414.
    # KL(teacher ‖ student) = q·ln(q/p) + p·ln(p/q) = (p − q)·ln(p/q) = p − q = 0.4621172, as ln(p/q) = 1.
    assert kd_loss(STUDENT, TEACHER, 2).item() == pytest.approx(4 * 0.4621172, abs=1e-6)
    assert kd_loss(TEACHER, TEACHER, 4).item() == pytest.approx(0, abs=1e-7)


def test_dkd_is_that_of_the_paper_by_hand():
    # The label has 1/2 on both sides, so the first part is 0; of the rest the teacher has (3/4, 1/4), the student ½.
    rest = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    found = dkd_loss(ODDS_STUDENT, ODDS_TEACHER, LABELS, 1, alpha=5, beta=8)
    assert found.item() == pytest.approx(8 * rest, abs=1e-6)
    # Seen from the second class the label has 3/8 against 1/4; of the rest the teacher has (4/5, 1/5), the student
    # (2/3, 1/3).
    target = 3 / 8 * math.log(1.5) + 5 / 8 * math.log(5 / 6)
    rest = 0.8 * math.log(1.2) + 0.2 * math.log(0.6)
    found = dkd_loss(ODDS_STUDENT, ODDS_TEACHER, torch.tensor([1]), 1, alpha=5, beta=8)
    assert found.item() == pytest.approx(5 * target + 8 * rest, abs=1e-6)


def test_dkd_of_two_classes_has_its_first_part_alone():
    found = dkd_loss(STUDENT, TEACHER, LABELS, 2, alpha=1, beta=100)
    assert found.item() == pytest.approx(kd_loss(STUDENT, TEACHER, 2).item(), abs=1e-6)


def test_standardized_logits_are_z_scores_by_hand():
    # The mean of 1, 2, 6 is 3; their squared distances 4, 1, 9 have the mean 14/3.
    expected = torch.tensor([[-2.0, -1, 3]]) / math.sqrt(14 / 3)
    torch.testing.assert_close(standardize(torch.tensor([[1.0, 2, 6]])), expected)
    assert torch.isfinite(standardize(torch.ones(2, 3))).all()


def test_losses_on_values_by_hand():
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert mse_loss(student, teacher).item() == pytest.approx((1 + 1 + 9 + 0) / 4)
    assert hint_loss(student, teacher).item() == pytest.approx((1 + 1 + 9 + 0) / 8)
    assert cosine_loss(student, teacher).item() == pytest.approx(((1 - 24 / 25) + 2) / 2, abs=1e-6)


def kd_by_numpy(student, teacher, temperature):
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    return temperature**2 * np.mean([np.sum(a * np.log(a / b)) for a, b in zip(p, q, strict=True)])


def dkd_by_numpy(student, teacher, labels, temperature, alpha, beta):
    """Follow the paper's text row by row: probabilities, never logarithms of them."""
    total = 0.0
    for s, t, label in zip(softmax(student / temperature, 1), softmax(teacher / temperature, 1), labels, strict=True):
        target = t[label] * np.log(t[label] / s[label]) + (1 - t[label]) * np.log((1 - t[label]) / (1 - s[label]))
        s_rest, t_rest = (np.delete(p, label) / (1 - p[label]) for p in (s, t))
        total += alpha * target + beta * np.sum(t_rest * np.log(t_rest / s_rest))
    return temperature**2 * total / len(labels)


def cosine_by_numpy(student, teacher):
    return np.mean([1 - s @ t / np.sqrt((s @ s) * (t @ t)) for s, t in zip(student, teacher, strict=True)])


def drawn(seed, rows, classes, scale):
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(0, scale, (2, rows, classes))
    return student, teacher, generator.integers(0, classes, rows)


CASES = {"seed": st.integers(0, 10**6), "rows": st.integers(1, 6), "classes": st.integers(2, 9),
         "scale": st.floats(0.1, 4), "temperature": st.floats(0.5, 10)}  # fmt: skip


@given(**CASES)
@settings(max_examples=60, deadline=None)
def test_losses_agree_with_an_implementation_of_another_kind(seed, rows, classes, scale, temperature):
    student, teacher, labels = drawn(seed, rows, classes, scale)
    ours, theirs, wanted = map(torch.from_numpy, (student, teacher, labels))
    assert kd_loss(ours, theirs, temperature).item() == pytest.approx(kd_by_numpy(student, teacher, temperature))
    found = dkd_loss(ours, theirs, wanted, temperature, alpha=0.5, beta=3).item()
    assert found == pytest.approx(dkd_by_numpy(student, teacher, labels, temperature, 0.5, 3))
    assert cosine_loss(ours, theirs).item() == pytest.approx(cosine_by_numpy(student, teacher))
    assert mse_loss(ours, theirs).item() == pytest.approx(np.square(student - teacher).mean())
    assert hint_loss(ours, theirs).item() == pytest.approx(np.square(student - teacher).mean() / 2)
    deviations = np.sqrt(np.square(student - student.mean(1, keepdims=True)).mean(1, keepdims=True))
    expected = (student - student.mean(1, keepdims=True)) / (deviations + 1e-7)
    np.testing.assert_allclose(standardize(ours).numpy(), expected, rtol=1e-4, atol=1e-6)


@given(**CASES)
@settings(max_examples=60, deadline=None)
def test_what_must_hold_of_every_loss(seed, rows, classes, scale, temperature):
    student, teacher, labels = map(torch.from_numpy, drawn(seed, rows, classes, scale))
    losses = {
        "kd": lambda s, t: kd_loss(s, t, temperature),
        "dkd": lambda s, t: dkd_loss(s, t, labels, temperature, alpha=1, beta=2),
        "mse": mse_loss,
        "cosine": cosine_loss,
        "hint": hint_loss,
    }
    for name, loss in losses.items():
        assert loss(student, teacher).item() >= -1e-9, name
        assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-9), name
    # Softmax knows no common shift of a row, a direction no length, a Z-score neither.
    torch.testing.assert_close(losses["kd"](student + 3, teacher), losses["kd"](student, teacher))
    torch.testing.assert_close(losses["dkd"](student + 3, teacher), losses["dkd"](student, teacher))
    torch.testing.assert_close(cosine_loss(student * 3, teacher), cosine_loss(student, teacher))
    torch.testing.assert_close(standardize(student * 3 + 1), standardize(student), rtol=1e-4, atol=1e-5)
    # By eq. 6 of the paper, kd is dkd with α = 1 and β = 1 − p_T of the label, row by row.
    for row in range(rows):
        one = (student[row : row + 1], teacher[row : row + 1])
        rest = 1 - torch.softmax(one[1] / temperature, 1)[0, labels[row]].item()
        found = dkd_loss(*one, labels[row : row + 1], temperature, alpha=1, beta=rest)
        torch.testing.assert_close(found, kd_loss(*one, temperature))


@pytest.mark.parametrize("loss", [
    lambda s, t: kd_loss(s, t, 4), lambda s, t: dkd_loss(s, t, LABELS, 4, alpha=1, beta=1), mse_loss, cosine_loss,
    hint_loss,
])  # fmt: skip
def test_gradient_flows_through_the_student_alone(loss):
    student, teacher = ODDS_STUDENT.clone().requires_grad_(), ODDS_TEACHER.clone().requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_gradient_of_kd_is_that_of_the_paper():
    student = STUDENT.clone().requires_grad_()
    kd_loss(student, TEACHER, 4).backward()
    # d/dz_S of T²·KL is T·(softmax(z_S/T) − softmax(z_T/T)).
    torch.testing.assert_close(student.grad, 4 * (F.softmax(STUDENT / 4, 1) - F.softmax(TEACHER / 4, 1)))


def test_losses_are_means_over_rows():
    for loss in (lambda s, t: kd_loss(s, t, 4), mse_loss, cosine_loss, hint_loss):
        torch.testing.assert_close(loss(STUDENT.repeat(5, 1), TEACHER.repeat(5, 1)), loss(STUDENT, TEACHER))
    twice = dkd_loss(ODDS_STUDENT.repeat(5, 1), ODDS_TEACHER.repeat(5, 1), LABELS.repeat(5), 4, alpha=1, beta=2)
    torch.testing.assert_close(twice, dkd_loss(ODDS_STUDENT, ODDS_TEACHER, LABELS, 4, alpha=1, beta=2))
