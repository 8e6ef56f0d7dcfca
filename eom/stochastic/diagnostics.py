"""How far chains of samples can be trusted: effective sample size and split R-hat, rank-normalised.

Source: Vehtari, Gelman, Simpson, Carpenter & Burkner, Bayesian Analysis 16(2), 2021, as in ArviZ.
"""

from typing import NamedTuple

import numpy as np
from arviz_stats.base.array import BaseArray
from torch import Tensor

from eom.errors import SettingError

STATISTICS = BaseArray()
FEWEST = 4  # draws that can be split


class Mixing(NamedTuple):
    """Of each of n quantities: mean, its standard error, effective sample size and R-hat (good: below 1.01)."""

    mean: np.ndarray
    error: np.ndarray
    ess: np.ndarray
    rhat: np.ndarray


def mixing(draws: Tensor) -> Mixing:
    """Of ``draws`` [k, b, n]: k draws of b chains, without what came before the stationary law.

    Raises:
        SettingError: fewer than four draws or two chains, or numbers that are not finite.
    """
    if draws.ndim != 3 or draws.shape[0] < FEWEST or draws.shape[1] < 2:
        raise SettingError(f"draws are {list(draws.shape)}, expected [draws, chains, n], {FEWEST} and 2 or more")
    if not bool(draws.isfinite().all()):
        raise SettingError("draws hold NaN or infinity: a chain has left the finite numbers")
    x = draws.detach().double().cpu().numpy()
    error = STATISTICS.mcse(x, chain_axis=1, draw_axis=0, method="mean")
    ess = STATISTICS.ess(x, chain_axis=1, draw_axis=0, method="bulk")
    rhat = STATISTICS.rhat(x, chain_axis=1, draw_axis=0)
    return Mixing(x.mean((0, 1)), np.asarray(error), np.asarray(ess), np.asarray(rhat))
