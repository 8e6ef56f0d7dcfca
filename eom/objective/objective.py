"""A model, its loss and its data as a function L(theta) of one flat vector, with derivatives."""

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from eom.calculus.products import Expansion, forward_difference
from eom.errors import DataError, EomWarning, LossNotDifferentiableError, ParametersError, SettingError, warn_user
from eom.objective.check import LOG_MAP, Check
from eom.objective.compiled import Compiled
from eom.objective.data import Batch, Batches, length
from eom.objective.explain import check_callables
from eom.objective.loss import Around, BatchLoss, LossFunction
from eom.objective.mean_loss import MeanLoss
from eom.objective.parameters import Groups, Layout, decay_vector, layout_of, make_groups, plain, trainable
from eom.objective.replay import Replay
from eom.objective.shards import Shards, mark_of, told

PRODUCTS = ("auto", "double-backward", "difference", "compiled")


class Objective:
    """L(theta) = sum_b w_b loss_fn(model, batch_b) / sum_b w_b + sum_j decay_j theta_j^2 / 2.

    Every evaluation starts from the generator states and buffers of the moment of construction, and leaves the
    model as it was: parameters, buffers, ``.grad``, mode, generators. It runs in the precision of ``theta``:
    ``objective.gradient(objective.theta().double())`` evaluates a float32 model in float64.

    Args:
        model: any module; trainable parameters are the variables, the others constants.
        loss_fn: (model, batch) -> one real number as a tensor.
        data: one batch (a tensor, tuple, mapping or list of tensors), or a re-iterable of batches.
        decay: weight decay, one number, {parameter name: number} (0 elsewhere), or [n].
        groups: "tensor", "module", or {name: parameter names or indices}.
        weight: batch -> its weight in the mean; the number of samples by default.
        per_batch_statistics: accept BatchNorm in train mode over several batches, where the mean over batches is
            another function than the loss of all samples together.
        product: route to H v: "auto" tests this model's derivatives when the first is asked for (see ``check``);
            "double-backward"; "difference" of gradients (cheapest; to 1e-7 in float64 and 1e-3 in float32, if no
            parameter is much smaller than |theta| and the loss curved on its scale); "compiled" (long to compile, then
            faster; compared with double backward whenever it is compiled, so not for losses that draw random numbers).
            The last three are taken untested otherwise.
        replay: the states to evaluate from, if not the present ones.
        process_group: of torch.distributed. Every rank holds the same parameters and a part of the data, calls the same
            methods with the same vectors, and gets what one process with all of the data would.

    Raises:
        ParametersError, DataError, SettingError: at construction. LossNotScalarError,
        LossNotDifferentiableError: at the first evaluation. RankError: at either, where another rank was lost.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        data: Any,
        decay: float | Mapping[str, float] | Tensor = 0.0,
        *,
        groups: Groups = "tensor",
        weight: Callable[[Batch], float] = length,
        per_batch_statistics: bool = False,
        product: str = "auto",
        replay: Replay | None = None,
        process_group: Any = None,
    ):
        with told(process_group):
            check_callables(model, loss_fn)
            self.model = plain(model)
            self.layout: Layout = layout_of(self.model)
            self.batches = data if isinstance(data, Batches) else Batches(data, weight)
            self.decay = decay_vector(decay, self.layout)
            self.product = product
            self.replay = replay or Replay.capture(self.model)
            self._loss_fn, self._groups, self._around = loss_fn, groups, Around(self.model)
            self._compiled = Compiled(self._around, loss_fn, self.layout)
            self._tested: dict[Any, Check] = {}
            if product not in PRODUCTS:
                raise SettingError(f"product is {product!r}, expected one of {', '.join(map(repr, PRODUCTS))}")
            if process_group is not None and product == "compiled":
                raise SettingError('product="compiled" runs in one process: leave product, or process_group, out')
            alone = process_group is None
            if (
                not (alone and len(self.batches) == 1)
                and not per_batch_statistics
                and uses_batch_statistics(self.model)
            ):
                parts = f"{len(self.batches)} batches" if alone else "a part on every rank"
                raise DataError(
                    f"the model normalises by batch statistics and the data has {parts}: the mean over them is then "
                    "not the loss of all samples. Pass one batch, call model.eval(), or ask for this other objective "
                    "by name: eom.Objective(..., per_batch_statistics=True)."
                )
        self.shards: Shards | None = None
        if process_group is not None:
            frozen = [p.detach().reshape(-1) for p in self.model.parameters() if not p.requires_grad]
            settings = product, *(f"{mark_of(x):.10g}" for x in (self.decay.reshape(-1), *frozen))
            self.shards = Shards.join(process_group, self.batches.total, len(self.batches), self.theta(), settings)

    def replaced(
        self,
        *,
        product: str,
        data: Batches | None = None,
        decay: Tensor | None = None,
        replay: Replay | None = None,
    ) -> "Objective":
        """The same model and loss, by another route to H v, on other data, with other decay or states; no copies."""
        other = copy.copy(self)
        other.product, other._tested = product, {}
        other.batches, other.replay = data or self.batches, replay or self.replay
        if decay is not None:
            other.decay = decay_vector(decay, self.layout)
            vars(other).pop("_decays", None)
        return other

    def theta(self) -> Tensor:
        """[n] the present parameters, a copy."""
        return self.layout.flatten(trainable(self.model).values())

    @cached_property
    def groups(self) -> Mapping[str, Tensor]:
        """{name: indices into theta}; the last one, "all", is every parameter."""
        return make_groups(self.layout, self._groups)

    def loss(self, theta: Tensor) -> Tensor:
        """[] L(theta), penalty included."""
        theta = self._vector("theta", theta, theta, "the loss")
        return self.mean_loss.value(theta) + self.penalty(theta)

    def penalty(self, theta: Tensor) -> Tensor:
        """[] sum_j decay_j theta_j^2 / 2."""
        if not self._decays:
            return theta.new_zeros(())
        return (self._decay(theta) * theta * theta).sum() / 2

    def gradient(self, theta: Tensor) -> Tensor:
        """[n] grad L(theta)."""
        theta = self._vector("theta", theta, theta, "the gradient")
        return self._with_decay(self.mean_loss.gradient(theta), theta)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """[n] H(theta) v."""
        return self.gradient_and_hvp(theta, v)[1]

    def gradient_and_hvp(self, theta: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[n], [n] grad L(theta) and H(theta) v, with the gradient for v by default.

        In less memory than by ``expansion``, which keeps its graph for further products.
        """
        theta = self._require_point(theta, "H g" if v is None else "H v")
        v = None if v is None else self._vector("v", v, theta)
        if self._product(theta) == "double-backward" and (v is not None or self.mean_loss.at_once):
            g, hv = self.mean_loss.gradient_and_product(
                theta, (lambda g: self._with_decay(g, theta)) if v is None else (lambda g: v)
            )
            g = self._with_decay(g, theta)
            return g, self._with_decay(hv, g if v is None else v)
        at = self.expansion(theta)
        return at.gradient, at.hvp(at.gradient if v is None else v)

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """[n] T(u, v) = D^3 L[., u, v].

        Raises:
            LossNotDifferentiableError: the third derivatives of this model are wrong or missing, or
                ``product="difference"``.
        """
        theta = self._require_point(theta, "T(u, v)")
        u, v = self._vector("u", u, theta), self._vector("v", v, theta)
        if self.product == "difference":
            raise LossNotDifferentiableError(f'product="difference" gives H v, but no T. {LOG_MAP}')
        if self.product == "auto":
            self._route(theta, 2)
        return self.mean_loss.third(theta, u, v)

    def expansion(self, theta: Tensor) -> Expansion:
        """L, its gradient and H's product at ``theta`` [n]; one batch keeps its graph for further products.

        Raises:
            LossNotDifferentiableError: ``product="auto"`` and the gradient is not the derivative of the loss.
            ParametersError: theta is in half precision.
        """
        route, theta = self._product(theta), theta.detach().clone()  # the caller may write to his own
        value, g, product = self._expanded(route, theta)
        asked = "H v" if self.shards is None else f"H v of expansion {next(self.shards.numbers)}"
        return Expansion(value, g, lambda v: product(self._vector("v", v, theta, asked)))

    def _expanded(self, route: str, theta: Tensor) -> Expansion:
        if route == "compiled":
            parts = [(w, self.loss_of(batch)) for w, batch in self.batches]
            return self._compiled.expansion(theta, self._decay(theta), parts)
        if route == "difference":
            value, g = self.mean_loss.value_and_gradient(theta)
            known = self._with_decay(g, theta)
            return Expansion(
                value + self.penalty(theta),
                known.clone(),
                lambda v: forward_difference(self.gradient, theta, v, known),
            )
        value, g, hvp = self.mean_loss.expansion(theta)
        return Expansion(value + self.penalty(theta), self._with_decay(g, theta), lambda v: self._with_decay(hvp(v), v))

    def _product(self, theta: Tensor) -> str:
        """The route to H v that is to be taken."""
        self._require_point(theta, "an expansion")
        return self._route(theta, 1) if self.product == "auto" else self.product

    def _vector(self, name: str, v: Tensor, theta: Tensor, asked: str = "H v") -> Tensor:
        """``v`` as theta is, if it is one real number for each parameter."""
        if not isinstance(v, Tensor) or v.shape != (self.layout.n,):
            came = f"of shape {list(v.shape)}" if isinstance(v, Tensor) else f"a {type(v).__name__}"
            raise SettingError(f"{name} is {came}, expected a tensor [{self.layout.n}]")
        if not v.is_floating_point():
            raise SettingError(f"{name} is {v.dtype}, expected real floating-point numbers")
        if self.shards is not None:
            self.shards.same(asked, name, v)
        return v.detach().to(theta)

    def _require_point(self, theta: Tensor, asked: str) -> Tensor:
        """Theta, if it is a point where second derivatives can be taken."""
        theta = self._vector("theta", theta, theta, asked)
        if theta.dtype in (torch.float16, torch.bfloat16):
            raise ParametersError(
                f"theta is {theta.dtype}, whose two or three digits leave nothing of a second derivative: pass "
                "theta.float() or theta.double()"
            )
        return theta

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """{parameter name: view of theta}."""
        return self.layout.unflatten(theta)

    def check(self, order: int = 1, theta: Tensor | None = None) -> Check:
        """Test the derivatives on this very model, and choose the routes to H v and, from order 2 on, to T.

        A table of probes: one function, the gradient against the loss, H v against differences over two steps, its
        symmetry, T; what fails is named with the module to blame and the remedy.

        Args:
            order: 1 tests what H v needs, 2 what T needs too. theta: [n] where; the present parameters by default.

        Returns:
            A table when printed; ``passed``, ``failures``, ``reason`` for what is wrong in one text, ``product`` for
            the route to H v, and whether H v (``second``) and T (``third``) may be used.

        Raises:
            SettingError: another order.
            LossNotFiniteError, LossNotDeterministicError: there is no one number to differentiate.
        """
        from eom.objective.examination import run_checks  # which evaluates the objective

        if type(order) is not int or order not in (1, 2):
            raise SettingError(f"order is {order!r}, expected 1 (what H v needs) or 2 (what T needs too)")
        theta = self.theta() if theta is None else self._vector("theta", theta, theta, "a test")
        if self.shards is None:
            return run_checks(self, order, theta)
        alone = self.replaced(product=self.product)
        alone.shards = None
        return self.shards.agreed(run_checks(alone, order, theta), lambda c: (c.second, c.third, c.jacobian, c.passed))

    def _route(self, theta: Tensor, order: int) -> str:
        """The route to H v that the self-test chose; it is run once for each order, and train or eval mode."""
        key = order, tuple(m.training for m in self.model.modules())
        if key not in self._tested:
            check = self._tested[key] = self.check(order, theta)
            if order == 1 and check.product == "difference" and check.second:
                warn_user(check.reason, EomWarning)
        check = self._tested[key]
        if not check.second or (order == 2 and not check.third):
            raise LossNotDifferentiableError(check.reason if order == 1 else f"{check.reason}. {LOG_MAP}")
        return check.product

    def _with_decay(self, x: Tensor, y: Tensor) -> Tensor:
        """x + decay * y, [n]."""
        return torch.addcmul(x, self._decay(y), y) if self._decays else x

    @cached_property
    def _decays(self) -> bool:
        return bool(self.decay.any())

    def _decay(self, theta: Tensor) -> Tensor:
        return self.decay.to(theta)

    def loss_of(self, batch: Batch) -> BatchLoss:
        return BatchLoss(self._around, self._loss_fn, self.layout, self.replay, batch)

    @property
    def mean_loss(self) -> MeanLoss:
        """The loss without the penalty."""
        return MeanLoss(self.loss_of, self.batches, self.shards)


def uses_batch_statistics(model: nn.Module) -> bool:
    kinds = nn.modules.batchnorm._BatchNorm
    return any(isinstance(m, kinds) and (m.training or m.running_mean is None) for m in model.modules())
