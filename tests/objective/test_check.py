"""The self-test finds the derivatives that torch gets wrong, and passes the ones that it gets right."""

import pytest
import torch
from awkward import Once, Single
from problems import NETWORKS, cross_entropy, network, seeded, tanh_mlp
from torch import Tensor, nn

from eom.objective import Objective
from eom.objective.check import Check
from eom.testing import check_derivatives

DIFFERENCES, SYMMETRY, THIRD = (
    "H v against differences", "u . H v = v . H u", "T(v, v) against differences",
)  # fmt: skip


def objective_of(*layers, loss=None) -> Objective:
    """Two linear layers around ``layers``, in float64, on 24 samples."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), *(make() for make in layers), nn.Linear(6, 3)))
    return Objective(model, loss or cross_entropy, tanh_mlp()[1])


def failures(check: Check) -> list[str]:
    return [p.check for p in check.probes if p.verdict != "passed"]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_plain_operations_pass(name, order):
    check = network(name, decay=0.01).check(order)
    assert check.passed
    assert check.product == "double-backward"
    assert check.second
    assert check.third is (order == 2)
    assert check.dtype == "float64"
    assert all(p.remedy == "" for p in check.probes)
    assert len(check.probes) == 4 + (order == 2)


@pytest.mark.parametrize("order", [1, 2])
def test_relu_networks_pass_because_a_small_enough_step_crosses_no_kink(order):
    assert objective_of(nn.ReLU).check(order).passed


@pytest.mark.parametrize("order", [1, 2])
def test_a_linear_loss_passes(order):
    objective = objective_of(loss=lambda m, b: m[0].weight.sum() + 2 * m[0].bias.sum())
    assert objective.check(order).passed


@torch.jit.script
def fused_weight_norm(x: Tensor) -> Tensor:
    """Code that no swap of operations reaches."""
    return torch._weight_norm(x, x.sum(1, keepdim=True), 0)  # type: ignore[attr-defined]


class WeightNormed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return fused_weight_norm(x)


def test_a_wrong_double_backward_is_found_its_module_named_and_differences_take_its_place():
    objective = objective_of(nn.Tanh, WeightNormed)
    check = objective.check()
    assert set(failures(check)) <= {DIFFERENCES, SYMMETRY}
    assert check.product == "difference"
    assert check.second
    assert not check.third
    failed = check.failures[0]
    assert failed.value > 1e-2
    assert failed.route == "double-backward"
    assert "to blame: 2 (WeightNormed)" in failed.remedy
    assert 'product="difference"' in failed.remedy
    assert Objective(objective.model, cross_entropy, tanh_mlp()[1], product=check.product).check().passed


@pytest.mark.parametrize(
    "norm", [lambda: nn.LayerNorm(6), lambda: nn.BatchNorm1d(6)], ids=["LayerNorm", "BatchNorm in train mode"]
)
def test_a_wrong_third_derivative_that_cannot_be_swapped_is_found_and_its_module_named(norm):
    scripted = lambda: torch.jit.script(norm())  # noqa: E731
    check = objective_of(nn.Tanh, scripted, nn.Tanh).check(2)
    assert failures(check) == [THIRD]
    assert "log-map" in check.probes[-1].remedy
    assert "to blame: 2 (TorchScript)" in check.probes[-1].remedy
    assert check.product == "double-backward"
    assert not check.third
    assert objective_of(norm, nn.Tanh).check(2).passed


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(2, 6), lambda: nn.BatchNorm1d(6).eval()], ids=["Group", "eval"])
def test_norms_whose_third_derivatives_are_right_pass(norm):
    assert objective_of(norm, nn.Tanh).check(2).third


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, b: Once.apply(m[0](b[0])).square().mean(),
        lambda m, b: Once.apply(m(b[0])).square().mean(),
        lambda m, b: (Once.apply(m(b[0])) * m[0](b[0])[:, :3]).mean(),
    ],
    ids=["no graph at all", "no graph behind it", "its gradient taken for a constant"],
)
def test_a_function_that_can_be_differentiated_once_is_found_however_torch_takes_it(loss):
    """Depending on what stands around it torch raises, or leaves terms of the Hessian out without a word."""
    check = objective_of(loss=loss).check(2)
    assert failures(check)[0].startswith("H v")
    assert check.product == "difference"
    assert not check.third


class Swirl(torch.autograd.Function):
    """A sum of squares whose backward pass rolls its gradient around: the gradient of no function."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().sum()

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return 2 * g * ctx.saved_tensors[0].roll(1)


def test_a_gradient_that_is_no_gradient_is_found_by_its_asymmetry():
    """Double backward gives the transpose of its Jacobian, which the differences see as well."""
    check = objective_of(loss=lambda m, b: Swirl.apply(m[0].weight.flatten()) + m(b[0]).sum() / 9).check()
    assert failures(check) == ["gradient . v against the loss", SYMMETRY]
    assert "the gradient along '0.weight' is not the derivative of the loss" in check.reason
    assert check.product == "difference"
    assert not check.second


class WrongSquare(torch.autograd.Function):
    """Third derivative of x^3, 6, replaced by ``factor`` times it; value, gradient and Hessian are right."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return 6 * x

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return 6 * ctx.factor * g, None


class WrongParabola(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return 3 * x**2

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return g * WrongSquare.apply(ctx.saved_tensors[0], ctx.factor), None  # type: ignore


class WrongCube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x**3

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return g * WrongParabola.apply(ctx.saved_tensors[0], ctx.factor), None  # type: ignore


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.01, False), (0.99, False)])
def test_a_third_derivative_off_by_one_percent_is_found(factor, right):
    class Cube(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return WrongCube.apply(x, factor)  # type: ignore

    objective = objective_of(Cube, loss=lambda m, b: m(b[0]).sum())
    check = objective.check(2)
    assert check.third is right
    assert failures(check) == ([] if right else [THIRD])
    assert right or "to blame: 1 (Cube)" in check.reason


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize(("order", "most"), [(1, 16), (2, 24)])
def test_a_check_costs_at_most_sixteen_gradients(order, most, batches):
    """Counted in evaluations of the loss, a third where no gradient is taken; order 2 has nine expansions more."""
    evaluations = 0.0

    def counted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal evaluations
        evaluations += 1 if next(model.parameters()).requires_grad else 1 / 3
        return cross_entropy(model, batch)

    model, (x, labels) = tanh_mlp()
    data = list(zip(x.chunk(batches), labels.chunk(batches), strict=True))
    Objective(model, counted, data).check(order)
    assert evaluations <= most * batches


@pytest.mark.parametrize("product", ["auto", "double-backward", "difference"])
def test_a_check_in_float32_of_a_right_model_passes(product):
    """Only where the model cannot be evaluated in float64."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 3, dtype=torch.float32)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(Single.apply(self.lin(x.float())))  # type: ignore

    objective = Objective(Fixed(), cross_entropy, tanh_mlp()[1], product=product)
    assert objective.check().passed
    assert objective.check().dtype == "float32"


def test_check_derivatives_returns_the_check_or_names_what_failed_with_its_remedy():
    assert check_derivatives(network("mlp"), 2).third
    with pytest.raises(AssertionError, match=r"T\(v, v\) against differences: error .*; triple backward is off by"):
        check_derivatives(objective_of(lambda: torch.jit.script(nn.LayerNorm(6)), nn.Tanh), 2)
