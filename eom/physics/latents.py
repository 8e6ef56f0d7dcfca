"""Laws of motion of things seen through many numbers, such as pixels: a learned code, and a learned system of codes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eom.dynamics.field import require_function
from eom.dynamics.stepper import Stepper
from eom.errors import DataError, SettingError
from eom.physics.learned_fields import dense
from eom.physics.limits import is_number
from eom.physics.models import LearnedSystem, given
from eom.physics.rules import Rule, match_slopes, mean_step
from eom.physics.trajectories import Trajectories, Window


class LatentField(nn.Module):
    """u' = dD/dz f(z) at z = E(u): the field f of latents [b, k], seen through ``encode`` E and ``decode`` D."""

    def __init__(self, encode: nn.Module, decode: nn.Module, field: nn.Module):
        super().__init__()
        require_function(encode=encode, decode=decode)
        self.encode, self.decode, self.field = encode, decode, field

    @property
    def energy(self) -> Callable[[Tensor], Tensor]:
        """u -> H(E(u)), where the field has an energy H."""
        own: Any = self.field.energy
        return lambda u: own(self.encode(u))

    def forward(self, t: float, u: Tensor) -> Tensor:
        z = self.encode(u)
        return torch.func.jvp(self.decode, (z,), (self.field(t, z),))[1]  # type: ignore[return-value] - a tensor


@dataclass(frozen=True)
class LatentRule:
    """Residuals [b, ...] whose squares are shares left unexplained: of what is seen, of the latents' rates, of p.

    With z = E(u) = (q, p): (D(z) - u) / sigma(u);  m^(1/2) r / sigma(z') with the residual r of ``rule`` on z and the
    weight m of ``motion``;  c^(1/2) ((q_1 - q_0) / h - (p_0 + p_1) / (2 tau)) / sigma(q') with the weight c of
    ``canonical``, which makes p the velocity of q in the unit of ``time`` tau. The spreads sigma are those of the
    window's rows: without them latents would shrink, and the last two with them, while nothing is learned. Of uneven
    times the last two weigh by h over the mean step, as in ``midpoint``.

    Raises:
        DataError: a window of one row. SettingError: a rule of rates.

    Source: Greydanus, Dzamba & Yosinski, NeurIPS 2019, sec. 5, with differences over a step in place of rates.
    """

    rule: Rule
    motion: float = 1.0
    canonical: float = 1.0
    time: float = 1.0

    def __post_init__(self) -> None:
        if self.rule is match_slopes:
            raise SettingError(
                "the rule compares rates, and those of codes are not observed: take one of states, as by "
                "energy_model(2) or hamiltonian_network(2, rule=physics.midpoint)"
            )

    def __call__(self, field: Any, window: Window) -> Tensor:
        if len(window.u) < 2:
            raise DataError("one window has no spread by which to measure what is left of it: take batch=2 or more")
        z = field.encode(window.u)
        q, p = z.chunk(2, -1)
        step = mean_step(window)
        rate, share = z.diff(dim=1) / step, window.t.diff(dim=1)[..., None].to(z.dtype) / step
        spread = rate.flatten(0, 1).std(0)
        n, half = z.shape[-1], q.shape[-1]
        velocity = (p[:, 1:] + p[:, :-1]) / (2 * self.time)
        parts = [
            (field.decode(z) - window.u) / window.u[:, 0].var(0).sum().sqrt(),
            (self.motion / n) ** 0.5 * self.rule(field.field, window._replace(u=z)) / spread,
            (self.canonical / half) ** 0.5 * (rate[..., :half] - share * velocity) / spread[:half],
        ]
        return torch.cat([x.flatten(1) / x.shape[1] ** 0.5 for x in parts], 1)


@dataclass(frozen=True)
class LatentStepper:
    """Steps of ``stepper`` along the latents, which are carried, so that only the first state is ever encoded."""

    stepper: Stepper

    def init(self, y: Tensor) -> None:
        return None

    def step(self, field: Any, t: float, h: Any, y: Tensor, carry: Any) -> tuple[Tensor, Any]:
        z, inner = carry or (z := field.encode(y), self.stepper.init(z))
        z, inner = self.stepper.step(field.field, t, h, z, inner)
        return field.decode(z), (z, inner)


def principal_coding(
    data: Trajectories, latents: int, *, components: int = 16, width: int = 100
) -> tuple[nn.Module, nn.Module]:
    """Encoder [..., n] -> [..., latents] and decoder: networks of the whitened principal components of the states.

    c = S^-1 V^T (u - mean) with the leading singular values S and vectors V of the data, each with its (first) largest
    entry positive, which stay as they are; small networks go between c and the latents. All components weigh alike in
    c: velocities, of which two frames in a row show little, as much as positions.

    Raises:
        SettingError: fewer components than latents. DataError: states that vary in fewer directions than that.
    """
    if type(components) is not int or type(latents) is not int or not 1 <= latents <= components:
        raise SettingError(
            f"{components!r} components for {latents!r} latents, expected whole numbers, as many or more"
        )
    if not isinstance(data, Trajectories):
        raise DataError(f"the data are a {type(data).__name__}, expected Trajectories, as of frame_pairs(frames, dt)")
    u = data.states.flatten(0, 1)
    mean = u.mean(0)
    _, sizes, rows = torch.linalg.svd(u - mean, full_matrices=False)
    rank = int((sizes > max(u.shape) * torch.finfo(u.dtype).eps * sizes[0]).sum())
    if rank < components:
        raise DataError(f"the states vary in {rank} directions, fewer than components={components}: take fewer")
    sigma, rows = sizes[:components] / len(u) ** 0.5, rows[:components]
    # of either sign otherwise, as the processor's instructions have it, and a network between would learn another code;
    # the first of the largest, as mirrored films have them twice, to rounding, with both signs
    largest = (rows.abs() > 0.999 * rows.abs().amax(1, keepdim=True)).int().argmax(1, keepdim=True)
    rows = rows * rows.gather(1, largest).sign()
    whiten, colour = nn.Linear(len(mean), components), nn.Linear(components, len(mean))
    with torch.no_grad():
        whiten.weight.copy_(rows / sigma[:, None])
        whiten.bias.copy_(-(rows @ mean) / sigma)
        colour.weight.copy_(rows.T * sigma)
        colour.bias.copy_(mean)
    known = whiten.requires_grad_(False), colour.requires_grad_(False)
    return (
        nn.Sequential(known[0], dense(components, latents, width)),
        nn.Sequential(dense(latents, components, width), known[1]),
    )


def latent_model(
    size: int, system: LearnedSystem, encode: nn.Module | None = None, decode: nn.Module | None = None, *,
    motion: float = 1.0, canonical: float = 1.0, time: float = 1.0,
) -> LearnedSystem:  # fmt: skip
    """States of ``size`` entries coded in those of a learned ``system``, whose rule and stepper act on the codes.

    Args:
        system: of latents (q, p), such as ``energy_model(2)``. encode, decode: networks [..., size] -> [..., latents]
            and back, such as ``principal_coding``; by default dense.
        motion, canonical: weights of the latents' motion and of p = time q', beside that of what is seen.
        time: in which a typical motion turns by a radian, so that p is of the size of q.

    Raises:
        SettingError: an odd number of latents, negative weights, or a time that is not positive.
    """
    if not isinstance(system, LearnedSystem):
        raise SettingError(f"the law of latents is a {type(system).__name__}, expected a model such as energy_model(2)")
    weights = all(is_number(x) and x >= 0 for x in (motion, canonical))
    if system.size % 2 or not (weights and is_number(time) and time > 0):
        raise SettingError(
            f"{system.size} latents with motion, canonical, time of {motion!r}, {canonical!r}, {time!r}; expected an "
            "even number, positions before momenta, weights of 0 or more and a positive time"
        )
    coding = given(encode, size, system.size), given(decode, system.size, size)
    rule = LatentRule(system.rule, motion, canonical, time)
    return LearnedSystem(size, LatentField(*coding, system.field), rule, LatentStepper(system.stepper))
