"""How each torch function's discrete Jacobian pulls back, J_g (u - v) = g(u) - g(v): the rules of ``discrete``.

- affine functions: their vjp, which is the same everywhere;
- those of degree two in what varies (products): the mean of the vjps at u and v, which is the one at the midpoint;
- elementwise ones: w s[u, v], with the divided differences of ``divided``;
- what torch fuses: written out, in ``pair_compositions`` with ``pair_powers`` and ``pair_activations``;
- any other: the rank-one rule J = J_m + (g(u) - g(v) - J_m d) d^T / |d|^2 for each sample, J_m the mean of both.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from eom.calculus import divided
from eom.calculus.discrete import Pair, Step, Two, elementwise
from eom.calculus.pair_compositions import COMPOSED, opened
from eom.calculus.wide import Wide
from eom.errors import DiscreteError

Function = Callable[..., Tensor]


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = words(
    "view view_as reshape reshape_as flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t T "
    "mT squeeze unsqueeze expand expand_as broadcast_to narrow select getitem diagonal split chunk unbind "
    "tensor_split split_with_sizes contiguous to real imag unfold ravel atleast_1d atleast_2d"
)
AFFINE = VIEWS | words(
    "repeat tile roll flip fliplr flipud rot90 index_select gather take take_along_dim diag tril triu fold "
    "im2col col2im sum mean cumsum neg negative positive clone float double type type_as diff trace pad "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "upsample_nearest1d upsample_nearest2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "pixel_shuffle pixel_unshuffle add sub subtract rsub cat concat concatenate stack hstack vstack dstack "
    "column_stack fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 view_as_real "
    "view_as_complex complex conj conj_physical resolve_conj index_put"
)
QUADRATIC = words("square var")
# affine in each of two arguments; what else they take is constant
PRODUCTS = QUADRATIC | words(
    "mul multiply matmul mm bmm mv dot inner outer ger einsum tensordot kron linear conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d bilinear"
)
ELEMENTWISE: dict[str, tuple[Function, Function]] = {
    "tanh": (torch.tanh, divided.tanh),
    "sigmoid": (torch.sigmoid, divided.sigmoid),
    "expit": (torch.sigmoid, divided.sigmoid),
    "sin": (torch.sin, divided.sin),
    "cos": (torch.cos, divided.cos),
    "sinh": (torch.sinh, divided.sinh),
    "cosh": (torch.cosh, divided.cosh),
    "exp": (torch.exp, divided.exp),
    "expm1": (torch.expm1, divided.exp),
    "log": (torch.log, divided.log),
    "log1p": (torch.log1p, divided.log1p),
    "erf": (torch.erf, divided.erf),
    "atan": (torch.atan, divided.atan),
    "arctan": (torch.atan, divided.atan),
    "sqrt": (torch.sqrt, divided.sqrt),
    "rsqrt": (torch.rsqrt, divided.rsqrt),
    "reciprocal": (torch.reciprocal, divided.reciprocal),
    "relu": (torch.relu, divided.relu),
}
CHOICES = words(
    "gt lt ge le eq ne greater less greater_equal less_equal not_equal isnan isinf isfinite logical_and "
    "logical_or logical_not logical_xor and or xor invert bitwise_not argmax argmin argsort any all bool long "
    "int signbit zeros_like ones_like empty_like full_like new_zeros new_ones new_full rand_like randn_like"
)
ABOUT = words(
    "shape dtype device size dim ndim ndimension numel nelement __len__ layout is_floating_point is_complex "
    "get_device stride requires_grad is_sparse is_quantized is_nested is_cuda is_cpu is_contiguous names "
    "element_size is_mkldnn is_leaf grad_fn __repr__ __format__ __hash__ result_type is_same_size is_meta is_mps "
    "is_xla itemsize nbytes _is_view is_conj is_neg requires_grad_"
)
LEAVES = words("item tolist numpy __array__ __float__ __int__ __index__ __complex__ data detach data_ptr")


def apply(func: Callable, args: tuple, kwargs: dict) -> Any:
    """What ``func`` does where some of its arguments are pairs."""
    raw = named(func)
    if raw in ABOUT:
        with DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
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


KNOWN = AFFINE | PRODUCTS | CHOICES | ELEMENTWISE.keys()


def named(func: Callable) -> str:
    """The name of a function, or of the property whose getter it is."""
    name = getattr(func, "__name__", "") or type(func).__name__
    return func.__self__.__name__ if name == "__get__" else name  # type: ignore[attr-defined]


def decided(pair: Pair) -> bool:
    """A condition, where both states give the same answer."""
    one, other = bool(pair.two.u), bool(pair.two.v)
    if one != other:
        raise DiscreteError(
            "the energy takes one branch at u and another at v: write it with torch.where, relu or maximum"
        )
    return one


def stepped(name: str, func: Callable, args: tuple, kwargs: dict) -> Any:
    """Values at u and at v, and the pull between them, by the kind of function that ``name`` is."""
    pairs: list[Pair] = []
    within((args, kwargs), pairs.append)
    tape, came = pairs[0].tape, list(dict.fromkeys(x.two for x in pairs))
    if name in ELEMENTWISE and not pairs[0].two.u.is_complex():
        return elementwise(pairs[0], *ELEMENTWISE[name])
    moving = [x for x in came if x.u.requires_grad]
    if name in ("mul", "multiply") and len(came) == 2 and len(moving) == 1:
        return gated(*sorted(pairs, key=lambda x: x.two not in moving))
    affine = name in AFFINE or (name in PRODUCTS - QUADRATIC and len(pairs) == 1)
    ranked = not affine and name not in CHOICES and (name not in PRODUCTS or len(pairs) > 2)
    if ranked and {x.u.dtype for x in moving} == {torch.float32}:
        return doubled(pairs, name, func, args, kwargs)

    def at(side: str) -> tuple[list[Tensor], Any]:
        """The result, of aliases of what moves: each may have been made of another."""
        local = {x: getattr(x, side) for x in came}
        local |= {x: local[x].view_as(local[x]) for x in moving}
        own_args, own_kwargs = within((args, kwargs), lambda x: local[x.two])
        with torch.set_grad_enabled(name not in CHOICES):
            return [local[x] for x in moving], func(*own_args, **own_kwargs)

    (in_u, found_u), (in_v, found_v) = at("u"), at("v")
    flat_u, form = tree_flatten(found_u)
    went = {i: Two(a, b) for i, (a, b) in enumerate(zip(flat_u, tree_flatten(found_v)[0], strict=True)) if is_tensor(a)}
    ends = [x for x in went.values() if x.u.requires_grad]

    def pull(ws: list[Tensor]) -> list[Tensor]:
        if affine:
            return vjp([x.u for x in ends], in_u, ws, tape.train)
        both = vjp([x.u for x in ends] + [x.v for x in ends], in_u + in_v, ws + ws, tape.train)
        mean = [(a + b) / 2 for a, b in zip(both[: len(in_u)], both[len(in_u) :], strict=True)]
        return corrected(mean, moving, ends, ws, tape.samples) if ranked else mean

    if ends:
        tape.steps.append(Step(moving, ends, pull))
    shared = name in VIEWS
    for x in pairs if shared else ():
        x.shared = True
    wrapped = [Pair.of(went[i], tape, shared=shared) if i in went else x for i, x in enumerate(flat_u)]
    return tree_unflatten(wrapped, form)


def doubled(pairs: list[Pair], name: str, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The same in double precision: the rank-one rule divides a difference by d."""
    wide = {x.two: x.double() for x in pairs if x.dtype is torch.float32}
    args, kwargs = within((args, kwargs), lambda x: wide.get(x.two, x))
    with Wide(torch.float32, torch.float64):
        found = stepped(name, func, args, kwargs)
    return tree_map(lambda x: x.float() if isinstance(x, Pair) and x.dtype is torch.float64 else x, found)


def within(x: Any, change: Callable[[Pair], Any]) -> Any:
    """Arguments with ``change`` of each of their pairs in its place."""
    if isinstance(x, Pair):
        return change(x)
    if type(x) in (tuple, list):
        return type(x)([within(y, change) for y in x])
    return {name: within(y, change) for name, y in x.items()} if type(x) is dict else x


def is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def where(mask: Any, a: Any, b: Any) -> Pair:
    """a or b; where the choice changes between v and u, t a + (1 - t) b on the way, with the t that is exact."""
    tape = next(x for x in (mask, a, b) if isinstance(x, Pair)).tape
    floats = next((x.dtype for x in (a, b) if isinstance(x, Tensor) and x.is_floating_point()), None)
    (choose_u, choose_v), (a_u, a_v), (b_u, b_v) = (
        (x.two.u, x.two.v)
        if isinstance(x, Pair)
        else (torch.as_tensor(x, dtype=floats if isinstance(x, float) else None),) * 2
        for x in (mask, a, b)
    )
    went = Two(torch.where(choose_u, a_u, b_u), torch.where(choose_v, a_v, b_v))
    d_a, d_b = a_u - a_v, b_u - b_v
    across = (choose_u != choose_v) & (d_a != d_b)
    share = (went.u - went.v - d_b) / torch.where(across, d_a - d_b, 1.0)
    t = torch.where(across, share, choose_u.to(went.u.dtype))
    came = [(x.two, s) for x, s in ((a, t), (b, 1 - t)) if isinstance(x, Pair)]
    if came:
        pull = lambda ws: [of_kind(x, ws[0] * s.conj()) for x, s in came]  # noqa: E731 - one line of use
        tape.steps.append(Step([x for x, _ in came], [went], pull))
    return Pair.of(went, tape)


def gated(x: Pair, gate: Pair) -> Pair:
    """gate x, of a gate that is chosen, as x > 0: where it changes from v to u, the share of x that is exact."""
    (x_u, x_v), (gate_u, gate_v) = ((y.two.u, y.two.v) for y in (x, gate))
    went, d = Two(gate_u * x_u, gate_v * x_v), x_u - x_v
    across = (gate_u != gate_v) & (d != 0)
    share = torch.where(across, (went.u - went.v) / torch.where(across, d, 1.0), gate_u.to(d.dtype))
    x.tape.steps.append(Step([x.two], [went], lambda ws: [of_kind(x.two, ws[0] * share.conj())]))
    return Pair.of(went, x.tape)


def of_kind(x: Two, w: Tensor) -> Tensor:
    """A weight of x, of what was broadcast from it, real where x is."""
    found = w.sum_to_size(x.u.shape)
    return found if x.u.is_complex() else found.real


def vjp(outs: list[Tensor], ins: list[Tensor], ws: list[Tensor], train: bool) -> list[Tensor]:
    found = torch.autograd.grad(
        outs, ins, ws, create_graph=train, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return list(found)


def corrected(mean: list[Tensor], came: list[Two], went: list[Two], ws: list[Tensor], samples: int) -> list[Tensor]:
    """The rank-one rule, J_m^T w + d (dg . w - d . J_m^T w) / |d|^2, where |d| and the bracket are above rounding."""
    every = all(x.u.ndim and len(x.u) == samples for x in (*came, *went))
    if not samples:
        return mean
    shape = (samples if every else 1, -1)

    def dot(one: list[Tensor], other: list[Tensor]) -> Tensor:
        products = [(a * b.conj()).real.reshape(shape).sum(1) for a, b in zip(one, other, strict=True)]
        return torch.stack(products).sum(0)

    d = [x.u - x.v for x in came]
    mean = [torch.where((x != 0) & ~g.isfinite(), 0.0, g) for x, g in zip(d, mean, strict=True)]  # as x log x at 0
    size = dot([x.u for x in came], [x.u for x in came]) + dot([x.v for x in came], [x.v for x in came])
    square, off = dot(d, d), dot([x.u - x.v for x in went], ws) - dot(d, mean)
    eps = torch.finfo(square.dtype).eps
    rounding = 4 * eps * dot([x.u.abs() + x.v.abs() for x in went], [w.abs() for w in ws])  # of g(u), g(v), both terms
    far = (square > size * (100 * eps) ** 2) & (off.abs() >= rounding)
    share = torch.where(far, off, 0.0) / torch.where(far, square, 1.0)
    return [g + (x.reshape(shape) * share[:, None]).view_as(x) for g, x in zip(mean, d, strict=True)]


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
