"""Gradient and Hessian-vector product as one compiled function; asked for by name, as it takes long to compile."""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from eom.calculus.checks import beside, rounding, scale
from eom.calculus.inner import norm
from eom.calculus.products import Expansion, gradient_and_product
from eom.errors import LossNotDifferentiableError
from eom.objective.attributes import attributes_kept
from eom.objective.loss import LENDING, Around, BatchLoss, LossFunction
from eom.objective.parameters import Layout

NEAR = 0.3  # in |theta|: how far away compiled code is compared, as zeros of an initialisation hide what it gets wrong
NAMES = "loss", "gradient", "H v"
REMEDY = 'product="auto" needs no compiler'


class Program:
    """One compiled function; ``new`` says that something was compiled since it was last compared."""

    def __init__(self, function: Callable):
        from torch._dynamo import lookup_backend  # which takes a second

        self.new, inductor = False, lookup_backend("inductor")

        def backend(*graph: Any, **options: Any) -> Any:
            self.new = True
            return inductor(*graph, **options)

        # the compiler keeps programs, not many, with a function's code: one of its own shares none with another loss
        own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
        self.run = torch.compile(own, fullgraph=True, backend=backend)


class Compiled:
    """Backward over backward by ``torch.func``, compiled for each shape of the batch, then compared with autograd."""

    def __init__(self, around: Around, loss_fn: LossFunction, layout: Layout):
        self.around, self.loss_fn, self.layout = around, loss_fn, layout
        self._programs: dict[Any, Program] = {}

    def expansion(self, theta: Tensor, lam: Tensor, parts: Sequence[tuple[float, BatchLoss]]) -> Expansion:
        """L, its gradient, and v -> H v, where H times the gradient is known already.

        Raises:
            LossNotDifferentiableError: the compiler cannot take this loss, or makes something else of it.
        """
        total: Any = None
        for w, part in parts:
            found = self._run(_gradient_and_along, part, theta, lam)
            total = [w * x for x in found] if total is None else [a + w * x for a, x in zip(total, found, strict=True)]
        value, g, hg = total

        def hvp(v: Tensor) -> Tensor:
            for sign in (1, -1) if len(parts) == 1 else ():  # a gradient flow asks for H times minus the gradient
                if torch.equal(v, sign * g):
                    return sign * hg
            return sum((w * self._run(_along, part, theta, lam, v)[0] for w, part in parts), torch.zeros_like(v))

        return Expansion(value, g.clone(), hvp)

    def _run(self, function: Callable, part: BatchLoss, theta: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        program = self._program(function)
        try:
            found = self._call(program, part, theta, *others)
        except Exception as failure:  # of the compiler, of any kind
            self._plain(part, theta)
            why = (str(failure).strip() or "it says no more").splitlines()[0]
            if "RecompileLimit" in type(failure).__name__:
                why = "what changes at every call, as a Python number in the batch, is compiled anew: make it a tensor"
            raise LossNotDifferentiableError(
                f"torch.compile cannot take this loss ({type(failure).__name__}: {why}). {REMEDY}"
            ) from failure
        if program.new:
            self._compare(program, part, theta, *others)
            program.new = False
        return found

    def _program(self, function: Callable) -> Program:
        """That of the modules as they are: the compiler sees no change of hooks, nor of a class's ``forward``."""
        modules = [(type(m).forward, m.training, *map(id, _hooks(m))) for m in self.around.modules()]
        key = id(self), function, *modules  # a deep copy has programs of its own
        if key not in self._programs:
            self._programs[key] = Program(function)
        return self._programs[key]

    def _call(self, program: Program, part: BatchLoss, theta: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        states, attributes = part.replay.states(outside=True), attributes_kept(self.around.model)
        with LENDING, states, attributes, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return program.run(self, (part.constants(theta.dtype), part.batch_in(theta.dtype)), theta, *others)

    def _compare(self, program: Program, part: BatchLoss, theta: Tensor, lam: Tensor, *along: Tensor) -> None:
        """Compiled code is out of reach of the swaps that make derivatives exact, and of replayed generators."""
        y = beside(theta, self.layout.sizes, NEAR)
        if not bool((value := self._plain(part, y)).isfinite()):
            y, value = theta, self._plain(part, theta)
        g, hv = gradient_and_product(part, y, lambda g: along[0] if along else g + lam * y)
        g = g + lam * y
        v = along[0] if along else g
        right = value + (lam * y * y).sum() / 2, g, hv + lam * v
        found = self._call(program, part, y, lam, *along)
        eps = torch.finfo(theta.dtype).eps
        for name, x, own in zip(NAMES[-len(found) :], found, right[-len(found) :], strict=True):
            # by tensor, to what the rounding of the whole leaves; H of a linear function is zero
            noise = rounding(float(norm(own.reshape(-1)) + norm(g) * norm(v) / scale(y)), eps)
            blocks = [b.reshape(-1).split(self.layout.sizes if b.ndim else 1) for b in (x, own)]
            errors = [float(norm(a - b)) / (float(norm(b)) + noise / eps**0.5) for a, b in zip(*blocks, strict=True)]
            if not max(errors) <= eps**0.5:
                raise LossNotDifferentiableError(
                    f"the compiled {name} is off by {max(errors):.2g} in one tensor: a fused operation of torch's, a "
                    "function with its own backward pass, or a loss that takes derivatives itself is the usual cause. "
                    f"{REMEDY}"
                )

    def _plain(self, part: BatchLoss, theta: Tensor) -> Tensor:
        """[] the loss, uncompiled; raises what it raises itself, or that it draws random numbers."""
        parts = part.parts(theta)
        value, generators = part.within(parts, lambda: (part.value(parts).detach(), part.replay.drawn_from()))
        if generators:
            raise LossNotDifferentiableError(
                f"the loss draws random numbers from {' and '.join(generators)}, of which compiled code has others. "
                f"{REMEDY}"
            )
        return value

    def expanded(self, constants: Any, theta: Tensor, lam: Tensor) -> Any:
        """(gradient, value), and the product of their Jacobian with a vector, to be compiled."""
        fixed, batch = constants

        def loss(y: Tensor) -> Tensor:
            parts = list(self.layout.unflatten(y).values())
            state = fixed | {name: parts[i] for name, i in self.around.places}
            run = (lambda: self.loss_fn(self.around.model, batch),)
            value = functional_call(self.around, state, run, tie_weights=False)
            return value.reshape(()) + (lam * y * y).sum() / 2

        return vjp(grad_and_value(loss), theta)


def _gradient_and_along(of: Compiled, constants: Any, theta: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (g, value), pull = of.expanded(constants, theta, lam)
    return value, g, pull((g, torch.zeros_like(value)))[0]


def _along(of: Compiled, constants: Any, theta: Tensor, lam: Tensor, v: Tensor) -> tuple[Tensor]:
    (_, value), pull = of.expanded(constants, theta, lam)
    return (pull((v, torch.zeros_like(value)))[0],)


def _hooks(m: Any) -> list[Any]:
    return [*m._forward_pre_hooks.values(), *m._forward_hooks.values()]
