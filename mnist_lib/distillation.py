"""Learning from what other networks say of the same images (Hinton, Vinyals and Dean, 2015)."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


def loss(logits: torch.Tensor, images: torch.Tensor, teachers: Sequence[nn.Module], temperature: float) -> torch.Tensor:
    """Return the cross-entropy between the teachers' mean probabilities and the student's, scaled to usual gradients.

    Arguments:
        logits: the student's, shape ``(n, 10)``.
        images: what the student has read, shape ``(n, 1, h, w)``.
        teachers: networks in evaluation mode.
        temperature: divides all logits; the loss is multiplied by its square.
    """
    with torch.no_grad():
        said = torch.stack([functional.softmax(teacher(images) / temperature, 1) for teacher in teachers]).mean(0)
    return functional.cross_entropy(logits / temperature, said) * temperature**2
