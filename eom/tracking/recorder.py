"""The recorder: from one step of a training to the rows of its record and the window that completes it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eom.calculus.products import Expansion, Mean, Pinned, Potential, forward_difference
from eom.calculus.spectrum import lanczos
from eom.dynamics.correction import ByTerms
from eom.dynamics.runge_kutta import Euler
from eom.objective import Objective
from eom.objective.check import Check
from eom.objective.data import Batches
from eom.objective.objective import LossFunction
from eom.objective.replay import Replay
from eom.prediction.rates import TERMS
from eom.records import Row
from eom.tracking.observables import Observables
from eom.tracking.snapshot import Pass
from eom.tracking.window import Window
from eom.training.descent import Descent


@dataclass(frozen=True)
class Settings:
    """What is recorded, and how; see ``eom.track``."""

    order: int | None
    product: str
    bars: bool
    sharpness: int
    horizon: int | None
    horizons: int
    precision: torch.dtype | None

    def plain(self) -> dict[str, Any]:
        """As a manifest holds them."""
        return asdict(self) | {"precision": self.precision and str(self.precision).removeprefix("torch.")}


@dataclass
class Moment:
    """One step as the recorder sees it: theta before and after [n], the run's own gradient [n], the passes behind it."""

    step: int
    time: float
    descent: Descent
    passes: list[Pass]
    theta: Tensor
    after: Tensor
    gradient: Tensor
    untouched: bool  # the gradient is as the backward pass left it
    loss: float


@dataclass
class Recorder:
    """Evaluates the run's own loss again at a recorded step, and predicts from it.

    ``order`` and ``product`` start as asked for and are lowered by the self-test; ``withheld`` says why nothing is
    predicted any more; ``notice`` takes events.
    """

    model: nn.Module
    loss_fn: LossFunction
    settings: Settings
    observables: Observables
    notice: Callable[[str, str], None]
    withheld: str | None = None
    records: int = 0
    direction: Tensor | None = None  # where the last sharpness was found, to start the next from

    def __post_init__(self) -> None:
        self.order, self.product = self.settings.order, self.settings.product

    def adopt(self, check: Check) -> list[dict[str, Any]]:
        """Take the routes that the self-test found right; returns its probes for the manifest."""
        if check.product != self.product:
            self.product = check.product
            self.notice(
                "self_test",
                "double backward is wrong or missing for this model, so H v is taken by differences of gradients",
            )
        if self.order == 2 and not check.third:
            self.order = 1
            self.notice(
                "self_test",
                "third derivatives are wrong or missing for this model, so rates of order 2 are withheld",
            )
        return [asdict(probe) for probe in check.probes]

    def potential(self, passes: Sequence[Pass], descent: Descent) -> Potential:
        """The loss of these passes, their mean, with the decay of this step."""
        parts = tuple(self.potential_of(Batches(p.batch, single=True), descent, p.replay) for p in passes)
        return parts[0] if len(parts) == 1 else Mean(parts)

    def potential_of(self, data: Batches, descent: Descent, replay: Replay | None = None) -> Objective:
        """The loss of ``data`` with the decay of this step."""
        return Objective(
            self.model,
            self.loss_fn,
            data,
            descent.decay,
            per_batch_statistics=True,
            product=self.product,
            replay=replay,
        )

    def record(self, moment: Moment) -> tuple[list[Row], Window | None]:
        """The rows known at once, and the window for the rates (None if only values are asked for)."""
        self.records += 1
        descent, theta = moment.descent, moment.theta
        values = self.observables.values(theta)
        decayed = moment.gradient + descent.decay.to(theta) * theta
        whole = {
            "loss": moment.loss,
            "penalty": float((descent.decay.to(theta) * theta * theta).sum() / 2),
            "gradient_norm": float(decayed.norm()),
            "lr": descent.lr,
        }
        rows = [
            Row(moment.step, moment.time, group, quantity, "measured", value)
            for (quantity, group), value in zip(self.observables.labels, values.tolist(), strict=True)
        ]
        rows += [Row(moment.step, moment.time, "all", q, "measured", value) for q, value in whole.items()]
        if self.order is None:
            return rows, None
        window = Window(moment.step, moment.time, descent, theta, TERMS + 1, [values])
        reason = self.withheld or descent.withheld
        if reason is None and not moment.passes:
            reason = "tracker.loss was not called before this step, so its batch is not known"
        if reason:
            self.notice("withheld", f"predictions withheld: {reason}")
            return rows, window
        return rows + self._predict(moment, window, decayed), window

    def _predict(self, moment: Moment, window: Window, decayed: Tensor) -> list[Row]:
        theta, descent = self._shadow(moment.theta), moment.descent
        potential = self.potential(moment.passes, descent)
        at = self._expand(potential, theta, moment, decayed)
        step = descent.lr * descent.scale.to(theta) * at.gradient
        mismatch = float((moment.after.to(theta) - theta + step).norm() / step.norm())
        rows = [Row(moment.step, moment.time, "all", "update_mismatch", "measured", mismatch)]
        if not mismatch <= _tolerance(moment.theta, step):
            self.notice(
                "update_mismatch",
                f"the step differs by {mismatch:.2g} of its size from gradient descent on the remembered batch, so predictions "
                "are withheld at such steps. Clipping, a second loss, autocast, a loss scaled in accumulation other than by "
                "its mean, or a batch that tracker.loss did not see is the usual cause.",
            )
            return rows
        window.theta, window.potential = theta, potential
        window.passes = tuple(moment.passes)
        window.derivative = self.observables.derivative(theta)
        flow = descent.field(Pinned(potential, at))
        orders = ByTerms(flow, Euler(), descent.lr, self.order or 0).orders(0.0, theta)
        window.predicted = [window.derivative(f) for f in orders]
        if self.settings.sharpness and (self.records - 1) % self.settings.sharpness == 0:
            rows.append(self._sharpness(potential, at, moment, theta))
        return rows

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("order", "product", "withheld", "records", "direction")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _shadow(self, theta: Tensor) -> Tensor:
        return theta.to(self.settings.precision or theta.dtype)

    def _expand(self, potential: Potential, theta: Tensor, moment: Moment, decayed: Tensor) -> Expansion:
        """Value, gradient and H v on the remembered batch, from the run's own gradient where that may be trusted."""
        if self.order and self.product == "double-backward":
            return potential.expansion(theta)
        own = moment.untouched and len(moment.passes) == 1 and theta.dtype == decayed.dtype
        g = decayed if own else potential.gradient(theta)
        value = torch.tensor(moment.loss)
        return Expansion(value, g, lambda v: forward_difference(potential.gradient, theta, v, g))

    def _sharpness(self, potential: Potential, at: Expansion, moment: Moment, theta: Tensor) -> Row:
        """The largest eigenvalue of the Hessian, preconditioned to the reference learning rate."""
        root = moment.descent.scale.to(theta).sqrt()
        hvp = at.hvp if self.order else potential.expansion(theta).hvp
        start = self.direction
        if start is None or start.dtype != theta.dtype:
            generator = torch.Generator().manual_seed(0)
            start = torch.randn(theta.shape, generator=generator, dtype=torch.float64).to(theta)
        found = lanczos(lambda v: root * hvp(root * v), start, rtol=1e-2, steps=40)
        self.direction = found.vectors[0]
        value, residual = found.eigenvalues[0].item(), found.residuals[0].item()
        return Row(moment.step, moment.time, "all", "sharpness", "measured", value, residual)


def _tolerance(theta: Tensor, step: Tensor) -> float:
    """Largest relative mismatch that rounding explains: of the derivative, and of adding a small step."""
    eps = torch.finfo(theta.dtype).eps
    return eps**0.5 + 4 * eps * float(theta.norm() / step.norm())
