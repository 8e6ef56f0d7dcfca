"""torch.optim.SGD read as Euler's method on a preconditioned gradient flow."""

from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from eom.calculus.potentials import Potential
from eom.dynamics.field import SmoothField, gradient_flow, scaled
from eom.errors import ParametersError, SettingError, WrongModelError

COUPLED = (SGD, Adam, Adamax, NAdam, RAdam, RMSprop, Adagrad, Adadelta, ASGD)  # they add decay * theta to the gradient


@dataclass(frozen=True)
class Descent:
    """One step theta <- theta - lr scale (grad R + decay theta).

    Attributes:
        lr: reference learning rate, the largest of the parameter groups; the step of time.
        scale: lr of each parameter over ``lr``, [] or [n]; 0 where the optimizer does not move it.
        decay: weight decay as a penalty in the loss, [] or [n]; NaN where an optimizer's is not known to be one.
        withheld: why there is no equation of motion for this step, or None.
    """

    lr: float
    scale: Tensor
    decay: Tensor
    withheld: str | None = None

    def field(self, potential: Potential) -> SmoothField:
        """The field -scale grad L, on which the step is Euler's with h = lr; ``potential`` holds the decay."""
        flow = gradient_flow(potential)
        return flow if self.scale.ndim == 0 else scaled(flow, self.scale)  # type: ignore[return-value] - stays smooth

    @property
    def uniform(self) -> bool:
        """Whether the step is the same for every parameter."""
        return self.withheld is None and not self.scale.ndim and not self.decay.ndim

    def before(self, after: Tensor, gradient: Tensor) -> Tensor:
        """theta_n [n] from theta_{n+1} [n] and grad R(theta_n) [n]: the step solved backwards."""
        h = self.lr * self.scale
        return (after + h * gradient) / (1 - h * self.decay)

    def same_as(self, other: "Descent") -> bool:
        """Whether two steps are steps of the same map."""
        return self.lr == other.lr and self.withheld == other.withheld and self.alike(other)

    def alike(self, other: "Descent") -> bool:
        """Whether two steps are on the same field; a schedule of several learning rates keeps ratios to rounding."""
        return all(
            torch.equal(a, b) or (a.shape == b.shape and torch.allclose(a, b, rtol=_rounding(a), atol=0.0))
            for a, b in ((self.scale, other.scale), (self.decay, other.decay))
        )


def check_owner(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise unless this is an optimizer of this model's parameters only, of at least one trainable one, with an lr."""
    if not isinstance(optimizer, Optimizer):
        raise SettingError(f"optimizer is a {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    held = [p for group in optimizer.param_groups for p in group["params"]]
    strange = sum(not p for p in owned(optimizer, model))
    if strange:
        raise WrongModelError(
            f"{strange} of the optimizer's {len(held)} parameters do not belong to this {type(model).__name__}; "
            "expected all of them to. Build the optimizer from model.parameters() after the last change to the model, "
            "and track that same model."
        )
    if not any(p.requires_grad for p in held):
        raise ParametersError(f"none of the optimizer's {len(held)} parameters is trainable, expected at least one")
    if any(group.get("lr") is None for group in optimizer.param_groups):
        raise SettingError(f"{type(optimizer).__name__} has no learning rate (no lr), which is the step of time here")


def owned(optimizer: Optimizer, model: nn.Module) -> list[bool]:
    """For each parameter of the optimizer whether it is the model's."""
    own = {id(p) for p in model.parameters()}
    return [id(p) in own for group in optimizer.param_groups for p in group["params"]]


def read(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Descent:
    """The step that ``optimizer`` takes with its present settings and gradients.

    A parameter without a gradient (``.grad`` is None) is not moved, nor decayed: SGD skips it.

    Args:
        parameters: the trainable parameters, in the order of the flat vector.
    """
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    lr = max(float(group["lr"]) for group in optimizer.param_groups)
    withheld = unsupported(optimizer) or (None if lr > 0 else f"the learning rate is {lr}: no time passes")

    def of(p: nn.Parameter) -> tuple[float, float]:
        group = settings.get(id(p))
        if group is None or p.grad is None:
            return 0.0, 0.0
        return 1.0 if withheld else float(group["lr"]) / lr, penalty_of(optimizer, group)

    scales, decays = zip(*map(of, parameters), strict=True)
    scale = torch.ones(()) if withheld else _vector(scales, parameters)
    return Descent(lr, scale, _vector(decays, parameters), withheld)


def penalty_of(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """The weight decay that acts as a penalty in the loss: 0 where it is decoupled, NaN where that is not known."""
    decay = float(group.get("weight_decay", 0.0))
    if not decay or isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay"):
        return 0.0
    return nan if group.get("maximize") or type(optimizer) not in COUPLED else decay


def unsupported(optimizer: Optimizer) -> str | None:
    """Why there is no equation of motion for this optimizer, if so."""
    if type(optimizer) is not SGD:
        return f"no equation of motion for {type(optimizer).__name__} yet; there is one for torch.optim.SGD"
    for group in optimizer.param_groups:
        if group["momentum"]:
            return f"no equation of motion for momentum yet (it is {group['momentum']}); there is one for momentum=0"
        if group["maximize"]:
            return "no equation of motion for maximize=True; there is one for descent"
    return None


def _rounding(ratios: Tensor) -> float:
    return 1e-12 if ratios.dtype == torch.float64 else 1e-6


def _vector(values: tuple[float, ...], parameters: list[nn.Parameter]) -> Tensor:
    device = parameters[0].device
    if len(set(values)) == 1:
        return torch.tensor(values[0], dtype=torch.float64)
    dtype = torch.float64 if parameters[0].dtype == torch.float64 else torch.float32
    return torch.cat(
        [torch.full((p.numel(),), v, dtype=dtype, device=device) for v, p in zip(values, parameters, strict=True)]
    )
