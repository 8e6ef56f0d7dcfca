"""Instantaneous rates of observables: measured by the log map, predicted by corrected fields.

Rates of an observable q along a march y_0, y_1, ... are read off slopes, [m, g]:

    along the values   s_j = (q(y_{j+1}) - q(y_j)) / h             the measurement
    along the field    s_j = grad q(y_0) . (y_{j+1} - y_j) / h     the same for the linearised observable

Both give dq/dt(y_0) = sum_k (-1)^k / (k + 1) Delta^k s_0.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

TERMS = 5  # of the series behind a measured rate; one more slope gives the first omitted term


class Estimate(NamedTuple):
    """Values and their error bars, one per group, [g] each."""

    value: Tensor
    bar: Tensor


def log_map(slopes: Tensor) -> Estimate:
    """Rate at the start of a march from ``slopes`` [m, g]: m - 1 terms, the m-th is the first omitted one.

    The series is asymptotic where a mode with h lambda near 1 or above is excited: it is cut where the larger of
    the next two terms is smallest, and that size is the bar. (Two, because one term may vanish by accident.)
    Rounding in the slopes grows with the differences, so the omitted term shows it too.
    """
    terms = []
    difference = slopes
    for k in range(len(slopes)):
        terms.append((-1) ** k / (k + 1) * difference[0])
        difference = difference[1:] - difference[:-1]
    terms = torch.stack(terms)  # [m, g]
    omitted = terms[1:].abs()  # omitted[i]: the first one left out when i + 1 terms are kept
    omitted[:-1] = torch.maximum(omitted[:-1], omitted[1:].clone())
    omitted = torch.nan_to_num(omitted, nan=torch.inf)
    bar, cut = omitted.min(0)
    value = terms.cumsum(0).gather(0, cut[None])[0]
    return Estimate(value, bar)


def prediction_bars(predicted: list[Tensor], reference: Estimate | None) -> list[Estimate]:
    """Bars for the rates [g] of order 0, 1, ...: the size of what each order leaves out.

    With ``reference``, the rate by the log map of later gradients, that is |reference - P_k| plus the reference's
    own uncertainty. Without, the next order stands for it, and the last order has no bar (NaN).
    """
    if reference is not None:
        return [Estimate(p, (reference.value - p).abs() + reference.bar) for p in predicted]
    unknown = [torch.full_like(predicted[-1], torch.nan)]
    gaps = [(after - p).abs() for p, after in pairwise(predicted)]
    return [Estimate(p, bar) for p, bar in zip(predicted, gaps + unknown, strict=True)]
