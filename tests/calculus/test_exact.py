"""Swapped operations equal the fused ones, to rounding, with their side effects; what is not needed is not swapped."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import randn
from torch import Tensor, _weight_norm, nn  # type: ignore[attr-defined] - what torch.nn.utils calls
from torch.nn import functional as F

from eom.calculus import compositions as plain
from eom.calculus import norms
from eom.calculus.exact import exact

equal = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)  # some hundred roundings
EPS = 0.1  # of normalisations: two entries that are nearly equal would amplify rounding without bound


def values(*shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed).requires_grad_()


def assert_same(fused: Callable[..., Tensor], composed: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Values and gradients by all inputs."""
    one, other = fused(*inputs), composed(*inputs)
    equal(one, other)
    weights = randn(one.numel(), seed=9).view(one.shape)
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (one, other)), strict=True):
        equal(a, b)


@settings(max_examples=25)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=4), st.integers(1, 2), st.booleans(), st.integers(0, 99))
def test_layer_norm(shape, dims, affine, seed):
    normalized = shape[-dims:]
    weight, bias = (values(*normalized, seed=seed + k) if affine else None for k in (1, 2))
    assert_same(
        lambda x: F.layer_norm(x, normalized, weight, bias, EPS),
        lambda x: norms.layer_norm(x, normalized, weight, bias, EPS),
        values(*shape, seed=seed),
    )


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
@settings(max_examples=25)
@given(st.lists(st.integers(2, 4), min_size=3, max_size=4), st.booleans(), st.booleans(), st.integers(0, 99))
def test_norms_with_running_statistics(name, shape, own, tracked, seed):
    c = shape[1]
    statistics = [[torch.zeros(c), torch.ones(c)] if tracked or not own else [None, None] for _ in range(2)]
    fused, composed = (
        lambda x, w, b, where=where, s=s: getattr(where, name)(x, *s, w, b, own, 0.3, EPS)
        for where, s in zip((F, norms), statistics, strict=True)
    )
    assert_same(fused, composed, *(values(*s, seed=seed + k) for k, s in enumerate([shape, [c], [c]])))
    equal(statistics[0], statistics[1])


def test_batch_norm_of_vectors():
    fused, composed = (lambda x, where=where: where.batch_norm(x, None, None, training=True) for where in (F, norms))
    assert_same(fused, composed, values(5, 3))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_weight_norm(dim):
    g = torch.norm_except_dim(values(4, 3), 2, dim).detach().requires_grad_()
    assert_same(lambda v, g: _weight_norm(v, g, dim), lambda v, g: norms.weight_norm(v, g, dim), values(4, 3), g)


@settings(max_examples=40)
@given(st.data())
def test_embedding_bag(data):
    rows, width = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 3))
    mode = data.draw(st.sampled_from(["sum", "mean", "max"]))
    flat = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=8))
    padding = data.draw(st.none() | st.integers(-rows, rows - 1))
    last = data.draw(st.booleans())
    starts = [0, *sorted(data.draw(st.lists(st.integers(0, len(flat)), max_size=3)))]
    offsets = torch.tensor([*starts, len(flat)] if last else starts)
    kwargs = {"mode": mode, "include_last_offset": last, "padding_idx": padding}
    weights = [values(len(flat), seed=1)] if mode == "sum" else []

    def bag(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda table, *w: f(torch.tensor(flat), table, offsets, per_sample_weights=w[0] if w else None, **kwargs)

    if mode == "max":  # torch takes the first of equal entries: no gradients of ties
        equal(bag(F.embedding_bag)(values(rows, width)), bag(plain.embedding_bag)(values(rows, width)))
    else:
        assert_same(bag(F.embedding_bag), bag(plain.embedding_bag), values(rows, width), *weights)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_distances_with_some_that_are_zero(p):
    x = randn(4, 3)
    x[1] = x[0]
    y = torch.cat([x[2:], randn(2, 3, seed=1)])
    assert_same(partial(torch.cdist, p=p), partial(plain.cdist, p=p), x.requires_grad_(), y.requires_grad_())
    assert_same(partial(F.pdist, p=p), partial(plain.pdist, p=p), x)


@settings(max_examples=40)
@given(st.data())
def test_ctc_loss(data):
    kinds, blank = 4, data.draw(st.integers(0, 3))
    labels = st.sampled_from([k for k in range(kinds) if k != blank])
    words = data.draw(st.lists(st.lists(labels, max_size=3), min_size=1, max_size=3))
    lengths = torch.tensor([len(w) for w in words])
    times = torch.tensor([data.draw(st.integers(1, 6)) for _ in words])
    padded = torch.tensor([w + [blank] * (3 - len(w)) for w in words])
    joined = torch.tensor([k for w in words for k in w], dtype=torch.long)
    targets = joined if data.draw(st.booleans()) and len(joined) else padded
    kwargs = {"blank": blank, "reduction": data.draw(st.sampled_from(["none", "sum", "mean"])), "zero_infinity": True}

    def loss(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x: f(F.log_softmax(x, -1), targets, times, lengths, **kwargs)

    assert_same(loss(F.ctc_loss), loss(plain.ctc_loss), values(6, len(words), kinds))


def test_ctc_loss_of_what_cannot_be_aligned_is_infinite():
    args = F.log_softmax(randn(2, 1, 4), -1), torch.tensor([[1, 1, 2]]), torch.tensor([2]), torch.tensor([3])
    assert plain.ctc_loss(*args) == F.ctc_loss(*args) == torch.inf


def test_ctc_loss_of_one_sequence():
    x, target = F.log_softmax(randn(5, 4), -1), torch.tensor([1, 2])
    for reduction in ("none", "sum", "mean"):
        args = (x, target, torch.tensor(5), torch.tensor(2), 0, reduction)
        equal(plain.ctc_loss(*args), F.ctc_loss(*args))


@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "dilation"), [(2, 1, 1, 1), (3, 0, 2, 1), (2, 2, 0, 2), (2, (1,), (1,), 1)]
)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_transposed_convolutions(d, stride, padding, output_padding, dilation):
    fused, composed = (getattr(where, f"conv_transpose{d}d") for where in (F, plain))
    settings = (stride, padding, output_padding, 1, dilation)
    inputs = values(2, 3, *[4] * d), values(3, 2, *[3] * d, seed=1), values(2, seed=2)
    assert_same(lambda *xs: fused(*xs, *settings), lambda *xs: composed(*xs, *settings), *inputs)


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_norms_in_torchs_own_order_of_arguments(name):
    f, flag = getattr(torch, name), {"batch_norm": "training", "instance_norm": "use_input_stats"}[name]
    x, given = values(3, 4, 5), {flag: True, "momentum": 0.1, "eps": EPS, "cudnn_enabled": False}
    assert_same(lambda x: f(x, None, None, None, None, **given), lambda x: swapped(f, x, *[None] * 4, **given), x)
    assert_same(
        lambda x: f(x, None, None, None, None, *given.values()),
        lambda x: swapped(f, x, *[None] * 4, *given.values()),
        x,
    )


def swapped(f: Callable[..., Tensor], *args, **kwargs) -> Tensor:
    with exact(3):
        return f(*args, **kwargs)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_weights_that_torch_leaves_out_are_found(reduction):
    x, y, w = values(3, 4), values(3, 4, seed=1), values(3, 4, seed=2)
    weighted: Any = partial(F.l1_loss, reduction=reduction)  # whose stub has no weight
    assert_same(lambda *a: weighted(*a[:2], weight=a[2]), lambda *a: swapped(weighted, *a[:2], weight=a[2]), x, y, w)
    assert_same(weighted, lambda *a: swapped(nn.L1Loss(reduction=reduction), *a), x, y)


def test_hardsigmoid_in_place():
    x = randn(9)
    same = x.clone()
    assert plain.hardsigmoid(x, inplace=True) is x
    equal(x, F.hardsigmoid(same))


def test_attention_under_a_seed_drops_the_same_entries():
    attention = nn.TransformerEncoderLayer(8, 2, 16, 0.3, batch_first=True).double()
    x = randn(2, 5, 8)
    torch.manual_seed(3)
    fused = attention(x)
    torch.manual_seed(3)
    with exact(3):
        equal(attention(x), fused)


@pytest.mark.parametrize(("order", "name"), [(2, "NativeLayerNormBackward0"), (3, "AddBackward0")])
def test_layer_norm_is_swapped_for_third_derivatives_only(order, name):
    with exact(order):
        assert type(nn.LayerNorm(3)(values(2, 3))).__name__ == "Tensor"
        assert nn.LayerNorm(3)(values(2, 3)).grad_fn.name() == name


def test_nothing_is_swapped_outside():
    with exact(3):
        pass
    assert nn.LayerNorm(3)(values(2, 3)).grad_fn.name() == "NativeLayerNormBackward0"
