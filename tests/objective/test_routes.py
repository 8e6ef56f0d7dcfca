"""The routes to H v agree, cost what they say, and are chosen once."""

import random
import re
import warnings
from functools import partial
from threading import Thread

import numpy as np
import pytest
import torch
from awkward import Cube
from problems import NETWORKS, cross_entropy, network, randn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.nn import functional as F

from eom.errors import (
    EomWarning,
    LossNotDeterministicError,
    LossNotDifferentiableError,
    ParametersError,
    SettingError,
)
from eom.objective import Objective, memory
from eom.objective.check import Check, Probe

equal = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def noted(check: Check) -> list[Probe]:
    return [p for p in check.probes if p.verdict == "noted"]


def of(*layers, loss=cross_entropy) -> Objective:
    return Objective(seeded(lambda: nn.Sequential(nn.Linear(4, 6), *(make() for make in layers))), loss, tanh_mlp()[1])


def counted(**settings) -> tuple[Objective, list[int]]:
    """An objective, and a list that grows by one entry at each evaluation of its loss."""
    calls: list[int] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(1)
        return cross_entropy(model, batch)

    return Objective(tanh_mlp()[0], loss, tanh_mlp()[1], **settings), calls


# Routes


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_routes_agree(name, batches):
    model, (x, labels) = NETWORKS[name]()
    data = list(zip(x.chunk(batches), labels.chunk(batches), strict=True))
    objective = Objective(model, cross_entropy, data, decay=0.1)
    theta, v = objective.theta(), randn(objective.layout.n, seed=4)
    exact = objective.replaced(product="double-backward").hvp(theta, v)
    equal(objective.hvp(theta, v), exact)
    difference = objective.replaced(product="difference").hvp(theta, v)
    torch.testing.assert_close(difference, exact, rtol=1e-5, atol=1e-6)  # sqrt(eps), and the curvature of H


def test_a_kept_graph_gives_further_products_without_another_forward_pass():
    objective, calls = counted(product="double-backward")
    at = objective.expansion(objective.theta())
    for seed in range(3):
        at.hvp(randn(objective.layout.n, seed=seed))
    assert len(calls) == 1


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("product", ["double-backward", "difference"])
def test_an_expansion_is_of_the_point_that_it_was_made_at(product, batches):
    """Whatever is written later to theta, to its gradient, or to a product of it."""
    model, (x, labels) = tanh_mlp()
    data = list(zip(x.chunk(batches), labels.chunk(batches), strict=True))
    objective = Objective(model, cross_entropy, data, product=product)
    start, v = objective.theta(), randn(objective.layout.n, seed=4)
    own = objective.hvp(start, v)
    for _ in range(2):  # torch's graph is lent other views at the first evaluation than later
        theta = start.clone()
        at = objective.expansion(theta)
        theta -= 0.3
        at.gradient.div_(at.gradient.norm())
        at.hvp(at.gradient).mul_(7)
        torch.testing.assert_close(at.hvp(v), own, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1e-30, 1e-24, 1.0, 1e18])
def test_a_difference_takes_vectors_of_any_size(size):
    """Squares of single precision end at 1e-45 and 3e38."""
    model, (x, labels) = tanh_mlp()
    objective = Objective(model.float(), cross_entropy, (x.float(), labels))
    theta, v = objective.theta(), randn(objective.layout.n, seed=4).float()
    exact = objective.hvp(theta, v)
    found = objective.replaced(product="difference").hvp(theta, size * v) / size
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("product", ["double-backward", "difference"])
def test_a_vector_of_another_shape_is_refused_at_every_door(product):
    objective = network("mlp").replaced(product=product)
    theta = objective.theta()
    at = objective.expansion(theta)
    doors = [lambda v: objective.hvp(theta, v), at.hvp, lambda v: objective.third(theta, v, theta)]
    for v in (theta[:1], theta[:, None], torch.tensor(1.0), [1.0]):
        for door in doors:
            with pytest.raises(SettingError, match=r"expected a tensor \[83\]"):
                door(v)
    for door in (*doors, objective.loss, objective.gradient):
        with pytest.raises(SettingError, match="expected real floating-point numbers"):
            door(1j * theta)
    assert not at.hvp(theta.clone().requires_grad_()).requires_grad


def test_two_threads_do_not_lend_a_model_two_parameters_at_once():
    objectives = [network("mlp").replaced(product="double-backward")] * 2
    objectives[1] = Objective(objectives[0].model, cross_entropy, tanh_mlp()[1], product="double-backward")
    theta = objectives[0].theta()
    right = [objectives[0].hvp((1 + k) * theta, theta) for k in range(2)]
    wrong = []

    def work(k: int) -> None:
        wrong.extend(k for _ in range(50) if not torch.equal(objectives[k].hvp((1 + k) * theta, theta), right[k]))

    threads = [Thread(target=work, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert all(isinstance(p, nn.Parameter) for p in objectives[0].model.parameters())


def test_the_self_test_runs_once_for_each_order_and_no_more():
    objective, calls = counted()
    theta = objective.theta()
    for derive in (objective.hvp, partial(objective.third, theta)):
        derive(theta, theta)
        tested = len(calls)
        derive(theta, theta)
        assert len(calls) == tested + 1
        calls.clear()
        assert tested > 5


def test_a_route_that_is_asked_for_by_name_is_not_tested():
    objective, calls = counted(product="double-backward")
    objective.hvp(objective.theta(), objective.theta())
    assert len(calls) == 1


def test_a_compiled_model_is_reached_inside():
    model, batch = tanh_mlp()
    compiled = Objective(torch.compile(model, backend="aot_eager"), cross_entropy, batch)  # type: ignore[arg-type]
    theta = compiled.theta()
    equal(compiled.hvp(theta, theta), network("mlp").hvp(theta, theta))


# What the self-test says


def test_dropout_is_named_with_the_state_of_the_generator_that_is_replayed():
    (note,) = noted(of(nn.Tanh, nn.Dropout, lambda: nn.Linear(6, 3)).check())
    assert note.check == "random numbers are drawn by 2 (Dropout)"
    assert re.search(r"\(state [0-9a-f]{8}\)", note.remedy)


@pytest.mark.parametrize(("draw", "source"), [(np.random.standard_normal, "numpy"), (random.random, "random")])
def test_the_global_generators_of_python_and_numpy_are_replayed_like_torchs(draw, source):
    np.random.seed(0)
    random.seed(0)
    before = repr((random.getstate(), np.random.get_state()))
    check = of(loss=lambda m, b: (m(b[0]) * (1 + draw())).square().mean()).check()
    assert check.passed
    assert noted(check)[0].check == f"random numbers are drawn by the loss, from {source}"
    assert repr((random.getstate(), np.random.get_state())) == before


def test_a_loss_that_changes_with_every_call_is_refused_with_the_module_where_it_does():
    numbers = np.random.default_rng(0)

    class Augmented(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 + numbers.random())

    with pytest.raises(LossNotDeterministicError, match=r"first module to differ is '1'.*draw random numbers from"):
        of(Augmented, lambda: nn.Linear(6, 3)).check()


def test_a_loss_that_changes_outside_of_all_modules_is_said_to_be_the_loss_function():
    numbers = np.random.default_rng(0)
    with pytest.raises(LossNotDeterministicError, match="it is in the loss function"):
        of(loss=lambda m, b: m(b[0]).square().mean() * (1 + numbers.random())).check()


def test_trainable_parameters_outside_the_model_are_noted():
    temperature = torch.ones(2, requires_grad=True)
    (note,) = noted(of(loss=lambda m, b: (m(b[0]) * temperature.prod()).square().mean()).check())
    assert note.check == "the loss depends on 1 trainable tensor(s) outside the model, of shape [2]"
    assert "taken for constants" in note.remedy


def test_kinks_are_recognised_and_both_derivatives_are_given():
    """Many units, so that a finite step crosses many kinks, and the probe's shortest one none."""
    wide = seeded(lambda: nn.Sequential(nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 3)))
    objective = Objective(wide, cross_entropy, (randn(512, 4, seed=1), torch.arange(512) % 3))
    check = objective.check(2)
    assert check.passed
    assert check.product == "double-backward"
    (note,) = noted(check)
    assert re.fullmatch(r"kinks: \|H v\| is [0-9.e-]+, over a step of [0-9.e-]+ it is [0-9.e-]+", note.check)
    assert note.value > 1e-3


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus, nn.SiLU])
def test_a_smooth_network_has_no_kinks(activation):
    wide = seeded(lambda: nn.Sequential(nn.Linear(4, 256), activation(), nn.Linear(256, 3)))
    objective = Objective(wide, cross_entropy, (randn(512, 4, seed=1), torch.arange(512) % 3))
    assert not noted(objective.check())


def test_an_error_in_one_small_tensor_is_found_among_many_large_ones():
    """Its share of H v is a hundred-thousandth: each tensor is compared by itself."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.large, self.small = nn.Linear(4, 3), nn.Parameter(torch.tensor([0.5]))

        def forward(self, x: Tensor) -> Tensor:
            return 100 * self.large(x) + 1e-2 * Cube.apply(self.small)  # type: ignore

    objective = Objective(seeded(Small), lambda m, b: m(b[0]).square().mean(), tanh_mlp()[1])
    check = objective.check()
    assert check.product == "difference"
    assert "double backward is off by" in check.reason


# Bad input


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_second_derivatives_in_half_precision_are_refused(dtype):
    objective = network("mlp")
    for product in ("auto", "double-backward", "difference"):
        for of in (
            lambda o, theta: o.hvp(theta, theta),
            lambda o, theta: o.third(theta, theta, theta),
        ):
            with pytest.raises(ParametersError, match=r"two or three digits.*theta.float\(\)"):
                of(objective.replaced(product=product), objective.theta().to(dtype))


def test_a_model_in_half_precision_has_its_second_derivatives_in_single():
    model, (x, labels) = tanh_mlp()
    half = Objective(model.to(torch.bfloat16), cross_entropy, (x.to(torch.bfloat16), labels))
    theta = half.theta()
    exact = half.hvp(theta.double(), theta.double())
    torch.testing.assert_close(half.hvp(theta.float(), theta.float()).double(), exact, rtol=1e-4, atol=1e-5)


def test_a_second_derivative_that_is_not_a_number_is_found_and_named():
    """max(x, 0)^1.5 has a gradient of 0 where x < 0; its second derivative is 0 times an infinite slope."""

    class Power(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * (x > 0)) ** 1.5

    objective = of(Power, lambda: nn.Linear(6, 3))
    check = objective.check()
    failed = check.failures[0]
    assert failed.value == torch.inf
    assert "to blame: 1 (Power)" in failed.remedy
    assert check.product == "difference"
    assert check.second


def test_whole_numbers_at_the_end_of_their_range_disturb_no_probe():
    x, labels = tanh_mlp()[1]
    huge = torch.full((24,), torch.iinfo(torch.int64).max)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, labels, count = batch
        return F.cross_entropy(model(x), labels) + 0 * (count + 1).clamp(max=0).double().mean()  # it wraps around

    model = tanh_mlp()[0]
    check = Objective(model, loss, (x, labels, huge)).check(2)
    assert check.passed
    assert check.third


def test_a_model_too_large_for_a_double_backward_takes_differences(monkeypatch):
    """With less memory than its estimate from what one backward pass keeps."""
    objective = network("mlp")
    with memory.counted() as kept:
        objective.gradient(objective.theta())
    need = memory.needed(kept.bytes, objective.theta())
    for there, product in ((need * 1.01, "double-backward"), (need * 0.99, "difference")):
        monkeypatch.setattr(memory, "available", lambda device, there=there: there)
        check = objective.check()
        assert check.product == product
        assert check.second
        assert ("GiB are there, so it is not tried; H v is taken by differences" in check.reason) is (there < need)


def test_what_a_backward_pass_keeps_is_counted_once():
    x = torch.ones(1000, requires_grad=True)
    with memory.counted() as kept:
        y = x.exp()
        y.exp()
    assert kept.bytes == 2 * 8000


def test_a_wrong_model_is_refused_at_the_first_product_and_predicts_nothing_silently():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(F.linear(x, self.inner.weight) + self.inner.weight.detach().sum(1))

    objective = of(Cut, lambda: nn.Linear(6, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", EomWarning)
        with pytest.raises(
            LossNotDifferentiableError, match=r"along '1\.inner\.weight' is not the derivative of the loss"
        ):
            objective.hvp(objective.theta(), objective.theta())
