"""What cannot be an objective is refused: which error, and what its text says to do."""

from itertools import count

import numpy as np
import pytest
import torch
from awkward import Once
from problems import cross_entropy, network, randn, tanh_mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from eom.errors import (
    DataError,
    EomError,
    EomWarning,
    LossNotDeterministicError,
    LossNotDifferentiableError,
    LossNotFiniteError,
    LossNotScalarError,
    ParametersError,
    SettingError,
)
from eom.objective import Objective

X = randn(5, 3)


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def linear(**settings) -> nn.Linear:
    return nn.Linear(3, 2, **settings)


# The loss

NUMBERS = np.random.default_rng(0)
OTHER = nn.Linear(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (lambda m, b: m(b), r"shape \[5, 2\] \(real\), expected one real number: reduce it with .mean\(\)"),
        (lambda m, b: m(b).sum().item(), "returned a float, expected a tensor.*not .item"),
        (lambda m, b: (m(b).sum(), 1), "returned a tuple, expected a tensor"),
        (lambda m, b: None, "returned a NoneType, expected a tensor"),
        (lambda m, b: (m(b) + 1j).sum(), r"\(complex\), expected one real number"),
    ],
    ids=["vector", "float", "tuple", "None", "complex"],
)
def test_a_loss_that_is_not_one_real_number_as_a_tensor_is_refused(loss, complaint):
    objective = Objective(linear(), loss, X)
    for evaluate in (objective.loss, objective.gradient, objective.expansion):
        with pytest.raises(LossNotScalarError, match=complaint):
            evaluate(objective.theta())


def test_a_loss_of_one_entry_is_one_number():
    objective = Objective(linear(), lambda m, b: squares(m, b).reshape(1, 1), X)
    assert objective.loss(objective.theta()).shape == ()
    assert objective.gradient(objective.theta()).shape == (8,)


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (lambda m, b: m(b).sum() * float("nan"), "the loss is nan at these parameters.*look at the data"),
        (lambda m, b: m(b).sum() + float("inf"), "the loss is inf at these parameters"),
        (
            lambda m, b: (0 * m(b)).norm() + torch.sqrt(0 * m.bias.sum()),
            "gradient of '.*' is not finite though the loss",
        ),
    ],
    ids=["nan", "inf", "gradient"],
)
def test_a_loss_or_gradient_that_is_not_finite_is_found_by_the_check(loss, complaint):
    with pytest.raises(LossNotFiniteError, match=complaint):
        Objective(linear(), loss, X).check()


def test_the_parameter_whose_gradient_is_not_finite_is_named():
    objective = Objective(linear(), lambda m, b: squares(m, b) + torch.sqrt(0 * m.bias.sum()), X)  # type: ignore
    with pytest.raises(LossNotFiniteError, match="gradient of 'bias'"):
        objective.check()


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, b: m(b).detach().sum(),
        lambda m, b: (m(b) > 0).sum(),
        lambda m, b: torch.ones(()),
        lambda m, b: torch.no_grad()(lambda: m(b).sum())(),
        lambda m, b: OTHER(b).sum(),
    ],
    ids=["detach", "count", "constant", "no_grad", "another model"],
)
def test_a_loss_that_does_not_depend_on_the_model_is_refused(loss):
    objective = Objective(linear(), loss, X)
    with pytest.raises(LossNotDifferentiableError, match=r"does not depend on .* parameter.*is the usual cause"):
        objective.gradient(objective.theta())


def test_a_gradient_of_exactly_zero_is_noted_where_the_loss_is_constant_and_refused_where_it_is_not():
    """As of a hinge that is satisfied; or of a model that enters through .data."""
    check = Objective(linear(), lambda m, b: 0 * m(b).sum(), X).check()
    assert check.passed
    assert [p.check for p in check.probes if p.verdict == "noted"] == [
        "the gradient is exactly zero, and the loss constant"
    ]
    hidden = Objective(linear(), lambda m, b: squares(m, b).detach() + 0 * m(b).sum(), X).check()
    assert not hidden.second


CALLS = count(1)


def counting(model: nn.Module, batch: Tensor) -> Tensor:
    return squares(model, batch) * next(CALLS)


def writing(model: nn.Module, batch: Tensor) -> Tensor:
    return squares(model, batch.mul_(0.9))


@pytest.mark.parametrize(
    ("loss", "cause"),
    [
        (lambda m, b: (m(b) * NUMBERS.standard_normal()).square().mean(), "A torch.Generator of one's own, a counter"),
        (counting, "so it is in the loss function. A torch.Generator of one's own, a counter"),
        (writing, "the loss writes to its batch in place; let it work on a clone"),
    ],
    ids=["numpy", "counter", "batch"],
)
def test_a_loss_that_differs_from_call_to_call_is_found_by_the_check(loss, cause):
    with pytest.raises(LossNotDeterministicError, match=cause):
        Objective(linear(), loss, X.clone()).check()


@pytest.mark.parametrize("order", [0, 3, "1", True])
def test_a_check_of_another_order_is_refused(order):
    with pytest.raises(SettingError, match=r"expected 1 .* or 2"):
        Objective(linear(), squares, X).check(order)


def test_vectors_that_are_none_are_refused():
    objective = Objective(linear(), squares, X)
    theta = objective.theta()
    with pytest.raises(SettingError, match=r"theta is a list, expected a tensor \[8\]"):
        objective.hvp(theta.tolist(), theta)  # type: ignore
    with pytest.raises(SettingError, match=r"v is of shape \[3\], expected a tensor \[8\]"):
        objective.hvp(theta, theta[:3])


def test_a_loss_that_raises_beside_the_parameters_is_refused_with_what_it_said():
    def bounded(model: nn.Module, batch: Tensor) -> Tensor:
        if not torch.equal(model.weight, weight):  # type: ignore
            raise ValueError("out of its domain")
        return squares(model, batch)

    model = linear()
    weight = model.weight.detach().clone()
    with pytest.raises(LossNotDifferentiableError, match=r"beside these parameters the loss raised ValueError: out of"):
        Objective(model, bounded, X).check()


def test_the_gradient_of_another_function_than_the_loss_is_told_from_that_of_none():
    check = Objective(linear(), lambda m, b: squares(m, b) + 0.1 * m.weight.square().sum().detach(), X).check()  # type: ignore
    assert not check.second
    assert "the derivative of another function than this loss, whose H is symmetric" in str(check)


def test_torchs_own_randomness_is_no_obstacle():
    def noisy(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(F.dropout(batch, 0.3)) + torch.randn(5, 2)).square().mean()

    assert Objective(linear(), noisy, X).check(2).passed


def test_a_second_derivative_that_does_not_exist_is_refused_with_the_way_out():
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return Once.apply(model(batch)).square().mean()  # type: ignore

    objective = Objective(linear(), loss, X)
    theta, v = objective.theta(), randn(8)
    assert objective.gradient(theta).any()
    with pytest.warns(EomWarning, match='mend its backward pass.*differences of gradients.*"difference"') as warned:
        assert objective.hvp(theta, v).any()
    assert warned[0].filename == __file__  # the line that asked
    with pytest.raises(LossNotDifferentiableError, match='product="difference"'):
        Objective(linear(), loss, X, product="double-backward").hvp(theta, v)
    assert Objective(linear(), loss, X, product="difference").hvp(theta, v).any()


def test_an_error_of_the_users_own_comes_through_as_it_is():
    def broken(model: nn.Module, batch: Tensor) -> Tensor:
        raise RuntimeError("a bug of mine")

    objective = Objective(linear(), broken, X)
    with pytest.raises(RuntimeError, match="a bug of mine") as caught:
        objective.loss(objective.theta())
    assert not isinstance(caught.value, EomError)


# The parameters


def frozen() -> nn.Module:
    return linear().requires_grad_(False)


class Scattered(nn.Module):
    """A sparse gradient by the function, which no look at the modules can find."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(4, 3))

    def forward(self, i: Tensor) -> Tensor:
        return F.embedding(i, self.table, sparse=True)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (frozen, "Linear has no trainable parameter; expected at least one with requires_grad=True"),
        (nn.Tanh, "Tanh has no trainable parameter"),
        (lambda: nn.LazyLinear(2), "'weight' is not initialised yet: run the model once on a batch"),
        (lambda: nn.Sequential(linear(), nn.Linear(2, 2, device="meta")), "2 devices .*meta.*model.to"),
        (lambda: linear(dtype=torch.complex128), "'weight' is torch.complex128.*torch.view_as_real"),
        (lambda: nn.Sequential(linear(), nn.Linear(2, 2).float()), "2 dtypes .*float32.*model.to"),
        (lambda: nn.Embedding(4, 2, sparse=True), "Embedding '' gives sparse gradients.*sparse=False"),
        (lambda: nn.ModuleDict({"bag": nn.EmbeddingBag(4, 2, sparse=True)}), "EmbeddingBag 'bag' gives sparse"),
    ],
    ids=["frozen", "no parameters", "lazy", "two devices", "complex", "two dtypes", "sparse", "sparse bag"],
)
def test_parameters_that_cannot_stand_in_one_real_vector_are_refused(model, complaint):
    with pytest.raises(ParametersError, match=complaint):
        Objective(model(), squares, X)


def test_a_sparse_embedding_that_is_frozen_is_no_obstacle():
    table = nn.Embedding(4, 2, sparse=True).requires_grad_(False)
    objective = Objective(nn.Sequential(table, nn.Linear(2, 2)), squares, torch.tensor([1, 2]))
    assert objective.check().passed


def test_sparse_gradients_of_a_function_are_refused_at_the_first_gradient():
    objective = Objective(Scattered(), squares, torch.tensor([1, 2]))
    with pytest.raises(ParametersError, match="sparse=False"):
        objective.gradient(objective.theta())


@pytest.mark.parametrize("shape", [(82,), (84,), (1, 83), ()])
def test_theta_of_another_shape_is_refused(shape):
    objective = network("mlp")
    for evaluate in (objective.loss, objective.gradient, objective.expansion):
        with pytest.raises(SettingError, match=r"theta is of shape .*, expected a tensor \[83\]"):
            evaluate(torch.zeros(shape))


# The data


def generated():
    yield X


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (iter([(X,)]), "list_iterator, which can be read once.*Pass a list of batches"),
        (generated(), "generator, which can be read once"),
        (zip([X], [X], strict=True), "zip, which can be read once"),
        (DataLoader(TensorDataset(X), shuffle=True), "a DataLoader that shuffles.*Pass shuffle=False"),
        ([], "data holds no batch; expected at least one"),
        (DataLoader(TensorDataset(X[:0])), "data holds no batch"),
        (X[:0], "sum to 0.0, expected none below 0 and a positive, finite sum"),
    ],
    ids=["iterator", "generator", "zip", "shuffled", "empty list", "empty loader", "no samples"],
)
def test_data_that_is_not_the_same_batches_again_and_again_is_refused(data, complaint):
    with pytest.raises(DataError, match=complaint):
        Objective(linear(), squares, data)


@pytest.mark.parametrize("weights", [(-1.0, -1.0), (3.0, -1.0), (float("nan"), 1.0), (0.0, 0.0), (float("inf"), 1.0)])
def test_weights_that_make_no_mean_are_refused(weights):
    given = iter(weights)
    with pytest.raises(DataError, match="expected none below 0 and a positive, finite sum"):
        Objective(linear(), squares, [(X,), (X,)], weight=lambda batch: next(given))


NORMS = {
    "batchnorm": lambda: nn.BatchNorm1d(2),
    "without running statistics": lambda: nn.BatchNorm1d(2, track_running_stats=False).eval(),
    "sync": lambda: nn.SyncBatchNorm(2),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_batch_statistics_over_several_batches_are_refused_unless_asked_for_by_name(norm):
    model = nn.Sequential(linear(), norm())
    with pytest.raises(DataError, match=r"2 batches.*model.eval\(\).*per_batch_statistics=True"):
        Objective(model, squares, [(X,), (X,)])
    assert len(Objective(model, squares, [(X,), (X,)], per_batch_statistics=True).batches) == 2
    assert len(Objective(model, squares, X).batches) == 1


def test_running_statistics_over_several_batches_are_no_obstacle():
    model = nn.Sequential(linear(), nn.BatchNorm1d(2)).eval()
    assert len(Objective(model, squares, [(X,), (X,)]).batches) == 2


# Settings


@pytest.mark.parametrize(
    ("decay", "complaint"),
    [
        (-1.0, "decay is -1.0, expected a finite number, 0 or more"),
        (float("nan"), "decay is nan, expected a finite number"),
        ({"bias": -0.5}, "decay is -0.5, expected a finite number"),
        ({"nope": 0.1}, "decay names 'nope', which is no trainable parameter"),
        (torch.ones(3), r"decay has shape \[3\], expected \[8\]"),
        (torch.full((8,), float("inf")), "decay is inf, expected a finite number"),
    ],
    ids=["negative", "nan", "negative by name", "unknown name", "short", "infinite entry"],
)
def test_a_decay_that_makes_no_penalty_is_refused(decay, complaint):
    with pytest.raises(SettingError, match=complaint):
        Objective(linear(), squares, X, decay)


def test_an_unknown_product_is_refused():
    with pytest.raises(SettingError, match="expected one of 'auto', 'double-backward', 'difference', 'compiled'"):
        Objective(linear(), squares, X, product="magic")


def test_a_compiled_or_wrapped_model_is_the_model_inside():
    model, batch = tanh_mlp()
    compiled = torch.compile(model, backend="eager")
    assert Objective(compiled, cross_entropy, batch).model is model  # type: ignore
    assert Objective(nn.DataParallel(model), cross_entropy, batch).model is model
