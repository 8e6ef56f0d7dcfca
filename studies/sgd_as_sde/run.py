"""To which power of the learning rate do gradient flow and the stochastic equations of SGD describe SGD?

A linear regression with batches of one sample, where moments are exact for SGD and for each equation: no sampling. Then
the stationary law near the minimum, of the equation against that of SGD.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer
from ladders import claims, draw

from eom.analysis.curves import ladder_rows
from eom.stochastic import ou_covariance, sgd_covariance
from eom.stochastic.examples import Regression, sgd


def noise_at_minimum(problem: Regression) -> torch.Tensor:
    """[n, n] covariance of the gradient of one sample, at the minimum."""
    minimum = torch.linalg.solve(problem.hessian, problem.slope)
    rows = torch.arange(problem.samples)
    return torch.cov(problem.gradients(minimum.expand(len(rows), -1), rows).T, correction=0)


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; the errors are written to ``out`` as CSV if given."""
    levels = 6 if small else 8
    found = sgd([0.2 / 2**k for k in range(levels)], [1 / 2**k for k in range(5)])
    if out:
        over_l = {name: one for name, one in found.items() if "SVAG" in name}
        rest = {name: one for name, one in found.items() if name not in over_l}
        ladder_rows({"E θθᵀ at time 1.6": ("learning rate", rest), "SVAG at lr .1": ("1 / l", over_l)}).to_csv(
            out, index=False
        )
    result = claims(found)
    flow, first = found["gradient flow"], found["equation of order 1"]
    result["error of order 1 over that of gradient flow at the smallest rate"] = first.error[-1] / flow.error[-1]
    problem = Regression()
    sigma = noise_at_minimum(problem)
    for lr in (0.4, 0.1, 0.0125):
        sde, exact = (law(problem.hessian, sigma, lr) for law in (ou_covariance, sgd_covariance))
        result[f"stationary covariance, lr {lr:g}: relative error of the equation"] = float(
            (sde - exact).norm() / exact.norm()
        )
    return result


if __name__ == "__main__":
    answer(__doc__, main, "CSV of the errors", draw)
