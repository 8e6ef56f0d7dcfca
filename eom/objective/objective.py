"""A model, its loss and its data as a function L(theta) of one flat vector, with derivatives."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eom.calculus.products import Expansion, expand, forward_difference, third_derivative, value_and_gradient
from eom.errors import DataError, LossNotDifferentiableError, SettingError
from eom.objective.data import Batch, Batches, in_dtype, length
from eom.objective.explain import check_scalar, explaining
from eom.objective.parameters import Groups, Layout, decay_vector, layout_of, make_groups, plain, trainable
from eom.objective.replay import Replay

if TYPE_CHECKING:
    from eom.objective.check import Check

LossFunction = Callable[[nn.Module, Batch], Tensor]


class _Loss(nn.Module):
    """The loss as a module around the model, so that one functional call swaps all of its state."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction):
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, batch: Batch) -> Tensor:
        return self.loss_fn(self.model, batch)


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
        product: "double-backward", or "difference" for H v by a forward difference of gradients.
        replay: the states to evaluate from, if not the present ones.

    Raises:
        ParametersError, DataError, SettingError: at construction. LossNotScalarError,
        LossNotDifferentiableError: at the first evaluation.
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
        product: str = "double-backward",
        replay: Replay | None = None,
    ):
        self.model = plain(model)
        self.layout: Layout = layout_of(self.model)
        self.batches = data if isinstance(data, Batches) else Batches(data, weight)
        self.decay = decay_vector(decay, self.layout)
        self.product = product
        self._groups = groups
        self._call = _Loss(self.model, loss_fn)
        self._replay = replay or Replay.capture(self.model)
        if product not in ("double-backward", "difference"):
            raise SettingError(f'product is {product!r}, expected "double-backward" or "difference"')
        if len(self.batches) > 1 and not per_batch_statistics and _uses_batch_statistics(self.model):
            raise DataError(
                f"the model normalises by batch statistics and the data has {len(self.batches)} batches: the mean over "
                "batches is then not the loss of all samples. Pass one batch, call model.eval(), or ask for this other "
                "objective by name with per_batch_statistics=True."
            )

    def theta(self) -> Tensor:
        """[n] the present parameters, a copy."""
        return self.layout.flatten(trainable(self.model).values())

    @cached_property
    def groups(self) -> dict[str, Tensor]:
        """{name: indices into theta}; the last one, "all", is every parameter."""
        return make_groups(self.layout, self._groups)

    def loss(self, theta: Tensor) -> Tensor:
        """[] L(theta), penalty included."""
        with torch.no_grad():
            return self._mean(lambda f: f(theta)) + self.penalty(theta)

    def penalty(self, theta: Tensor) -> Tensor:
        """[] sum_j decay_j theta_j^2 / 2."""
        return (self._decay(theta) * theta * theta).sum() / 2

    def gradient(self, theta: Tensor) -> Tensor:
        """[n] grad L(theta)."""
        g = self._mean(lambda f: value_and_gradient(f, theta)[1])
        return torch.addcmul(g, self._decay(theta), theta)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """[n] H(theta) v."""
        return self.expansion(theta).hvp(v)

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """[n] T(u, v) = D^3 L[., u, v]."""
        return self._mean(lambda f: third_derivative(f, theta, u, v))

    def expansion(self, theta: Tensor) -> Expansion:
        """L, its gradient and H's product at ``theta`` [n]; one batch keeps its graph for further products."""
        lam = self._decay(theta)
        if self.product == "difference":
            value, g = self._mean_pair(lambda f: value_and_gradient(f, theta))
            g = torch.addcmul(g, lam, theta)
            return Expansion(value + self.penalty(theta), g, lambda v: forward_difference(self.gradient, theta, v, g))
        if len(self.batches) == 1:
            value, g, hvp = self._evaluate(self.batches.first, lambda f: expand(f, theta))

            def product(v: Tensor) -> Tensor:
                with explaining():
                    return hvp(v)
        else:
            value, g = self._mean_pair(lambda f: value_and_gradient(f, theta))

            def product(v: Tensor) -> Tensor:
                return self._mean(lambda f: expand(f, theta).hvp(v))

        gradient = torch.addcmul(g, lam, theta)
        return Expansion(value + self.penalty(theta), gradient, lambda v: torch.addcmul(product(v), lam, v))

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """{parameter name: view of theta}."""
        return self.layout.unflatten(theta)

    def check(self, order: int = 1) -> "Check":
        """Test the derivatives on this very model: determinism, differences, symmetry (at most 16 gradients)."""
        from eom.objective.check import run_checks  # the checks use the objective

        return run_checks(self, order)

    def _decay(self, theta: Tensor) -> Tensor:
        return self.decay.to(theta)

    def _mean(self, of: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
        return self._mean_pair(lambda f: (of(f),))[0]

    def _mean_pair(self, of: Callable[[Callable[[Tensor], Tensor]], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Weighted mean over the batches of what ``of`` makes of each batch's loss; memory of one batch."""
        total: tuple[Tensor, ...] = ()
        for w, batch in self.batches:
            parts = self._evaluate(batch, of)
            weighted = parts if w == 1 else tuple(w * x for x in parts)
            total = tuple(a + b for a, b in zip(total, weighted, strict=True)) if total else weighted
        return total

    def _evaluate(self, batch: Batch, of: Callable) -> Any:
        with self._replay.generators(), explaining():
            return of(lambda theta: self._data_loss(theta, batch))

    def _data_loss(self, theta: Tensor, batch: Batch) -> Tensor:
        if theta.shape != (self.layout.n,):
            raise SettingError(f"theta has shape {list(theta.shape)}, expected [{self.layout.n}]")
        own = next(iter(trainable(self.model).values())).dtype
        fixed = {k: p for k, p in self.model.named_parameters() if not p.requires_grad}
        fixed |= {k: b.clone() for k, b in self._replay.buffers.items()}
        if theta.dtype != own:
            fixed = {k: x.to(theta.dtype) if x.is_floating_point() else x for k, x in fixed.items()}
            batch = in_dtype(batch, theta.dtype)
        state = {f"model.{k}": x for k, x in (fixed | self.layout.unflatten(theta)).items()}
        value = functional_call(self._call, state, (batch,))
        check_scalar(value)
        if torch.is_grad_enabled() and theta.requires_grad and not value.requires_grad:
            raise LossNotDifferentiableError(
                "the loss does not depend on any trainable parameter of this model through differentiable operations. "
                "A loss function that uses another model than the one it is given, .detach(), .item() or "
                "torch.no_grad() is the usual cause."
            )
        return value.reshape(())


def _uses_batch_statistics(model: nn.Module) -> bool:
    kinds = nn.modules.batchnorm._BatchNorm
    return any(isinstance(m, kinds) and (m.training or m.running_mean is None) for m in model.modules())
