"""How each torch function's discrete Jacobian pulls back, J_g (u - v) = g(u) - g(v): the rules of ``discrete``.

- affine functions: their vjp, which is the same everywhere;
- those of degree two in what varies (products): the mean of the vjps at u and v, which is the one at the midpoint;
- elementwise ones: w s[u, v], with the divided differences of ``divided``;
- what torch fuses: written out, in ``pair_compositions`` with ``pair_powers`` and ``pair_activations``;
- choices, as torch.where: those of ``pair_choices``, with the share of each value that is exact;
- any other: the rank-one rule J = J_m + (g(u) - g(v) - J_m d) d^T / |d|^2 for each sample, J_m the mean of both.

``pair_kinds`` names those of each kind, ``pair_steps`` takes their steps.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from eom.calculus.compositions import settings_of
from eom.calculus.discrete import Pair
from eom.calculus.pair_choices import decided, where
from eom.calculus.pair_compositions import COMPOSED, opened
from eom.calculus.pair_kinds import ABOUT, KNOWN, LEAVES
from eom.calculus.pair_steps import stepped, within
from eom.errors import DiscreteError


def apply(func: Callable, args: tuple, kwargs: dict) -> Any:
    """What ``func`` does where some of its arguments are pairs."""
    raw, kwargs = named(func), settings_of(func, kwargs)
    if raw in ABOUT:
        return func(*within((args, kwargs), lambda x: x.two.u)[0], **kwargs)
    if raw == "requires_grad_":  # as all that varies does
        return args[0]
    if raw in LEAVES:
        raise DiscreteError(f"the energy makes a constant of what depends on its argument, by {raw}: leave that out")
    if raw == "__bool__":
        return decided(args[0])
    if raw == "__setitem__" or (raw.endswith("_") and not raw.endswith("__")):
        return written(raw, func, args, kwargs)
    if kwargs.get("inplace"):
        require_own(args[0])
        args[0].two = apply(func, args, kwargs | {"inplace": False}).two
        return args[0]
    name = raw.strip("_").removeprefix("special_")
    if name in ("max", "min") and len(args) > 1 and isinstance(args[1], Tensor):
        name += "imum"
    if name in ("where", "masked_fill") and len(args) == 3:
        x, y, z = args
        return where(y, x, z) if func is torch.Tensor.where else where(x, y, z) if name == "where" else where(y, z, x)
    if name in COMPOSED:
        with suppress(TypeError):  # arguments that it has not; then as any function, by torch's own
            return COMPOSED[name](*args, **kwargs)
    if name in KNOWN or not (inside := opened(func)):
        return stepped(name, func, args, kwargs)
    return inside(*args, **kwargs)


def named(func: Callable) -> str:
    """The name of a function, or of the property whose getter it is; with its module where that is not torch's own."""
    name = getattr(func, "__name__", "") or type(func).__name__
    module = getattr(func, "__module__", None) or "torch"
    if module.split(".")[0] != "torch" or (module.startswith("torch._ops.") and not module.endswith(".aten")):
        return f"{module}.{name}"
    return func.__self__.__name__ if name == "__get__" else name  # type: ignore[attr-defined] - of a method's wrapper


def require_own(target: Pair) -> None:
    """Raise where what is written in place is seen by another value."""
    if target.shared:
        raise DiscreteError(
            "the energy writes in place to a tensor that has views, or is one: make a new tensor instead"
        )


def written(raw: str, func: Callable, args: tuple, kwargs: dict) -> Any:
    """A value that is written in place, made anew."""
    target = args[0]
    if not isinstance(target, Pair):
        raise DiscreteError(
            "the energy writes what depends on its argument into a tensor that does not: make that with torch.stack, "
            "torch.cat or torch.where"
        )
    require_own(target)
    if raw == "__setitem__":
        _, place, value = args
        if isinstance(place, Pair) and place.dtype is torch.bool and (not isinstance(value, Tensor) or not value.ndim):
            mask = place.view(*place.shape, *[1] * (target.ndim - place.ndim))
            target.two = where(mask, value, target).two
            return target
        made = stepped("index_put", replaced, (target, place, value), {})
    else:
        plain = getattr(torch.Tensor, raw.removesuffix("_"), None)
        if plain is None:  # as of zero_ and of random numbers
            raise DiscreteError(f"the energy writes in place by {raw}: make a new tensor instead")
        made = plain(*args, **kwargs)
    target.two = made.two
    return target


def replaced(x: Tensor, place: Any, value: Any) -> Tensor:
    x = x.clone()
    x[place] = value
    return x
