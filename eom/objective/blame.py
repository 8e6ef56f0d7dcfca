"""Who is to blame: the modules, parameters and generators behind a probe that failed."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from eom.calculus.products import ScalarFunction
from eom.objective.attributes import attributes_kept
from eom.objective.data import digest
from eom.objective.loss import BatchLoss

Wrong = Callable[[ScalarFunction, Tensor], bool]  # whether a derivative of f is wrong at z


@dataclass(frozen=True)
class Call:
    """One call of a module, from which it can be repeated alone."""

    module: nn.Module
    arguments: tuple[tuple, dict[str, Any]]
    tensors: dict[str, Tensor]  # parameters and buffers
    generator: Tensor

    def alone(self) -> tuple[ScalarFunction, Tensor]:
        """A smooth scalar of the module's outputs as a function of its inputs and parameters, and where it was."""
        leaves, tree = tree_flatten(self.arguments)
        inputs = [i for i, x in enumerate(leaves) if _is_real(x)]
        own = [k for k, x in self.tensors.items() if _is_real(x) and k in dict(self.module.named_parameters())]
        parts = [leaves[i] for i in inputs] + [self.tensors[k] for k in own]
        z = torch.cat([x.reshape(-1) for x in parts]) if parts else torch.zeros(0)

        def f(z: Tensor) -> Tensor:
            pieces = [x.view(p.shape) for x, p in zip(z.split([p.numel() for p in parts]), parts, strict=True)]
            given = list(leaves)
            for i, x in zip(inputs, pieces, strict=False):
                given[i] = x.clone()  # it may be written to
            state = {k: x.clone() for k, x in self.tensors.items()} | dict(zip(own, pieces[len(inputs) :], strict=True))
            args, kwargs = tree_unflatten(given, tree)
            with torch.random.fork_rng(), attributes_kept(self.module):
                torch.set_rng_state(self.generator)
                out = functional_call(self.module, state, args, kwargs)
            found = [x for x in tree_flatten(out)[0] if _is_real(x)]
            return sum((x.sin() + x.square() / 3).sum() for x in found)  # type: ignore[return-value] - tensors

        return f, z


def modules_to_blame(loss: BatchLoss, theta: Tensor, wrong: Wrong) -> list[str]:
    """Names of the innermost modules that are wrong alone, as "name (Type)"; none where the fault is elsewhere.

    Each module of one forward pass is repeated alone on its own inputs; only within those that are wrong the search
    goes on.
    """
    calls = _calls(loss, theta)
    model = loss.around.model
    scripted = [f"{name} (TorchScript)" for name, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]

    def is_wrong(name: str) -> bool:
        if name not in calls:  # a container that is not called itself
            return True
        try:
            f, z = calls[name].alone()
            return bool(z.numel()) and wrong(f, z)
        except Exception:  # what cannot be repeated alone cannot be blamed
            return False

    def guilty(module: nn.Module, path: str) -> Iterator[str]:
        children = [(f"{path}.{k}" if path else k, child) for k, child in module.named_children()]
        found = [g for name, child in children if is_wrong(name) for g in guilty(child, name)]
        if found:
            yield from found
        elif path in calls and path:
            yield f"{path} ({type(module).__name__})"

    found = list(dict.fromkeys(guilty(model, ""))) or scripted[:1]  # which cannot be looked into
    own = f"the model's own forward ({type(model).__name__})"
    return found or ([own] if "" in calls and is_wrong("") else [])


def parameters_to_blame(names: Sequence[str], wrong: Callable[[Sequence[str]], bool]) -> list[str]:
    """Those parameters along which a probe fails, by bisection."""
    if not names or not wrong(names):
        return []
    if len(names) == 1:
        return list(names)
    half = len(names) // 2
    return parameters_to_blame(names[:half], wrong) + parameters_to_blame(names[half:], wrong)


def first_to_differ(loss: BatchLoss, theta: Tensor) -> str:
    """Where two evaluations at the same point part: the first module that makes another output of the same input."""
    first, second = (_digests(loss, theta) for _ in range(2))
    for (name, taken, given), (_, taken_again, given_again) in zip(first, second, strict=False):
        if taken == taken_again and given != given_again:
            return f"the first module to differ is {name!r}" if name else "the model's own forward differs"
    return "no module differs on the same input, so it is in the loss function"


@contextmanager
def noting_casts(loss: BatchLoss, casts: dict[str, torch.dtype]) -> Iterator[None]:
    """Collect {type of device: dtype} of autocast, around the loss or around modules in it."""
    casts.update(loss.replay.autocast)

    def register(name: str, module: nn.Module) -> Any:
        def note(*_: Any) -> None:
            casts.update({d: torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)})

        return module.register_forward_pre_hook(note)

    with _hooked(loss.around.model, register):
        yield


class _Dtypes(TorchFunctionMode):
    """Collects the dtypes of all that torch's functions return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.seen |= {found.dtype} if isinstance(found, Tensor) else set()
        return found


def halves(loss: BatchLoss, theta: Tensor) -> list[str]:
    """Half precisions that a loss computes in, though theta is in a wider one."""
    with torch.no_grad(), _Dtypes() as dtypes:
        loss(theta)
    return [str(d).removeprefix("torch.") for d in (torch.bfloat16, torch.float16) if d in dtypes.seen]


def random_modules(model: nn.Module) -> list[str]:
    """Modules that draw random numbers in their present mode, as "name (Type)"."""

    def draws(m: nn.Module) -> bool:
        share = getattr(m, "p", None) if isinstance(m, nn.modules.dropout._DropoutNd) else getattr(m, "dropout", None)
        return m.training and ((isinstance(share, float) and share > 0) or isinstance(m, nn.RReLU))

    return [f"{name} ({type(m).__name__})" for name, m in model.named_modules() if draws(m)]


def reentrant(value: Tensor) -> bool:
    """Whether a loss was evaluated through a checkpoint whose parameters only ``.backward()`` finds."""
    return any(node.name() == "CheckpointFunctionBackward" for node in _graph(value))


def outside_parameters(value: Tensor, leaves: Sequence[Tensor]) -> list[weakref.ref[Tensor]]:
    """Trainable tensors other than ``leaves`` that a loss depends on; those made inside of it die with its graph."""
    found: dict[int, Tensor] = {}
    own = {id(x) for x in leaves}
    for node in _graph(value):
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in own:
            found[id(variable)] = variable
    return [weakref.ref(x) for x in found.values()]


def _graph(value: Tensor) -> Iterator[Any]:
    """The nodes of autograd's graph behind ``value``."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [after for after, _ in node.next_functions]


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


@contextmanager
def _hooked(model: nn.Module, register: Callable[[str, nn.Module], Any]) -> Iterator[None]:
    handles = [register(name, m) for name, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _calls(loss: BatchLoss, theta: Tensor) -> dict[str, Call]:
    """The first call of every module."""
    found: dict[str, Call] = {}

    def register(name: str, module: nn.Module) -> Any:
        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            state = dict(module.named_parameters()) | dict(module.named_buffers())
            kept = {k: x.detach().clone() for k, x in state.items()}
            given = tree_map_only(Tensor, lambda x: x.detach().clone(), (args, kwargs))
            found.setdefault(name, Call(module, given, kept, torch.get_rng_state()))

        return module.register_forward_pre_hook(note, with_kwargs=True)

    with _hooked(loss.around.model, register):
        loss(theta)
    return found


def _digests(loss: BatchLoss, theta: Tensor) -> list[tuple[str, str, str]]:
    """(name, digest of the inputs, of the outputs) of every call of a module, in the order in which they end."""
    found: list[tuple[str, str, str]] = []

    def register(name: str, module: nn.Module) -> Any:
        def note(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            found.append((name, _digest((args, kwargs)), _digest(output)))

        return module.register_forward_hook(note, with_kwargs=True)

    with _hooked(loss.around.model, register):
        loss(theta)
    return found


def _digest(values: Any) -> str:
    return digest(x for x in tree_flatten(values)[0] if isinstance(x, Tensor))
