"""What is sampled: a density by its energy, and the posterior of a network."""

from collections.abc import Callable
from dataclasses import dataclass
from struct import pack, unpack

import torch
from torch import Tensor

from eom.calculus.products import value_and_gradient
from eom.dynamics.brownian import mixed
from eom.dynamics.field import State
from eom.errors import DataError, SettingError
from eom.objective import Objective
from eom.objective.data import length, mapped, tensors
from eom.stochastic.batches import draw, each, require_batches

SUMMED = 1e-3  # of the losses, by which rounding may take a mean out of its parts


@dataclass(frozen=True)
class Density:
    """exp(-U / T) up to a factor, by its ``energy`` U, [..., n] -> [...]; called, it is the field f = -grad U."""

    energy: Callable[[State], Tensor]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise SettingError(f"temperature is {self.temperature}, expected a positive number")

    def potential(self, y: State) -> Tensor:
        """[...] U.

        Raises:
            SettingError: the energy is not one number for each state.
        """
        u = self.energy(y)
        if u.shape != y.shape[:-1]:
            raise SettingError(
                f"the energy of states {list(y.shape)} has shape {list(u.shape)}, expected {list(y.shape[:-1])}: sum "
                "over the last dimension"
            )
        return u

    def __call__(self, t: float, y: State) -> State:
        with torch.enable_grad():
            at = y.detach().requires_grad_()
            total = self.potential(at).sum()
        return -torch.autograd.grad(total, at)[0]


@dataclass(frozen=True)
class Posterior:
    """U(theta) = N R(theta) + |theta|^2 / (2 prior^2): N times the mean loss of a sample, and a Gaussian prior.

    With R the mean negative log likelihood of the N ``samples`` this is the Bayesian posterior at T = 1. The factor N
    is this class's: the objective's loss is a mean, as in training. Made by ``posterior``.
    """

    objective: Objective
    samples: int
    prior: float
    temperature: float = 1.0

    def potential(self, theta: State) -> Tensor:
        """[...] U."""
        loss = each(lambda _, x: self.objective.mean_loss.value(x), theta)
        return self.samples * loss + theta.square().sum(-1) / (2 * self.prior**2)

    def __call__(self, t: float, theta: State) -> State:
        slope = each(lambda _, x: self.objective.mean_loss.gradient(x), theta)
        return -self.samples * slope - theta / self.prior**2

    def by_batches(self, size: int, seed: int = 0) -> "BatchForce":
        """The force from random batches of this size, without bias: of SGLD and its kin.

        Raises:
            DataError: the batch is larger than the data, or the data is not one batch.
        """
        require_batches(self.objective, size)
        return BatchForce(self, size, seed)


@dataclass(frozen=True)
class BatchForce:
    """-N grad R_B - theta / prior^2 over a batch B drawn with replacement, the same one for the same time and seed.

    Each member of [b, n] has batches of its own, so that chains are independent. MALA cannot weigh its steps by it.
    """

    posterior: Posterior
    size: int
    seed: int

    @property
    def temperature(self) -> float:
        return self.posterior.temperature

    def __call__(self, t: float, theta: State) -> State:
        own = self.posterior
        (bits,) = unpack("<Q", pack("<d", float(t)))

        def slope(member: int, x: Tensor) -> Tensor:
            batch = draw(own.objective, self.size, self.seed, mixed(bits), member, replacement=True)
            return value_and_gradient(own.objective.loss_of(batch), x)[1]

        return -own.samples * each(slope, theta) - theta / own.prior**2


def posterior(objective: Objective, prior: float = 1.0, temperature: float = 1.0) -> Posterior:
    """The posterior of a network: N times its mean loss, and a Gaussian prior of standard deviation ``prior``.

    Args:
        objective: whose loss is the mean negative log likelihood over samples; without decay, which the prior is.
        temperature: 1 is Bayesian; below, a cold posterior.

    Raises:
        SettingError: a loss that is the sum over samples, decay, or a number that is not positive. DataError: data
            without a dimension of samples.
    """
    if bool(objective.decay.any()):
        raise SettingError("the objective has weight decay, and the prior stands for that: make it with decay=0")
    for name, value in (("prior", prior), ("temperature", temperature)):
        if not (value > 0 and value < float("inf")):
            raise SettingError(f"{name} is {value}, expected a positive number")
    require_mean(objective)
    samples = sum(int(length(batch)) for _, batch in objective.batches)
    if abs(float(objective.batches.total) - samples) > 1e-6 * samples:
        raise SettingError(
            f"the batches weigh {float(objective.batches.total):.4g} together and hold {samples} samples: a posterior "
            "counts each sample once, so make the objective without weights"
        )
    return Posterior(objective, samples, prior, temperature)


def require_mean(objective: Objective) -> None:
    """Raise where the loss of a batch does not lie between those of its two halves, as a mean over samples does."""
    batch, theta = objective.batches.first, objective.theta()
    samples = int(length(batch))
    if not all(x.ndim and len(x) == samples for x in tensors(batch)):
        raise DataError("the batch has no dimension of samples: expected tensors with a row for each")
    if samples < 2:
        return
    half = samples // 2
    parts = [slice(0, half), slice(half, 2 * half), slice(0, 2 * half)]
    first, second, both = (float(objective.loss_of(mapped(batch, lambda x, p=p: x[p]))(theta)) for p in parts)
    slack = SUMMED * (abs(first) + abs(second))
    if not min(first, second) - slack <= both <= max(first, second) + slack:
        raise SettingError(
            f"the loss of {2 * half} samples, {both:.4g}, does not lie between those of its halves, {first:.4g} and "
            f"{second:.4g}, so it is no mean over samples but a sum. Write it as a mean: a posterior multiplies by N "
            "itself"
        )
