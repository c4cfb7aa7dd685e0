"""Losses that let a student learn from a teacher's outputs."""

from torch import Tensor
from torch.nn import functional as F


def kd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float, weights: Tensor | None = None
) -> Tensor:
    """Give the distillation loss of a batch, its gradient through the student alone.

    ``L = (1−α)·CE(y, p_S) + α·T²·KL(softmax(z_T/T) ‖ softmax(z_S/T))``, the mean over rows; logits are
    (rows, classes). Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", eq. 1 and
    section 2: T² keeps the size of the teacher's gradient as T changes. ``weights``, (classes,), are of the labels.
    """
    soft_student = F.log_softmax(student / temperature, dim=1)
    soft_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    divergence = F.kl_div(soft_student, soft_teacher, reduction="batchmean", log_target=True)
    return (1 - alpha) * F.cross_entropy(student, labels, weights) + alpha * temperature**2 * divergence
