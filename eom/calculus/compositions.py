"""Operations that torch fuses, as compositions of plain ones that can be differentiated any number of times.

Each has the arguments of the torch function of its name and equals it to rounding.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from eom.calculus.norms import affine

FAR = 1e30  # stands for minus infinity where derivatives of a logsumexp must stay finite


# Transposed convolutions, whose third derivatives torch refuses where output_padding is not 0


def _without_output_padding(convolution: Callable[..., Tensor]) -> Callable[..., Tensor]:
    d = int(convolution.__name__[-2])

    def composed(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Tensor:
        full = convolution(input, weight, None, stride, 0, 0, groups, dilation)
        before, after = ([x] * d if isinstance(x, int) else list(x) * (d // len(x)) for x in (padding, output_padding))
        cut = [n for p, q in zip(before[::-1], after[::-1], strict=True) for n in (-p, q - p)]
        return affine(F.pad(full, cut), None, bias if bias is None else bias.view(-1, *[1] * d))

    return composed


conv_transpose1d, conv_transpose2d, conv_transpose3d = map(
    _without_output_padding, (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
)


# What torch leaves out


def settings_of(func: Callable, settings: dict) -> dict:
    """Those of a function being called: torch 2.13 does not tell l1_loss's weight to what takes its place."""
    if func is not F.l1_loss:
        return settings
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code is not F.l1_loss.__code__:
        frame = frame.f_back
    weight = frame and frame.f_locals.get("weight")
    return settings if weight is None else {"weight": weight} | settings


def l1_loss(*args, **kwargs) -> Tensor:
    return F.l1_loss(*args, **settings_of(F.l1_loss, kwargs))


# Attention: torch's own plain kernel


def scaled_dot_product_attention(*args, **kwargs) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(*args, **kwargs)


def multi_head_attention_forward(*args, **kwargs) -> tuple[Tensor, Tensor | None]:
    with sdpa_kernel(SDPBackend.MATH):
        return F.multi_head_attention_forward(*args, **kwargs)


# A gate, whose tangent torch does not differentiate


def glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * torch.sigmoid(gate)


# Tables and distances


def embedding_bag(*args, **kwargs) -> Tensor:
    bound = _EMBEDDING_BAG.bind(*args, **kwargs)
    bound.apply_defaults()
    return _embedding_bag(**bound.arguments)


_EMBEDDING_BAG = inspect.signature(F.embedding_bag)


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None,
    mode: str,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int | None,
    **settings,
) -> Tensor:
    flat = input.reshape(-1)
    if offsets is None:
        starts = torch.arange(input.shape[0], device=flat.device) * input.shape[1]
    else:
        starts = offsets[:-1] if include_last_offset else offsets
    place = torch.arange(flat.numel(), device=flat.device)
    bag = torch.searchsorted(starts, place, right=True) - 1
    kept = torch.ones_like(flat, dtype=torch.bool) if padding_idx is None else flat != padding_idx % weight.shape[0]
    rows, bag, place = weight[flat[kept]], bag[kept], place[kept]
    if mode == "max":
        grid = weight.new_full((len(starts), max(flat.numel(), 1), weight.shape[1]), -FAR)
        highest = grid.index_put((bag, place - starts[bag]), rows).max(1).values
        return torch.where(highest == -FAR, 0.0, highest)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1)[kept, None]
    total = weight.new_zeros(len(starts), weight.shape[1]).index_add(0, bag, rows)
    return total / torch.bincount(bag, minlength=len(starts)).clamp(min=1)[:, None] if mode == "mean" else total


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: object = None) -> Tensor:
    """|x1_i - x2_j|_p; where it is 0 its derivatives are 0, as in torch."""
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    same = (difference == 0).all(-1)
    apart = torch.where(same.unsqueeze(-1), 1.0, difference)
    return torch.where(same, 0.0, torch.linalg.vector_norm(apart, p, dim=-1))


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    i, j = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return cdist(input, input, p)[i, j]


# Activations and losses


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    y = torch.clamp(input / 6 + 0.5, 0.0, 1.0)
    return input.copy_(y) if inplace else y


def linear_cross_entropy(*args, **kwargs) -> Tensor:
    return F.linear_cross_entropy(*args, **(kwargs | {"options": None}))  # options ask for chunks, a custom operation


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    blank: int = 0,
    reduction: str | int = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability of all alignments, summed up forwards in time.

    Source: Graves, Fernandez, Gomez & Schmidhuber, Connectionist temporal classification, ICML 2006, eqs. 6-8.
    """
    single = log_probs.ndim == 2
    lp = log_probs.unsqueeze(1) if single else log_probs  # [time, b, classes]
    times, lengths = (torch.as_tensor(x, device=lp.device).reshape(-1) for x in (input_lengths, target_lengths))
    batch, longest = lp.shape[1], int(lengths.max())
    inside = torch.arange(longest, device=lp.device) < lengths[:, None]
    labels = torch.full((batch, longest), blank, dtype=torch.long, device=lp.device)
    if targets.ndim == 1 and not single:
        labels[inside] = targets.long()
    else:
        labels[inside] = targets.reshape(batch, -1)[:, :longest][inside].long()
    path = torch.full((batch, 2 * longest + 1), blank, dtype=torch.long, device=lp.device)
    path[:, 1::2] = labels  # blank, label, blank, label, ..., blank
    skips = torch.zeros_like(path, dtype=torch.bool)
    skips[:, 3::2] = labels[:, 1:] != labels[:, :-1]  # from a label to the next, if they differ
    alpha = torch.where(torch.arange(path.shape[1], device=lp.device) < 2, lp[0].gather(1, path), -FAR)
    for t in range(1, len(lp)):
        one, two = (F.pad(alpha, (k, 0), value=-FAR)[:, : path.shape[1]] for k in (1, 2))
        ways = torch.stack([alpha, one, torch.where(skips, two, -FAR)])
        alpha = torch.where((t < times)[:, None], ways.logsumexp(0) + lp[t].gather(1, path), alpha)
    last = alpha.gather(1, 2 * lengths[:, None])[:, 0]
    before = torch.where(lengths > 0, alpha.gather(1, (2 * lengths[:, None] - 1).clamp(min=0))[:, 0], -FAR)
    loss = -torch.stack([last, before]).logsumexp(0)
    loss = torch.where(loss > FAR / 10, 0.0 if zero_infinity else torch.inf, loss)
    if reduction in ("mean", 1):
        return (loss / lengths.clamp(min=1)).mean()
    return loss.sum() if reduction in ("sum", 2) else loss[0] if single else loss
