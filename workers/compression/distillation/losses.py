"""Losses that let a student learn from a teacher, each a function on tensors.

Outputs are (rows, classes) or (rows, features); every loss is a mean over rows, or over elements where it says so. The
teacher's side is detached: gradients flow through the student alone.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-7


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Give ``T²·KL(softmax(z_T/T) ‖ softmax(z_S/T))``, the mean over rows.

    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", eq. 1 and section 2: T² keeps the
    size of the gradient as T changes.
    """
    soft_student = F.log_softmax(student / temperature, dim=1)
    soft_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(soft_student, soft_teacher, reduction="batchmean", log_target=True)


def standardize(logits: Tensor) -> Tensor:
    """Give the Z-score of each row, ``(z − mean(z)) / (std(z) + ε)`` with the deviation of the whole population.

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", algorithm 1: done on both sides before the
    temperature, which then weighs the same for every row.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (logits.std(dim=1, correction=0, keepdim=True) + EPSILON)


def dkd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, *, alpha: float, beta: float
) -> Tensor:
    """Give ``T²·(α·KL(b_T ‖ b_S) + β·KL(p̂_T ‖ p̂_S))``, the mean over rows.

    b = (p_label, 1 − p_label) tells the label from all the rest, p̂ is the softmax over all classes but the label. Zhao
    et al. 2022, "Decoupled Knowledge Distillation", eq. 7; by eq. 6, kd is α = 1 with β = 1 − p_T,label of each row.
    With two classes the second part is 0: there is one class beside the label.
    """
    parts = [_decoupled(logits / temperature, labels) for logits in (student, teacher.detach())]
    (target_student, rest_student), (target_teacher, rest_teacher) = parts
    target = F.kl_div(target_student, target_teacher, reduction="batchmean", log_target=True)
    rest = F.kl_div(rest_student, rest_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * target + beta * rest)


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Give log b, (rows, 2), and log p̂, (rows, classes − 1)."""
    rows, classes = logits.shape
    chosen = F.one_hot(labels, classes).bool()
    of_label, others = logits[chosen].view(rows, 1), logits[~chosen].view(rows, classes - 1)
    pair = torch.cat([of_label, others.logsumexp(dim=1, keepdim=True)], dim=1)
    return F.log_softmax(pair, dim=1), F.log_softmax(others, dim=1)


def mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Give ``(z_S − z_T)²``, the mean over elements.

    Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", eq. 1 without its ½: regression on what the teacher
    puts out, before any softmax.
    """
    return F.mse_loss(student, teacher.detach())


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Give ``1 − z_S·z_T / (|z_S|·|z_T|)``, the mean over rows.

    Sanh et al. 2019, "DistilBERT", section 2: the cosine embedding loss that aligns the directions of the student's and
    the teacher's vectors.
    """
    return (1 - F.cosine_similarity(student, teacher.detach(), dim=1)).mean()


def hint_loss(adapted: Tensor, teacher: Tensor) -> Tensor:
    """Give ``½·(r(v_S) − u_T)²``, the mean over elements; ``adapted`` is what the adapter r makes of the student's.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3, with the mean in place of the sum, so that a weight
    means the same for features of every size.
    """
    return 0.5 * F.mse_loss(adapted, teacher.detach())
