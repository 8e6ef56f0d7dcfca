"""Gradient and Hessian-vector product as one compiled function; asked for by name, as it takes long to compile."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from eom.calculus.products import Expansion, gradient_and_product
from eom.errors import LossNotDifferentiableError
from eom.objective.attributes import attributes_kept
from eom.objective.loss import Around, BatchLoss, LossFunction
from eom.objective.parameters import Layout
from eom.objective.verdicts import limits


class Compiled:
    """Backward over backward by ``torch.func``, compiled once for each shape of the batch."""

    def __init__(self, around: Around, loss_fn: LossFunction, layout: Layout):
        self._around, self._loss_fn, self._layout = around, loss_fn, layout
        self._compared: set[Any] = set()

    @cached_property
    def _pair(self) -> Any:
        return torch.compile(self._gradient_and_along, fullgraph=True)

    @cached_property
    def _product(self) -> Any:
        return torch.compile(self._along, fullgraph=True)

    def expansion(self, theta: Tensor, lam: Tensor, parts: Sequence[tuple[float, BatchLoss]]) -> Expansion:
        """L, its gradient, and v -> H v, where H times the gradient is known already.

        Raises:
            LossNotDifferentiableError: the first H g of a precision and mode is not that of ``gradient_and_product``.
        """
        total: Any = None
        for w, part in parts:
            found = self._run(self._pair, part, theta, lam)
            self._compare(found, part, theta, lam)
            total = [w * x for x in found] if total is None else [a + w * x for a, x in zip(total, found, strict=True)]
        value, g, hg = total

        def hvp(v: Tensor) -> Tensor:
            for sign in (1, -1) if len(parts) == 1 else ():  # a gradient flow asks for H times minus the gradient
                if torch.equal(v, sign * g):
                    return sign * hg
            return sum((w * self._run(self._product, part, theta, lam, v) for w, part in parts), torch.zeros_like(v))

        return Expansion(value, g, hvp)

    def _compare(self, found: Sequence[Tensor], part: BatchLoss, theta: Tensor, lam: Tensor) -> None:
        """Compiled code is out of reach of the swaps that make derivatives exact."""
        key = theta.dtype, tuple(m.training for m in self._around.modules())
        if key in self._compared:
            return
        g, hg = gradient_and_product(part, theta, lambda g: g + lam * theta)
        right = hg + lam * (g + lam * theta)
        error = float((found[2] - right).norm() / (right.norm() + 1e-300))
        if not error <= limits(torch.finfo(theta.dtype).eps).slope:
            raise LossNotDifferentiableError(
                f"the compiled H v is off by {error:.2g}: one of torch's fused operations, or a loss that takes "
                'derivatives itself. Pass product="auto", which evaluates them exactly.'
            )
        self._compared.add(key)

    def _run(self, compiled: Any, part: BatchLoss, theta: Tensor, *others: Tensor) -> Any:
        states, attributes = part.replay.states(outside=True), attributes_kept(self._around.model)
        with states, attributes, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return compiled((part.constants(theta.dtype), part.batch_in(theta.dtype)), theta, *others)

    def _expand(self, constants: Any, theta: Tensor, lam: Tensor) -> Any:
        fixed, batch = constants

        def loss(y: Tensor) -> Tensor:
            parts = list(self._layout.unflatten(y).values())
            state = fixed | {name: parts[i] for name, i in self._around.places}
            run = (lambda: self._loss_fn(self._around.model, batch),)
            value = functional_call(self._around, state, run, tie_weights=False)
            return value.reshape(()) + (lam * y * y).sum() / 2

        return vjp(grad_and_value(loss), theta)

    def _gradient_and_along(self, constants: Any, theta: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (g, value), pull = self._expand(constants, theta, lam)
        return value, g, pull((g, torch.zeros_like(value)))[0]

    def _along(self, constants: Any, theta: Tensor, lam: Tensor, v: Tensor) -> Tensor:
        (_, value), pull = self._expand(constants, theta, lam)
        return pull((v, torch.zeros_like(value)))[0]
