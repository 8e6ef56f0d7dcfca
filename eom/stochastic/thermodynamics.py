"""Heat, work and entropy along paths of overdamped motion: laws that single paths obey, with their intervals.

A colloid at temperature T, dX = -dU/dx(X, lam) dt + sqrt(2 T) dW, whose energy U is changed by a protocol lam(t):

    work  W = sum U(x_k, lam_{k+1}) - U(x_k, lam_k)      heat  Q = sum U(x_{k+1}, lam_{k+1}) - U(x_k, lam_{k+1})

with U(end) - U(start) = W + Q. From equilibrium, E e^{-W/T} = e^{-dF/T} (Jarzynski) for any protocol, and
P(W) / P_reverse(-W) = e^{(W - dF)/T} (Crooks). For an Ornstein-Uhlenbeck process dX = -A X dt + sqrt(2 D) dW with
covariance S the entropy production rate is Tr(A^T D^-1 A S) - Tr A, zero where A D is symmetric.

Sources: Sekimoto, Stochastic Energetics (2010), ch. 4; Jarzynski, Phys. Rev. Lett. 78, 2690 (1997); Crooks, Phys. Rev.
E 60, 2721 (1999); Seifert, Rep. Prog. Phys. 75, 126001 (2012), sec. 2; Godreche & Luck, J. Phys. A 52, 035002 (2019).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_continuous_lyapunov
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from eom.dynamics.brownian import Brownian, Place
from eom.dynamics.field import State
from eom.dynamics.noise import of_covariance
from eom.errors import NoiseError, SettingError
from eom.stochastic.covariance import Estimate
from eom.stochastic.density import Density
from eom.stochastic.langevin import MALA

FAR = 1e-12  # overlap of works below which there is none
Energy = Callable[[State, float], Tensor]  # ([b, n], lam) -> [b]


class Driven(NamedTuple):
    """Along b driven paths: ``work`` and ``heat`` taken up [b], and the end states [b, n]."""

    work: Tensor
    heat: Tensor
    end: State


def drive(
    energy: Energy, y: State, protocol: Tensor, *, h: float, temperature: float = 1.0, path: Brownian | None = None
) -> Driven:
    """March y [b, n] while the protocol [k + 1] changes the energy: at each step a jump of lam, then motion over h.

    The motion is a step of ``MALA``, which leaves the law exp(-U / T) of the present lam as it is, so that Jarzynski's
    and Crooks's laws hold for any h.

    Raises:
        SettingError: fewer than two values of the protocol, or a state that is no batch.
    """
    protocol = torch.as_tensor(protocol)
    if not (math.isfinite(h) and h > 0):
        raise SettingError(f"h is {h}, expected a positive step")
    if protocol.ndim != 1 or len(protocol) < 2 or y.ndim != 2:
        raise SettingError(
            f"the protocol is {list(protocol.shape)} and the states {list(y.shape)}, expected [k + 1] and [b, n]"
        )
    stepper, place = MALA(path or Brownian()), Place()
    work, heat = torch.zeros(len(y), dtype=y.dtype), torch.zeros(len(y), dtype=y.dtype)
    for before, after in zip(protocol[:-1].tolist(), protocol[1:].tolist(), strict=True):
        work += energy(y, after) - energy(y, before)
        density = Density(lambda x, lam=after: energy(x, lam), temperature)
        z, chain = stepper.step(density, 0.0, h, y, stepper.init(y)._replace(place=place))
        heat += energy(z, after) - energy(y, after)
        y, place = z, chain.place
    return Driven(work, heat, y)


def jarzynski(work: Tensor, temperature: float = 1.0) -> Estimate:
    """dF = -T log E e^{-W/T} from the works [b] of a protocol that begins in equilibrium.

    Its interval is that of the mean of e^{-W/T}: where W scatters by many T few paths decide, and it is too small.
    """
    _require_works(temperature, work)
    x = -work.double() / temperature
    weight = torch.exp(x - x.max())
    mean = float(weight.mean())
    spread = float(weight.std()) / mean / math.sqrt(len(work))
    return Estimate(-temperature * (math.log(mean) + float(x.max())), 1.96 * temperature * spread)


def crooks(forward: Tensor, reverse: Tensor, temperature: float = 1.0) -> Estimate:
    """dF from works [b] of a protocol and [c] of its reverse, each from equilibrium: Bennett's acceptance ratio.

    Source: Bennett, J. Comput. Phys. 22, 245 (1976); its variance: Shirts et al., Phys. Rev. Lett. 91, 140601 (2003).
    """
    _require_works(temperature, forward, reverse)
    f, r = forward.double().numpy() / temperature, reverse.double().numpy() / temperature
    shift = math.log(len(f) / len(r))

    def balance(x: float) -> float:
        return float(expit(x - f - shift).sum() - expit(-x - r + shift).sum())

    low, high = min(f.min(), -r.max()) - 50, max(f.max(), -r.min()) + 50
    x = float(brentq(balance, low, high))  # type: ignore[arg-type] - a float, as full_output is off
    total = len(f) + len(r)
    p = np.concatenate([expit(x - f - shift), expit(x + r - shift)])
    inverse = float((p * (1 - p)).mean())
    if inverse < FAR:
        raise SettingError(
            "the works of the protocol and of its reverse are so far apart that they say nothing of dF: go more slowly"
            ", or in stages"
        )
    variance = (1 / inverse - total / len(f) - total / len(r)) / total
    return Estimate(temperature * x, 1.96 * temperature * math.sqrt(max(variance, 0.0)))


def _require_works(temperature: float, *works: Tensor) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise SettingError(f"temperature is {temperature}, expected a positive number")
    for work in works:
        if work.ndim != 1 or len(work) < 2 or not bool(work.isfinite().all()):
            raise SettingError(f"works are {list(work.shape)}, expected [b], two finite numbers or more")


def entropy_production(drift: Tensor, diffusion: Tensor) -> float:
    """Rate Tr(A^T D^-1 A S) - Tr A of dX = -A X dt + sqrt(2 D) dW in its stationary law, A and D [n, n].

    Raises:
        NoiseError: D is not symmetric, or has not full rank, where the rate is infinite or not defined.
        SettingError: A has an eigenvalue without positive real part: there is no stationary law.
    """
    covariance = ou_law(drift, diffusion)
    return float((drift.T @ torch.linalg.solve(diffusion, drift) @ covariance).trace() - drift.trace())


def ou_law(drift: Tensor, diffusion: Tensor) -> Tensor:
    """S [n, n] with A S + S A^T = 2 D."""
    values = torch.linalg.eigvals(drift).real
    if float(values.min()) <= 0:
        raise SettingError(
            f"the drift has an eigenvalue of real part {float(values.min()):.3g}, so that no stationary law holds the "
            "process: expected all positive"
        )
    _require_diffusion(diffusion)
    return torch.from_numpy(solve_continuous_lyapunov(drift.numpy(), 2 * diffusion.numpy()))


def _require_diffusion(diffusion: Tensor) -> None:
    of_covariance(diffusion)
    size = torch.linalg.eigvalsh(diffusion)
    if float(size[0]) <= 1e-12 * float(size[-1]):
        raise NoiseError(
            f"the diffusion has eigenvalues {float(size[0]):.2g} to {float(size[-1]):.2g}, expected full rank: pass "
            "drift and diffusion on the subspace where there is noise, Q.T @ A @ Q and Q.T @ D @ Q"
        )


def entropy_of_paths(drift: Tensor, diffusion: Tensor, states: Tensor, h: float) -> Estimate:
    """The rate from paths [k, b, n] at steps h: mean of -(A X) D^-1 o dX per unit time, in Stratonovich's sense.

    The entropy of the medium along each path; that of the system averages to nothing in the stationary law. The
    interval is over the b paths.
    """
    _require_diffusion(diffusion)
    if states.ndim != 3 or len(states) < 2 or not h > 0:
        raise SettingError(f"states are {list(states.shape)} at steps {h}, expected [k, b, n] and a positive step")
    middle, step = (states[1:] + states[:-1]) / 2, states[1:] - states[:-1]
    force = torch.linalg.solve(diffusion, -drift @ middle[..., None])[..., 0]
    rates = (force * step).sum(-1).sum(0) / (h * len(step))
    return Estimate(float(rates.mean()), 1.96 * float(rates.std()) / math.sqrt(len(rates)))
