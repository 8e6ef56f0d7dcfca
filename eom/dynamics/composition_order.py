"""The order of compositions of one symmetric method.

Source: Hairer, Lubich & Wanner, Geometric Numerical Integration (2006), sec. III.5 and V.3.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

DIGITS = 1e-12  # of the terms that cancel: published weights have 14 digits or more


def composes(weights: Sequence[float], order: int) -> bool:
    """Whether steps of w_i h, each by a symmetric method of order 2, are together one of this order.

    Such a step is exp(h X_1 + h^3 X_3 + h^5 X_5 + ...), and to hold for all X, which do not commute,

        exp(w_1 h X_1 + w_1^3 h^3 X_3 + ...) exp(w_2 h X_1 + w_2^3 h^3 X_3 + ...) ... = exp(h X_1) + O(h^(order + 1)).
    """
    # of order 10 or less, nothing vanishes on all 4 x 4 matrices that does not by itself (Amitsur & Levitzki, 1950)
    draws = torch.Generator().manual_seed(0)
    x = [torch.randn(4, 4, dtype=torch.float64, generator=draws) / 4 for _ in range(1, order + 1, 2)]
    h = torch.diag(torch.ones(order, dtype=torch.float64), 1)  # a matrix with h^(order + 1) = 0

    def product(weights: Sequence[float], x: Sequence[Tensor]) -> Tensor:
        """[(order + 1) 4, (order + 1) 4], the coefficients of the powers of h in blocks."""
        steps = [sum(torch.kron((w * h).matrix_power(2 * k + 1), y) for k, y in enumerate(x)) for w in weights]
        return reduce(torch.matmul, map(torch.linalg.matrix_exp, steps))

    off = product(weights, x) - torch.linalg.matrix_exp(torch.kron(h, x[0]))
    sizes = product([abs(w) for w in weights], [y.abs() for y in x])
    return bool((off.abs() <= DIGITS * sizes).all())
