"""Distances of a student's tokens from a teacher's: the KL loss of TokenSR, and three that see what KL does not.

Knows tokens as rows of channels, and neither images nor layers. Everything is computed in float32.

Axes: ... any leading axes (samples, tokens), d channels of the hidden state.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from blink.runs.values import UserError


class Distances(NamedTuple):
    """Means over tokens, float32 scalars.

    The softmax of the KL ignores a constant added to all channels of a token, which the backbone's norm does
    not: hence the other three.

    Attributes:
        kl: KL(teacher || student) in nats, at least 0.
        mse: mean squared difference per channel.
        cosine: cosine between the two tokens, in [-1, 1]; 1 at a match.
        norm_ratio: length of the student's token over the teacher's; 1 at a match.
    """

    kl: Tensor
    mse: Tensor
    cosine: Tensor
    norm_ratio: Tensor


def token_kl(student_d: Tensor, teacher_d: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of the softmax over channels, mean over tokens (Sec. 3.2.1).

    This is the true divergence, in nats and 0 at a match, of the two distributions at `temperature`; it is not
    scaled back by the temperature's square.

    Args:
        student_d: [..., d], any float dtype; receives the gradient.
        teacher_d: same shape.
        temperature: divides both before the softmax; above 0.

    Raises:
        ValueError: for a temperature of 0 or below.
    """
    if temperature <= 0:
        raise UserError(f"temperature={temperature}: expected a number above 0")
    student_log_d = (student_d.float() / temperature).log_softmax(-1).flatten(0, -2)
    teacher_log_d = (teacher_d.float() / temperature).log_softmax(-1).flatten(0, -2)
    return F.kl_div(student_log_d, teacher_log_d, log_target=True, reduction="batchmean")


def distances(student_d: Tensor, teacher_d: Tensor, kl: Tensor) -> Distances:
    """Join a KL with the MSE, cosine and norm ratio of the hidden states.

    Args:
        student_d: [..., d], any float dtype.
        teacher_d: same shape.
        kl: as `token_kl` gave it, in whatever space the objective compares tokens.
    """
    student_d, teacher_d = student_d.float(), teacher_d.float()
    ratio = student_d.norm(dim=-1) / teacher_d.norm(dim=-1).clamp_min(1e-12)
    return Distances(
        kl=kl,
        mse=F.mse_loss(student_d, teacher_d),
        cosine=F.cosine_similarity(student_d, teacher_d, dim=-1).mean(),
        norm_ratio=ratio.mean(),
    )
