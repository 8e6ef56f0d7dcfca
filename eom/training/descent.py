"""torch.optim.SGD read as Euler's method on a preconditioned gradient flow."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from eom.calculus.products import Potential
from eom.dynamics.field import SmoothField, gradient_flow, scaled
from eom.errors import WrongModelError


@dataclass(frozen=True)
class Descent:
    """One step theta <- theta - lr scale (grad R + decay theta).

    Attributes:
        lr: reference learning rate, the largest of the parameter groups; the step of time.
        scale: lr of each parameter over ``lr``, [] or [n]; 0 where the optimizer does not move it.
        decay: weight decay, [] or [n].
        withheld: why there is no equation of motion for this step, or None.
    """

    lr: float
    scale: Tensor
    decay: Tensor
    withheld: str | None = None

    def field(self, potential: Potential) -> SmoothField:
        """The field -scale grad L, on which the step is Euler's with h = lr; ``potential`` holds the decay."""
        flow = gradient_flow(potential)
        return flow if self.scale.ndim == 0 else scaled(flow, self.scale)  # type: ignore[return-value]

    def before(self, after: Tensor, gradient: Tensor) -> Tensor:
        """theta_n [n] from theta_{n+1} [n] and grad R(theta_n) [n]: the step solved backwards."""
        h = self.lr * self.scale
        return (after + h * gradient) / (1 - h * self.decay)

    def same_as(self, other: "Descent") -> bool:
        """Whether two steps are steps of the same map."""
        return (
            self.lr == other.lr
            and self.withheld == other.withheld
            and torch.equal(self.scale, other.scale)
            and torch.equal(self.decay, other.decay)
        )


def check_owner(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise unless the optimizer holds parameters of this model only, and at least one trainable one."""
    own = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    strange = sum(id(p) not in own for p in held)
    if strange or not any(p.requires_grad for p in held):
        raise WrongModelError(
            f"{strange} of the optimizer's {len(held)} parameters do not belong to this {type(model).__name__}; "
            "expected all of them to. Build the optimizer from model.parameters() after the last change to the model, "
            "and track that same model."
        )


def read(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Descent:
    """The step that ``optimizer`` takes with its present settings and gradients.

    A parameter without a gradient (``.grad`` is None) is not moved, nor decayed: SGD skips it.

    Args:
        parameters: the trainable parameters, in the order of the flat vector.
    """
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    lr = max(float(group["lr"]) for group in optimizer.param_groups)
    withheld = unsupported(optimizer) or (None if lr > 0 else f"the learning rate is {lr}: no time passes")
    if withheld:
        return Descent(lr, torch.ones(()), torch.zeros(()), withheld)

    def of(p: nn.Parameter) -> tuple[float, float]:
        group = settings.get(id(p))
        if group is None or p.grad is None:
            return 0.0, 0.0
        return float(group["lr"]) / lr, float(group["weight_decay"])

    scales, decays = zip(*map(of, parameters), strict=True)
    return Descent(lr, _vector(scales, parameters), _vector(decays, parameters))


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


def _vector(values: tuple[float, ...], parameters: list[nn.Parameter]) -> Tensor:
    device = parameters[0].device
    if len(set(values)) == 1:
        return torch.tensor(values[0], dtype=torch.float64)
    dtype = torch.float64 if parameters[0].dtype == torch.float64 else torch.float32
    return torch.cat(
        [torch.full((p.numel(),), v, dtype=dtype, device=device) for v, p in zip(values, parameters, strict=True)]
    )
