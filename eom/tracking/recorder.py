"""The recorder: from one step of a training to the rows of its record and the window that completes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from eom.calculus.inner import dot, norm
from eom.calculus.potentials import Mean, Pinned, Potential
from eom.calculus.products import Expansion, downhill, forward_difference
from eom.dynamics.correction import ByTerms
from eom.dynamics.runge_kutta import Euler
from eom.objective import Objective
from eom.objective.check import NO_THIRD, Check
from eom.objective.data import Batches
from eom.objective.replay import Replay
from eom.prediction.rates import TERMS
from eom.records import Row
from eom.tracking.mismatch import Mismatch, adding, relative
from eom.tracking.moment import Moment, Settings
from eom.tracking.observables import Observables
from eom.tracking.quantities import Quantities
from eom.tracking.ranks import Led, Ranks
from eom.tracking.sharpness import Sharpness
from eom.tracking.snapshot import Pass
from eom.tracking.window import Window
from eom.training.descent import Descent

ROUNDED = 0.05  # share of a step that rounding may take where gradient descent is still to be predicted
PROOF = 10  # records of order 0 from one whose gradient is computed again to the next


@dataclass
class Recorder:
    """Evaluates the run's own loss again at a recorded step, and predicts from it.

    ``order`` and ``product`` start as asked for and are lowered by the self-test; ``withheld`` says why nothing is
    predicted any more; ``notice`` takes events. ``trusted`` says that the run's own gradient was found to be that of
    the remembered batch, when it was last computed again.
    """

    settings: Settings
    observables: Observables
    notice: Callable[[str, str], None]
    withheld: str | None = None
    records: int = 0
    trusted: bool = False
    first: Objective | None = None  # of the first batch; the others are made from it
    casts: frozenset[torch.dtype] = frozenset()  # of autocast
    hessian: bool = True  # there is one, of which the sharpness is an eigenvalue
    ranks: Ranks | None = None  # of a training on several processes
    quantities: Quantities | None = None  # of the user's own

    def __post_init__(self) -> None:
        self.order, self.product = self.settings.order, self.settings.product
        self.sharpness = Sharpness(self.settings.sharpness)

    @property
    def objective(self) -> Objective:
        assert self.first is not None  # nothing is predicted before the first batch
        return self.first

    @property
    def model(self) -> nn.Module:
        return self.objective.model

    def adopt(self, check: Check) -> None:
        """Take the routes that the self-test found right, and say what is lost."""
        lost = ""
        if self.order and not check.jacobian:
            self.order, lost = 0, "rates of order 1 and above are withheld: "
        elif self.order == 2 and not check.third:
            self.order, lost = 1, "rates of order 2 are withheld: "
        if lost or check.product == "difference" != self.product:
            blind = "" if check.second else ". The sharpness, an eigenvalue of H, is not measured"
            self.notice("self_test", f"{lost}{check.reason or NO_THIRD}{blind}")
        self.product, self.casts, self.hessian = check.product, check.casts, check.second

    def potential(self, passes: Sequence[Pass], descent: Descent, product: str | None = None) -> Potential:
        """The loss of these passes, their mean, with the decay of this step; H v as the self-test chose, or else."""
        product = product or self.product
        parts = tuple(self._potential(p, descent, product) for p in passes)
        return parts[0] if len(parts) == 1 else Mean(parts)

    def _potential(self, p: Pass, descent: Descent, product: str) -> Potential:
        replay = p.replayed(self.settings.precision)
        own = self.potential_of(Batches(p.batch, single=True), descent, product, replay)
        return own if self.ranks is None else Led(own, self.ranks, p.place)

    def potential_of(self, data: Batches, descent: Descent, product: str, replay: Replay | None = None) -> Objective:
        """The loss of ``data`` with the decay of this step."""
        replay = replay or Replay.capture(self.model)
        return self.objective.replaced(product=product, data=data, decay=descent.decay, replay=replay)

    def measure(self, moment: Moment) -> tuple[list[Row], Window | None]:
        """The rows known at once, and the window for the rates (None if only values are asked for)."""
        self.records += 1
        descent, lost = moment.descent, self.observables.lost
        values = self.observables.values(moment.theta) if moment.values is None else moment.values
        whole = {"loss": moment.loss, "lr": descent.lr}
        if not descent.decay.isnan().any():  # else an optimizer whose weight decay is no known penalty
            whole["penalty"] = self._penalty(values, moment)
            if self.order is not None:
                decay = descent.decay.to(moment.theta)
                whole["gradient_norm"] = float(norm(torch.addcmul(moment.gradient, decay, moment.theta)))
        rows = [
            Row(moment.step, moment.time, group, quantity, "measured", value)
            for (quantity, group), value in zip(self.observables.labels, values.tolist(), strict=True)
            if quantity not in lost
        ]
        rows += [Row(moment.step, moment.time, "all", q, "measured", v) for q, v in whole.items() if v is not None]
        if self.order is None:
            return rows, None
        return rows, Window(moment.step, moment.time, descent, moment.theta, TERMS + 1, [values])

    def measure_others(self, moment: Moment) -> list[Row]:
        """The rows of the quantities that are due, on the first batch of the step."""
        assert self.quantities is not None
        p, decay = moment.passes[0], moment.descent.decay
        known = torch.zeros_like(decay) if decay.isnan().any() else decay
        replay, data = p.replayed(self.settings.precision), Batches(p.batch, single=True)
        objective = self.objective.replaced(product=self.product, data=data, decay=known, replay=replay)
        theta = moment.theta.to(self.precision)
        return self.quantities.rows(self.records, moment.step, moment.time, objective, theta)

    def obstacle(self, moment: Moment) -> str | None:
        """Why nothing is predicted at this step, if so."""
        if reason := self.withheld or moment.descent.withheld:
            return reason
        if not moment.passes:
            return "tracker.loss was not called before this step, so its batch is not known"
        if any(p.changed for p in moment.passes):
            return "the batch was written to in place between its forward pass and the step"
        return None

    def predict(self, moment: Moment, window: Window) -> list[Row]:
        """Check the update, predict the rates into the window, and find the sharpness if it is its turn."""
        theta, descent = moment.theta.to(self.precision), moment.descent
        potential = self.potential(moment.passes, descent)
        own = self._own_will_do(moment, theta)
        at = self._expand(potential, theta, moment, own)
        rows = [] if moment.loss is not None else [self._loss(potential, theta, moment)]
        derivative, rounding = self.observables.derivative(theta), self._rounding
        missed = Mismatch.of(moment, at.gradient, derivative, rounding, own=own)
        row = Row(moment.step, moment.time, "all", "update_mismatch", "measured", missed.size)
        if not missed.size <= missed.limit or missed.turned > rounding:
            self._withhold(max(missed.size, missed.turned))
            return [*rows, row]
        if missed.size > max(ROUNDED, rounding):  # more than autocast explains
            self._withhold_rounded(missed.size, moment.theta.dtype)
            return [*rows, row]
        self.trusted = True
        flow = descent.field(Pinned(potential, at))
        orders = ByTerms(flow, Euler(), descent.lr, self.order or 0).orders(0.0, theta)
        hvp = at.hvp if self.order else None
        del flow, at  # vectors that large networks have no room for
        window.predicted, window.derivative = [derivative(f) for f in orders], derivative
        window.theta, window.potential, window.passes = theta, potential, tuple(moment.passes)
        window.rounding = missed.rates
        window.exact = theta.dtype != moment.theta.dtype  # a look-ahead in a wider precision has no such rounding
        found = [row, *self._step_errors(orders, moment)]
        if own:
            window.own, window.held = orders[0], found
            window.bend = 2 * (orders[0] - orders[1]) if len(orders) > 1 else None  # of the next slope, h f'f
        else:
            rows += found
        del orders
        if self._sharpness_due:
            hvp = hvp or potential.expansion(theta).hvp
            value, residual = self.sharpness.find(hvp, descent.scale, theta)
            rows.append(Row(moment.step, moment.time, "all", "sharpness", "measured", value, residual))
        return rows

    def _step_errors(self, orders: Sequence[Tensor], moment: Moment) -> list[Row]:
        """How far one step of each order's flow ends from the run's, by the next term, as a share of the step."""
        sizes = [relative(after - this, orders[0]) for this, after in pairwise(orders)]
        return [Row(moment.step, moment.time, "all", "step_error", f"order-{k}", size) for k, size in enumerate(sizes)]

    @property
    def _sharpness_due(self) -> bool:
        return self.hessian and self.sharpness.due(self.records)

    def confirm(self, window: Window, slope: Tensor) -> list[Row]:
        """Compare the run's own slope behind a record with that of its batch [n]; withhold where they differ."""
        assert window.own is not None
        size, lr = relative(window.own - slope, slope), window.descent.lr
        if size <= self._rounding + adding(window.theta, lr * float(norm(slope))):
            window.own = None
            return []
        self._withhold(size)
        window.predicted, window.slopes, window.held, window.own = [], [], [], None
        window.potential = window.derivative = None
        return [Row(window.step, window.time, "all", "update_mismatch", "measured", size)]

    def state_dict(self) -> dict[str, Any]:
        kept = ("withheld", "records", "trusted")  # order and product are tested anew
        return {name: getattr(self, name) for name in kept} | {"direction": self.sharpness.direction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sharpness.direction = state.get("direction")
        for name in state.keys() - {"direction"}:
            setattr(self, name, state[name])

    @property
    def precision(self) -> torch.dtype:
        """Of the evaluations behind predictions: as asked for, or the model's own, but single for a half."""
        own = self.objective.layout.dtype
        return self.settings.precision or (torch.float32 if own in (torch.float16, torch.bfloat16) else own)

    @property
    def _rounding(self) -> float:
        """Largest relative difference that rounding explains between two gradients, the run's own and ours."""
        dtypes = {self.objective.layout.dtype, self.precision, *self.casts}
        return max(torch.finfo(dtype).eps for dtype in dtypes) ** 0.5

    def _withhold(self, size: float) -> None:
        self.trusted = False
        self.notice(
            "update_mismatch",
            f"the step differs by {size:.2g} of its size from gradient descent on the remembered batch, so predictions "
            "are withheld at such steps. Clipping, a gradient hook, a second loss, autocast, activation "
            "checkpointing, a loss scaled in accumulation other than by its mean, a write to the weights, or a batch "
            "that tracker.loss did not see is the usual cause.",
        )

    def _withhold_rounded(self, size: float, dtype: torch.dtype) -> None:
        name = str(dtype).removeprefix("torch.")
        self.notice(
            "update_rounded",
            f"rounding to {name}, as the step is added to the weights, takes {size:.2g} of the step, so that the run "
            "follows its rounding as much as its gradient: predictions are withheld at such steps. Keep the weights in "
            "a wider precision (and cast under autocast), or take a larger learning rate.",
        )

    def _own_will_do(self, moment: Moment, theta: Tensor) -> bool:
        """Whether the run's own gradient may stand for that of the remembered batch.

        At order 1 later slopes prove it; at order 0, where they say nothing, every tenth record does.
        """
        if not self.order and self.records % PROOF == 1:
            return False
        cheap = not self.order or self.product == "difference"
        same = moment.untouched and len(moment.passes) == 1 and theta.dtype == moment.layout.dtype
        return cheap and same and self.trusted

    def _expand(self, potential: Potential, theta: Tensor, moment: Moment, own: bool) -> Expansion:
        """Value, gradient and H v on the remembered batch, or around the run's own gradient."""
        if self.order and self.product != "difference":
            plain = moment.descent.uniform and float(moment.descent.scale) == 1 and isinstance(potential, Objective)
            if self.order > 1 or self._sharpness_due or not plain:
                return potential.expansion(theta)
            return downhill(*cast(Objective, potential).gradient_and_hvp(theta))  # the flow's own direction is -g
        g = moment.gradient + moment.descent.decay.to(theta) * theta if own else potential.gradient(theta)
        value = torch.tensor(torch.nan)  # not needed
        return Expansion(value, g, lambda v: forward_difference(potential.gradient, theta, v, g))

    def _penalty(self, values: Tensor, moment: Moment) -> float:
        """sum_j decay_j theta_j^2 / 2 before the step, where theta has the observables ``values`` [q]."""
        decay = moment.descent.decay
        if decay.ndim:
            return float(dot(moment.theta, decay.to(moment.theta) * moment.theta)) / 2
        return float(decay) * float(values[self.observables.labels.index(("norm_squared", "all"))]) / 2

    def _loss(self, potential: Potential, theta: Tensor, moment: Moment) -> Row:
        """The loss of a batch that was only observed, without the penalty."""
        penalty = self._penalty(self.observables.values(theta), moment)
        return Row(moment.step, moment.time, "all", "loss", "measured", float(potential.loss(theta)) - penalty)
