"""Exact evaluation: fused operations whose higher derivatives are wrong or missing, swapped for plain ones."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from eom.calculus import compositions as plain
from eom.calculus import norms, solutions

Table = dict[Callable, Callable]

SECOND: Table = {  # second derivatives are wrong or missing
    F.scaled_dot_product_attention: plain.scaled_dot_product_attention,
    F.multi_head_attention_forward: plain.multi_head_attention_forward,
    F.embedding_bag: plain.embedding_bag,
    F.hardsigmoid: plain.hardsigmoid,
    F.linear_cross_entropy: plain.linear_cross_entropy,
    F.ctc_loss: plain.ctc_loss,
    F.l1_loss: plain.l1_loss,
    torch.ctc_loss: plain.ctc_loss,
    torch.cdist: plain.cdist,
    torch.pdist: plain.pdist,
    torch._weight_norm: norms.weight_norm,  # type: ignore[attr-defined] - what torch.nn.utils calls
}
THIRD: Table = {  # second derivatives are right, third ones are not
    F.layer_norm: norms.layer_norm,
    torch.layer_norm: norms.layer_norm,
    torch.native_layer_norm: norms.native_layer_norm,
    F.batch_norm: norms.batch_norm,
    torch.batch_norm: norms.native_batch_norm,
    F.instance_norm: norms.instance_norm,
    torch.instance_norm: norms.native_instance_norm,
    F.conv_transpose1d: plain.conv_transpose1d,
    F.conv_transpose2d: plain.conv_transpose2d,
    F.conv_transpose3d: plain.conv_transpose3d,
}

DERIVATIVES = {  # every way of taking one, ``torch.func`` included, passes through these
    torch.autograd.grad,
    torch.autograd.backward,
    torch.Tensor.backward,
    torch._make_dual,  # type: ignore[attr-defined] - what forward mode begins with
}


def _with_operators(table: Table) -> Table:
    """The same functions under ``torch.ops.aten`` too."""
    builtins = {f.__name__: p for f, p in table.items() if getattr(torch, f.__name__, None) is f}
    packets = {getattr(torch.ops.aten, name): p for name, p in builtins.items()}
    return table | packets | {getattr(f, o): p for f, p in packets.items() for o in f.overloads() if o != "out"}


NESTED: Table = {  # derivatives in forward mode are right, those of them are not
    torch.linalg.solve: solutions.solve,
    torch.linalg.solve_ex: solutions.solve_ex,
    torch.linalg.tensorsolve: solutions.tensorsolve,
    **{
        f: getattr(solutions, f.__name__)
        for kind in (torch, torch.Tensor)
        for f in (kind.det, kind.slogdet, kind.logdet)
    },
    torch.linalg.det: solutions.det,
    torch.linalg.slogdet: solutions.slogdet,
    torch.cholesky_inverse: solutions.cholesky_inverse,
    torch.Tensor.cholesky_inverse: solutions.cholesky_inverse,
    F.glu: plain.glu,
}
TABLES = {2: _with_operators(SECOND), 3: _with_operators(SECOND | THIRD)}
IN_FORWARD_MODE = _with_operators(SECOND | THIRD | NESTED)


class _Swap(TorchFunctionMode):
    """Sees every torch function that Python calls; code inside TorchScript or a compiled graph it does not see."""

    def __init__(self, table: Table):
        super().__init__()
        self.table = table
        self.differentiates = False  # what it has seen takes derivatives itself

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in DERIVATIVES:
            self.differentiates = True
        return self.table.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def exact(order: int) -> Iterator[_Swap]:
    """Inside, functions can be differentiated ``order`` (2 or 3) times, if only torch's fused operations forbid it.

    Values and gradients are those of the fused operations to rounding. Backward passes belong inside as well:
    checkpointed segments are evaluated again in them (there, attention is swapped and nothing else, as torch runs
    backward passes outside such modes). Compiled modules and functions run as they were written.
    """
    with _swapping(TABLES[order]) as swap:
        yield swap


def nested() -> AbstractContextManager:
    """Inside, derivatives in forward mode can be differentiated again."""
    return _swapping(IN_FORWARD_MODE)


@contextmanager
def _swapping(table: Table) -> Iterator[_Swap]:
    with as_written(), sdpa_kernel(SDPBackend.MATH), _Swap(table) as swap:
        yield swap


def as_written() -> AbstractContextManager:
    """Compiled code runs uncompiled; there is none where the compiler was never loaded, which takes seconds."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
