"""Bad input raises before the first step, and says what came, what was wanted, what to do."""

import numpy as np
import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam
from torch.utils.data import DataLoader, TensorDataset
from trainings import LR, steps

import eom
from eom.errors import (
    DataError,
    EomError,
    LossNotDeterministicError,
    LossNotDifferentiableError,
    LossNotFiniteError,
    LossNotScalarError,
    ParametersError,
    SettingError,
    WrongModelError,
)

OTHER = tanh_mlp()[0]
CALLS = iter(range(10**6))

LOSSES = {
    "not scalar": (lambda m, b: m(b[0]), LossNotScalarError, r"shape \[24, 3\] \(real\), expected one real number"),
    "a number": (lambda m, b: cross_entropy(m, b).item(), LossNotScalarError, "a float, expected a tensor"),
    "a tuple": (lambda m, b: (cross_entropy(m, b), 0), LossNotScalarError, "a tuple, expected a tensor"),
    "nothing": (lambda m, b: None, LossNotScalarError, "a NoneType, expected a tensor"),
    "complex": (lambda m, b: torch.complex(cross_entropy(m, b), cross_entropy(m, b)), LossNotScalarError, "complex"),
    "NaN": (lambda m, b: cross_entropy(m, b) * float("nan"), LossNotFiniteError, "nan"),
    "infinite": (lambda m, b: cross_entropy(m, b) * float("inf"), LossNotFiniteError, "inf"),
    "detached": (lambda m, b: cross_entropy(m, b).detach(), LossNotDifferentiableError, r"\.detach\(\)"),
    "of another model": (lambda m, b: cross_entropy(OTHER, b), LossNotDifferentiableError, "another model"),
    "constant": (lambda m, b: torch.ones((), requires_grad=True), LossNotDifferentiableError, "another model"),
    "own randomness": (lambda m, b: cross_entropy(m, b) * NUMBERS.random(), LossNotDeterministicError, "numpy"),
    "counting": (lambda m, b: cross_entropy(m, b) * next(CALLS), LossNotDeterministicError, "a counter"),
}
MEASURED_TOO = ("not scalar", "a number", "a tuple", "nothing", "complex", "NaN", "infinite", "detached")

NUMBERS = np.random.default_rng(0)


def start(tmp_path, model, loss_fn, optimizer=None, batch=None, **settings) -> None:
    """One step of a training, which is to be refused."""
    optimizer = optimizer or SGD(model.parameters(), lr=LR)
    with eom.track(model, optimizer, loss_fn, tmp_path / "run", **settings) as tracker:
        steps(optimizer, tracker.loss, [batch or tanh_mlp()[1]])


@pytest.mark.parametrize(("loss_fn", "error", "message"), LOSSES.values(), ids=LOSSES)
def test_a_loss_that_cannot_be_followed_is_refused_before_the_first_step(tmp_path, loss_fn, error, message):
    model, _ = tanh_mlp()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error, match=message):
        start(tmp_path, model, loss_fn)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
@pytest.mark.parametrize("name", MEASURED_TOO)
@pytest.mark.parametrize("settings", [{"order": None}, {"adam": True}], ids=["values only", "Adam"])
def test_such_a_loss_is_refused_where_nothing_is_predicted_either(tmp_path, name, settings):
    model, _ = tanh_mlp()
    loss_fn, error, message = LOSSES[name]
    optimizer = Adam(model.parameters()) if settings.pop("adam", False) else None
    with pytest.raises(error, match=message):
        start(tmp_path, model, loss_fn, optimizer, **settings)


def complex_model() -> nn.Module:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.complex128))
    return model


def on_two_devices() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3, device="meta"))


def in_two_precisions() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3, dtype=torch.float32))


def frozen() -> nn.Module:
    return nn.Linear(4, 3).requires_grad_(False)


MODELS = {
    "frozen": (frozen, ParametersError, "has no trainable parameter"),
    "empty": (lambda: nn.Sequential(nn.ReLU()), ParametersError, "has no trainable parameter"),
    "lazy": (lambda: nn.LazyLinear(3), ParametersError, "run the model once on a batch"),
    "complex": (complex_model, ParametersError, "view_as_real"),
    "on two devices": (on_two_devices, ParametersError, r"2 devices .*model\.to"),
    "in two precisions": (in_two_precisions, ParametersError, "2 dtypes"),
    "sparse": (lambda: nn.Embedding(5, 3, sparse=True), ParametersError, "sparse=False"),
}


@pytest.mark.parametrize(("make", "error", "message"), MODELS.values(), ids=MODELS)
def test_a_model_that_is_no_real_flat_vector_is_refused(tmp_path, make, error, message):
    model = make()
    optimizer = SGD([*model.parameters(), torch.ones(1, requires_grad=True)], lr=LR)
    with pytest.raises(error, match=message):
        eom.track(model, optimizer, cross_entropy, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    model, _ = tanh_mlp()
    for own in ([], list(model.head.parameters())):  # type: ignore[union-attr]
        optimizer = SGD([*own, *OTHER.parameters()], lr=LR)
        with pytest.raises(WrongModelError, match=r"6 of the optimizer's \d parameters do not belong to this TanhMLP"):
            eom.track(model, optimizer, cross_entropy, tmp_path / "run")


def test_an_optimizer_of_frozen_parameters_only_is_refused(tmp_path):
    model, _ = tanh_mlp()
    model.get_submodule("head").requires_grad_(False)
    optimizer = SGD(model.get_submodule("head").parameters(), lr=LR)
    with pytest.raises(ParametersError, match="none of the optimizer's 2 parameters is trainable"):
        eom.track(model, optimizer, cross_entropy, tmp_path / "run")


def test_arguments_of_the_wrong_kind_are_named(tmp_path):
    model, _ = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)
    with pytest.raises(SettingError, match=r"model is a function, expected a torch\.nn\.Module"):
        eom.track(cross_entropy, optimizer, model, tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="optimizer is a function"):
        eom.track(model, cross_entropy, cross_entropy, tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="loss_fn is a CrossEntropyLoss, expected a function"):
        eom.track(model, optimizer, nn.CrossEntropyLoss(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_is_refused_by_python(tmp_path):
    model, _ = tanh_mlp()
    with pytest.raises(TypeError, match="unexpected keyword argument 'evry'"):
        eom.track(model, SGD(model.parameters(), lr=LR), cross_entropy, tmp_path / "run", evry=5)  # type: ignore[call-arg]


def named_in_place(named: dict[str, Tensor]) -> Tensor:
    named["head.bias"].add_(1)
    return named["head.bias"].sum()


OBSERVABLES = {
    "detached": ({"x": lambda n: n["head.bias"].detach().sum()}, r"without \.detach\(\)"),
    "a number": ({"x": lambda n: n["head.bias"].sum().item()}, "'x' gave float"),
    "a vector": ({"x": lambda n: n["head.bias"]}, r"'x' gave shape \[3\]"),
    "constant": ({"x": lambda n: torch.ones((), requires_grad=True)}, "depends on the parameters"),
    "complex": ({"x": lambda n: n["head.bias"].sum() * 1j}, "one real number"),
    "random": ({"x": lambda n: n["head.bias"].sum() * torch.rand(())}, "no randomness"),
    "NaN": ({"x": lambda n: n["head.bias"].sum() * float("nan")}, "no NaN"),
    "of another name": ({"x": lambda n: n["tail.bias"].sum()}, "raised KeyError: 'tail.bias'"),
    "writing": ({"x": named_in_place}, "leave as they are"),
    "named like ours": ({"norm": lambda n: n["head.bias"].sum()}, "'norm' has a name that is taken"),
    "named like a rate": ({"x_rate": lambda n: n["head.bias"].sum()}, "has a name that is taken"),
    "named like the loss": ({"loss": lambda n: n["head.bias"].sum()}, "has a name that is taken"),
    "without a name": ({"": lambda n: n["head.bias"].sum()}, "no name"),
    "named by a number": ({3: lambda n: n["head.bias"].sum()}, "no name"),
    "no function": ({"x": 3.0}, "expected a function"),
}


@pytest.mark.parametrize(("observables", "message"), OBSERVABLES.values(), ids=OBSERVABLES)
def test_an_observable_that_cannot_be_followed_is_refused_before_the_first_step(tmp_path, observables, message):
    model, _ = tanh_mlp()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(SettingError, match=message):
        start(tmp_path, model, cross_entropy, observables=observables)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_schedule_that_raises_at_once_is_an_error_of_the_users_own(tmp_path):
    model, _ = tanh_mlp()
    with pytest.raises(ZeroDivisionError):
        eom.track(
            model, SGD(model.parameters(), lr=LR), cross_entropy, tmp_path / "run", every=lambda step: 1 // step == 0
        )
    assert not (tmp_path / "run").exists()


X = TensorDataset(*tanh_mlp()[1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(X, batch_size=8, shuffle=True), "shuffles"),
        (iter([X[:8]]), "read once"),
        (DataLoader(X, batch_size=8, num_workers=1, persistent_workers=True), "persistent_workers"),
    ],
    ids=["shuffled", "an iterator", "persistent workers"],
)
def test_data_that_is_not_the_same_at_every_pass_is_refused(tmp_path, data, message):
    model, _ = tanh_mlp()
    with pytest.raises((DataError, SettingError), match=message):
        eom.track(model, SGD(model.parameters(), lr=LR), cross_entropy, tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_writes_to_its_batch_is_refused(tmp_path):
    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model, (batch[0].mul_(1.1), batch[1]))

    with pytest.raises(LossNotDeterministicError):
        start(tmp_path, tanh_mlp()[0], loss_fn)


def test_an_optimizer_without_a_learning_rate_is_refused(tmp_path):
    class Own(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

    model, _ = tanh_mlp()
    with pytest.raises(SettingError, match="Own has no learning rate"):
        eom.track(model, Own(model.parameters()), cross_entropy, tmp_path / "run")


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
def test_lbfgs_which_evaluates_many_times_in_a_step_is_measured(tmp_path):
    model, batch = tanh_mlp()
    optimizer = LBFGS(model.parameters(), lr=0.1, max_iter=3)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=2) as tracker:

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = tracker.loss(batch)
            value.backward()
            return value

        for _ in range(10):
            optimizer.step(closure)  # type: ignore[arg-type]
    assert tracker.run.manifest["steps"] == 10
    assert set(tracker.run.table().source) == {"measured"}


def test_every_refusal_is_one_kind_of_error():
    assert all(issubclass(error, EomError) for _, error, _ in (*LOSSES.values(), *MODELS.values()))
