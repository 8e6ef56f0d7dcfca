"""The compiled route: what double backward gives, or a refusal that says why."""

import copy

import pytest
import torch
from awkward import InForward
from problems import cross_entropy, randn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from eom import Objective
from eom.errors import LossNotDifferentiableError

pytestmark = pytest.mark.slow  # seconds for each program that is compiled

X, Y = randn(8, 3, seed=1), randn(8, 2, seed=2)


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def compiled(*parts: nn.Module, loss=squares, data=(X, Y), **options) -> Objective:
    return Objective(nn.Sequential(*parts), loss, data, product="compiled", **options)


def assert_right(objective: Objective) -> None:
    """Value, gradient, H g, H(-g) and H v are those of double backward."""
    theta, v = objective.theta(), randn(objective.layout.n, seed=4)
    at, exact = objective.expansion(theta), objective.replaced(product="double-backward").expansion(theta)
    for x, own in ((at.value, exact.value), (at.gradient, exact.gradient)):
        torch.testing.assert_close(x, own, rtol=1e-10, atol=1e-12)
    for along in (exact.gradient, -exact.gradient, v):
        torch.testing.assert_close(at.hvp(along), exact.hvp(along), rtol=1e-9, atol=1e-12)


def layers(width: int = 6) -> list[nn.Module]:
    return [nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)]


@pytest.mark.parametrize("batches", [1, 2])
def test_it_is_that_of_double_backward(batches):
    model, (x, labels) = tanh_mlp()
    data = list(zip(x.chunk(batches), labels.chunk(batches), strict=True))
    objective = Objective(model, cross_entropy, data, decay=0.1, product="compiled")
    assert_right(objective)
    assert objective.check().product == "compiled"


class Lost(nn.Module):
    """A function that is right, and written for autograd; compiled, its second derivative is lost."""

    def forward(self, x: Tensor) -> Tensor:
        return InForward.apply(x)  # type: ignore - of torch's own wrapper


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("part", [Lost, lambda: parametrizations.weight_norm(nn.Linear(4, 4))])
def test_what_a_head_of_zeros_hides_is_found_all_the_same(dtype, part):
    head = nn.Linear(4, 2)
    nn.init.zeros_(head.weight)
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), part(), head)).to(dtype)
    objective = Objective(model, squares, (X.to(dtype), Y.to(dtype)), product="compiled")
    with pytest.raises(LossNotDifferentiableError, match=r'compiled H v is off by .* in one tensor.*product="auto"'):
        objective.expansion(objective.theta())


def noisy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return squares(model, batch) + torch.rand(())


@pytest.mark.parametrize(("part", "loss"), [(nn.Dropout, squares), (nn.Identity, noisy)])
def test_random_numbers_are_refused_and_double_backward_takes_its_place(part, loss):
    objective = compiled(nn.Linear(3, 6), part(), nn.Linear(6, 2), loss=loss)
    with pytest.raises(LossNotDifferentiableError, match="draws random numbers from torch, of which compiled code has"):
        objective.hvp(objective.theta(), objective.theta())
    check = objective.check()
    assert check.product == "double-backward"
    assert check.second
    assert [p.route for p in check.failures] == ["compiled"]


def test_what_changes_in_the_model_is_compiled_and_compared_anew():
    """The compiler keeps its programs by code, and sees no hooks."""

    class Switched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.noise, self.scale = nn.Sequential(*layers()), False, 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.inner(x + torch.randn_like(x) if self.noise else x)

    objective = compiled(seeded(Switched))
    assert_right(objective)
    inner = objective.model[0].inner  # type: ignore[index]
    hook = inner[1].register_forward_hook(lambda module, args, out: 3 * out)  # type: ignore[union-attr]
    assert_right(objective)
    hook.remove()
    assert_right(objective)
    copied = copy.deepcopy(objective)
    copied.model[0].scale = 2.0  # type: ignore[index]
    assert_right(copied)
    objective.model[0].noise = True  # type: ignore[index]
    with pytest.raises(LossNotDifferentiableError, match="draws random numbers"):
        objective.expansion(objective.theta())


def test_there_is_no_end_to_the_number_of_objectives():
    """The compiler's limit is eight programs of one function."""
    for k in range(10):
        objective = compiled(nn.Linear(3, 2), loss=lambda m, b, k=k: (k + 1.0) * squares(m, b))
        theta = objective.theta()
        torch.testing.assert_close(objective.expansion(theta).gradient, objective.gradient(theta))


def test_it_is_not_refused_at_a_minimum():
    """H g is rounding only there."""
    objective = compiled(nn.Linear(3, 2))
    flat = objective.replaced(product="double-backward")
    theta = flat.theta()
    for _ in range(2000):
        theta = theta - 0.5 * flat.gradient(theta)
    v = randn(theta.numel(), seed=3)
    torch.testing.assert_close(objective.hvp(theta, v), flat.hvp(theta, v))


def test_a_layer_that_the_user_compiled_draws_the_same_numbers_in_every_derivative():
    layer = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5)))
    model = nn.Sequential(layer, nn.Linear(4, 2))  # type: ignore[arg-type]
    model(X[:2])  # compiled now
    objective = Objective(model, squares, (X, Y), product="double-backward")
    theta = objective.theta()
    at = objective.expansion(theta)
    torch.testing.assert_close(objective.gradient(theta), at.gradient)
    torch.testing.assert_close(objective.loss(theta), at.value)


@pytest.mark.parametrize(
    ("part", "loss"),
    [
        (lambda: nn.BatchNorm1d(6), squares),  # it writes to its buffers
        (nn.Identity, lambda m, b: squares(m, b) if squares(m, b) > 0 else 2 * squares(m, b)),
    ],
)
def test_what_cannot_be_compiled_is_said_in_a_line(part, loss):
    objective = compiled(nn.Linear(3, 6), part(), nn.Linear(6, 2), loss=loss)
    with pytest.raises(
        LossNotDifferentiableError, match=r'torch\.compile cannot take this loss .*product="auto"'
    ) as told:
        objective.expansion(objective.theta())
    assert "\n" not in str(told.value)
    assert objective.check().product == "double-backward"
