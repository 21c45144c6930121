"""Losses: sums over the images that count, so that micro-batches and ranks add up before the one division.

All are computed in float32 or better. Arguments that all of them have:

    logits: (B, K).
    targets: (B,) int64 classes or (B, K) probabilities where an image has one class; (B, K), for each class the
        probability in [0, 1] that the image has it, where it may have several.
    valid: (B,) bool; the others count nothing.
    label_smoothing: in [0, 1), the share of each target that is spread evenly over all answers.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from linnaeus.core.runtime import Task


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    """Cross-entropy summed over the valid images.

    Args:
        logits, targets, valid: see the top of this file.
        label_smoothing: over all classes (Szegedy et al. 2016, section 7).
        class_weights: (K,), what an error on each class counts; None for 1. As in torch, but never divided by.
        offsets: (K,), added to the logits, and to no logits but those of the loss: with tau log(prior) the loss of
            Menon et al. (arXiv:2007.07314, equation 10), which no longer favours frequent classes.

    Returns:
        A scalar.
    """
    logits = _wide(logits) if offsets is None else _wide(logits) + offsets
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    losses = F.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, reduction="none")
    return (losses * valid).sum()


def focal(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Cross-entropy in which a class of probability p counts (1 - p)^gamma: easy images fade. Lin et al. (2017).

    Args:
        logits, targets, valid, label_smoothing, class_weights: as in `cross_entropy`.
        gamma: at least 0; 0 is cross-entropy.
    """
    _check_gamma(gamma)
    logs = _wide(logits).log_softmax(dim=1)
    terms = _distributions(targets, logs, label_smoothing) * _away_from_one(logs, gamma) * logs
    losses = -(terms if class_weights is None else terms * class_weights).sum(dim=1)
    return (losses * valid).sum()


def one_against_all(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    threshold: float = 0.0,
) -> Tensor:
    """Binary cross-entropy for images of one class, averaged over the classes: Wightman et al. (arXiv:2110.00476).

    "ResNet strikes back" has it that a mixed image shows both of its classes in full. The average over classes makes it
    about K / 2 times as small as cross-entropy: that is nothing to AdamW, but asks SGD for a larger learning rate.

    Args:
        logits, targets, valid, label_smoothing, class_weights: as in `cross_entropy`.
        threshold: in [0, 1); 0 takes the targets as they are, and otherwise every class of which an image shows more
            than this much is wholly there. 0.2 in the paper's recipes.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}: expected a share of an image, in [0, 1)")
    logits = _wide(logits)
    truth = _distributions(targets, logits, 0.0)
    truth = (truth > threshold).to(logits.dtype) if threshold > 0 else truth
    truth = (1 - label_smoothing) * truth + label_smoothing / logits.shape[1]
    terms = F.binary_cross_entropy_with_logits(logits, truth, class_weights, reduction="none")
    return (terms.mean(dim=1) * valid).sum()


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy for images of any number of classes, averaged over the classes.

    Each class is a question of its own, with the answers yes and no.

    Args:
        logits, valid: see the top of this file.
        targets: (B, K) in [0, 1]; or (B,) int64, the only class of each image.
        label_smoothing: over both answers.
        class_weights: (K,), what a missed yes counts against a missed no, for rare classes; None for 1.
    """
    logits = _wide(logits)
    truth = _answers(targets, logits, label_smoothing)
    terms = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=class_weights, reduction="none")
    return (terms.mean(dim=1) * valid).sum()


def binary_focal(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """`binary_cross_entropy` in which an answer of probability p counts (1 - p)^gamma. Lin et al. (2017), equation 4.

    Args:
        logits, targets, valid, label_smoothing, class_weights: as in `binary_cross_entropy`.
        gamma: at least 0; 0 is `binary_cross_entropy`.
    """
    _check_gamma(gamma)
    logits = _wide(logits)
    truth = _answers(targets, logits, label_smoothing)
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
    missed = truth * _away_from_one(yes, gamma) * yes
    terms = -(missed if class_weights is None else missed * class_weights)
    terms = terms - (1 - truth) * _away_from_one(no, gamma) * no
    return (terms.mean(dim=1) * valid).sum()


def distill(logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) at the temperature T, summed over the valid images: Hinton et al. (arXiv:1503.02531).

    The factor T^2 keeps the size of the gradient. It is 0 where both agree.

    Args:
        logits: (B, K) of the student.
        teacher_logits: (B, K); no gradient goes to them.
        valid: (B,) bool.
        temperature: positive; above 1 it shows more of what the teacher thinks of the other classes.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: expected a positive number")
    student = (_wide(logits) / temperature).log_softmax(dim=1)
    teacher = (_wide(teacher_logits.detach()) / temperature).log_softmax(dim=1)
    losses = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (losses * valid).sum()


LOSSES: dict[Task, dict[str, Callable[..., Tensor]]] = {
    "single": {"cross_entropy": cross_entropy, "bce": one_against_all, "focal": focal},
    "multi": {"bce": binary_cross_entropy, "focal": binary_focal},
}
"""Losses by task and name; the first of each task is its default."""


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _distributions(targets: Tensor, logits: Tensor, label_smoothing: float) -> Tensor:
    """(B, K) probabilities of classes that exclude each other."""
    classes = logits.shape[1]
    truth = (F.one_hot(targets, classes) if targets.ndim == 1 else targets).to(logits.dtype)
    return (1 - label_smoothing) * truth + label_smoothing / classes


def _answers(targets: Tensor, logits: Tensor, label_smoothing: float) -> Tensor:
    """(B, K) probabilities of a yes."""
    truth = (F.one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets).to(logits.dtype)
    return (1 - label_smoothing) * truth + label_smoothing / 2


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma is {gamma}: expected a number of at least 0, such as 2")


def _away_from_one(logs: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma from log p <= 0. Its slope is finite also where p is 1, unlike that of a power of 0."""
    return (-torch.expm1(logs)).clamp(min=torch.finfo(logs.dtype).tiny) ** gamma
