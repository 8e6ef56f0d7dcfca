"""One batch or many: the same loss, the memory of one, and the same batches on every pass."""

import weakref
from collections import namedtuple
from functools import partial
from typing import ClassVar

import pytest
import torch
from problems import classes, cross_entropy, randn, tanh_mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eom.errors import DataError
from eom.objective import Objective
from eom.objective.data import checksum, digest, in_dtype, is_one_batch, length, same, tensors

assert_exact = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)
SIZES = [1, 10, 3, 10]


def uneven() -> list[tuple[Tensor, Tensor]]:
    _, (x, labels) = tanh_mlp()
    return list(zip(x.split(SIZES), labels.split(SIZES), strict=True))


@pytest.mark.parametrize(
    "data", [uneven(), DataLoader(TensorDataset(*tanh_mlp()[1]), batch_size=7)], ids=["list", "loader"]
)
def test_micro_batches_of_uneven_size_are_the_objective_of_all_samples(data):
    model, batch = tanh_mlp()
    whole, parts = Objective(model, cross_entropy, batch, 0.1), Objective(model, cross_entropy, data, 0.1)
    theta, u, v = whole.theta(), randn(whole.layout.n, seed=1), randn(whole.layout.n, seed=2)
    assert len(parts.batches) == 4
    assert_exact(parts.loss(theta), whole.loss(theta))
    assert_exact(parts.gradient(theta), whole.gradient(theta))
    assert_exact(parts.hvp(theta, v), whole.hvp(theta, v))
    assert_exact(parts.third(theta, u, v), whole.third(theta, u, v))
    value, gradient, hvp = parts.expansion(theta)
    assert_exact(value, whole.loss(theta))
    assert_exact(gradient, whole.gradient(theta))
    assert_exact(hvp(v), whole.hvp(theta, v))


def test_a_weight_of_ones_own_takes_the_place_of_the_number_of_samples():
    model, _ = tanh_mlp()
    objective = Objective(model, cross_entropy, uneven(), weight=lambda batch: float(batch[1].sum()))
    theta = objective.theta()
    weights = [float(labels.sum()) for _, labels in uneven()]
    losses = [cross_entropy(model, batch).item() for batch in uneven()]
    expected = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    assert objective.loss(theta) == pytest.approx(expected, rel=1e-12)


class Token:
    """Stands for the memory of one graph."""


class Counted(torch.autograd.Function):
    """The identity, with a token that lives as long as its graph; differentiable any number of times."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()
    most = 0

    @staticmethod
    def forward(ctx, x):
        ctx.token = Token()
        Counted.alive.add(ctx.token)
        Counted.most = max(Counted.most, len(Counted.alive))
        return x.clone()

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return Counted.apply(g)


@pytest.mark.parametrize("action", ["loss", "gradient", "hvp", "third", "expansion"])
def test_memory_does_not_grow_with_the_number_of_micro_batches(action):
    """Graphs alive at one moment, counted by a function that leaves a token in each."""
    model, (x, labels) = tanh_mlp()

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(Counted.apply(model(batch[0])), batch[1])  # type: ignore

    def most_alive(parts: int) -> int:
        objective = Objective(model, loss, list(zip(x.chunk(parts), labels.chunk(parts), strict=True)))
        theta = objective.theta()
        Counted.most = len(Counted.alive)
        do = {
            "loss": lambda: objective.loss(theta),
            "gradient": lambda: objective.gradient(theta),
            "hvp": lambda: objective.hvp(theta, theta),
            "third": lambda: objective.third(theta, theta, theta),
            "expansion": lambda: objective.expansion(theta).hvp(theta),
        }
        do[action]()
        return Counted.most

    assert most_alive(12) == most_alive(3) > 0
    assert not Counted.alive


def test_the_data_is_read_anew_at_every_evaluation_and_not_kept():
    reads = 0

    class Reading:
        def __iter__(self):
            nonlocal reads
            reads += 1
            return iter(uneven())

    model, _ = tanh_mlp()
    objective = Objective(model, cross_entropy, Reading())
    objective.gradient(objective.theta())
    objective.gradient(objective.theta())
    assert reads == 3


# The same batches on every pass


class Changing:
    """Yields other batches on each pass: shuffled, shorter, or longer."""

    def __init__(self, *passes):
        self.passes, self.at = passes, -1

    def __iter__(self):
        self.at = min(self.at + 1, len(self.passes) - 1)
        return iter(self.passes[self.at])


@pytest.mark.parametrize(
    ("again", "complaint"),
    [
        (lambda x: x[::-1], "batch 0 differs from the first pass.*shuffle=False"),
        (lambda x: x[:3], "gave 3 batches, the first one 4"),
        (lambda x: [*x, x[0]], "batch 4 differs from the first pass"),
        (lambda x: [(a + 1, b) for a, b in x], "batch 0 differs from the first pass"),
    ],
    ids=["shuffled", "shorter", "longer", "augmented"],
)
def test_a_pass_that_differs_from_the_first_is_refused(again, complaint):
    model, _ = tanh_mlp()
    objective = Objective(model, cross_entropy, Changing(uneven(), again(uneven())))
    with pytest.raises(DataError, match=complaint):
        objective.gradient(objective.theta())


def test_a_loader_that_shuffles_by_a_sampler_of_its_own_is_refused_at_the_second_pass():
    _, batch = tanh_mlp()
    data = TensorDataset(*batch)
    sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(data), 6, False)
    objective = Objective(tanh_mlp()[0], cross_entropy, DataLoader(data, batch_sampler=sampler))
    with pytest.raises(DataError, match="differs from the first pass"):
        objective.loss(objective.theta())


def test_batches_with_nan_in_them_are_still_the_same_batches():
    """A mask of NaN or infinities is data like any other."""
    batches = [(torch.tensor([1.0, torch.nan, -torch.inf, torch.inf]), torch.ones(4)) for _ in range(2)]

    def masked(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0].nan_to_num(0.0, 0.0, 0.0)[:, None].expand(4, 4)).square().mean()

    objective = Objective(tanh_mlp()[0], masked, batches)
    assert torch.isfinite(objective.loss(objective.theta()))


# Batches as they come

Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("data", "one"),
    [
        (torch.ones(3), True),
        ((torch.ones(3), torch.ones(3)), True),
        ({"x": torch.ones(3)}, True),
        ([torch.ones(3), torch.ones(3)], True),
        ([(torch.ones(3), torch.ones(3))], False),
        ([{"x": torch.ones(3)}], False),
        (DataLoader(TensorDataset(torch.ones(3))), False),
        (3.0, True),
        (None, True),
    ],
    ids=[
        "tensor",
        "tuple",
        "mapping",
        "list of tensors",
        "list of tuples",
        "list of mappings",
        "loader",
        "number",
        "none",
    ],
)
def test_one_batch_is_told_from_many(data, one):
    assert is_one_batch(data) is one


@pytest.mark.parametrize("wrap", [lambda x, y: (x, y), lambda x, y: {"x": x, "y": [y, "label"]}, Pair])
def test_batches_of_any_nesting_are_read_and_cast_alike(wrap):
    x, y = randn(5, 2), classes(5, 3, seed=1)
    batch = wrap(x, y)
    assert [t.shape for t in tensors(batch)] == [x.shape, y.shape]
    narrow = in_dtype(batch, torch.float32)
    assert type(narrow) is type(batch)
    assert [t.dtype for t in tensors(narrow)] == [torch.float32, torch.int64]
    assert length(batch) == 5.0
    assert same(batch, wrap(x.clone(), y.clone()))
    assert not same(batch, wrap(x + 1e-9, y))
    assert not same(batch, narrow)
    assert checksum(batch) == pytest.approx(float(x.sum() + y.sum()))


def test_a_digest_knows_entries_shapes_and_dtypes():
    x = randn(2, 3)
    others = [x + 1e-12, x.view(3, 2), x.float(), x.flip(0)]
    assert digest([x]) == digest([x.clone()])
    assert len({digest([y]) for y in [x, *others]}) == 5
