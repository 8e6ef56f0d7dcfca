"""Training with the tracker is the same, bit for bit, as training without it."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset
from trainings import assert_same, state_of, steps

import eom

Loss = Callable[[Any], Tensor]
Loop = Callable[[nn.Module, Optimizer, Loss], None]


class Noisy(nn.Module):
    """Convolution, BatchNorm with running statistics, dropout, and a head."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.norm(self.conv(x)))).flatten(1))


def images(count: int = 24) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 6, 6, generator=g), torch.randint(3, (count,), generator=g)


def noisy() -> nn.Module:
    torch.manual_seed(0)
    return Noisy()


def mlp() -> nn.Module:
    return tanh_mlp()[0]


def plain(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    steps(optimizer, loss, [tanh_mlp()[1]] * 25)


def shuffled(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    """Two epochs of shuffled mini-batches from two workers, with a validation in between."""
    loader = DataLoader(TensorDataset(*images()), batch_size=8, shuffle=True, num_workers=2)
    for _ in range(2):
        steps(optimizer, loss, loader)
        model.eval()
        with torch.no_grad():
            loss(images())
        model.train()


def augmented(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    """Random augmentation in the main process: the generator's state decides every batch."""
    x, labels = images()
    steps(optimizer, loss, ((x + 0.1 * torch.randn_like(x), labels) for _ in range(12)))


def accumulated(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    x, labels = images()
    for _ in range(12):
        optimizer.zero_grad(set_to_none=False)
        for part in range(3):
            (loss((x[8 * part : 8 * part + 8], labels[8 * part : 8 * part + 8])) / 3).backward()
        optimizer.step()


def by_closure(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    batch = images()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(batch)
        value.backward()
        return value

    for _ in range(12):
        optimizer.step(closure)  # type: ignore[arg-type]


def clipped(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    for _ in range(12):
        optimizer.zero_grad()
        loss(images()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "order 2, displacements": {"order": 2, "horizon": 4, "horizons": 1, "sharpness": 1, "precision": torch.float64},
    "differences": {"product": "difference"},
    "values only": {"order": None},
}


def compare(tmp_path, make: Callable[[], nn.Module], loop: Loop, optimizer=SGD, **settings: Any) -> eom.Run:
    """Run a training bare and tracked; the bits must agree."""
    found = []
    for follow in (False, True):
        torch.manual_seed(3)
        model = make()
        by = optimizer(model.parameters(), lr=0.05, weight_decay=0.01)
        settings = {"every": 3} | settings
        with eom.track(model, by, cross_entropy, tmp_path / "run", disabled=not follow, **settings) as tracker:
            loop(model, by, tracker.loss)
        found.append(state_of(model, by))
    assert_same(*found)
    return eom.open_run(tmp_path / "run")


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(
    ("make", "loop"),
    [(mlp, plain), (noisy, augmented), (noisy, accumulated), (noisy, by_closure), (noisy, clipped)],
    ids=["SGD", "BatchNorm and dropout", "accumulation", "closures", "clipping"],
)
def test_parameters_buffers_generators_gradients_and_modes_are_the_same_bits(tmp_path, make, loop, settings):
    run = compare(tmp_path, make, loop, **settings)
    assert len(run.table()) > 50
    assert "failed" not in set(run.events().kind)


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
def test_a_shuffling_loader_with_workers_yields_the_same_batches(tmp_path):
    compare(tmp_path, noisy, shuffled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
@pytest.mark.parametrize("own", [False, True], ids=["global generator", "shared generator"])
def test_reading_the_whole_data_draws_nothing_from_the_generators(tmp_path, own):
    model_data = TensorDataset(*images())
    found = []
    for follow in (False, True):
        torch.manual_seed(3)
        g = torch.Generator().manual_seed(4) if own else None
        whole = DataLoader(model_data, batch_size=12, generator=g)
        model = mlp_of_images()
        by = SGD(model.parameters(), lr=0.05)
        settings = {"every": 2, "horizon": 3, "horizons": 1, "data": whole, "disabled": not follow}
        with eom.track(model, by, cross_entropy, tmp_path / "run", **settings) as tracker:
            for _ in range(3):
                steps(by, tracker.loss, DataLoader(model_data, batch_size=6, shuffle=True, generator=g))
        found.append(state_of(model, by))
    assert_same(*found)
    assert "norm_displacement" in set(eom.open_run(tmp_path / "run").table().quantity)


def mlp_of_images() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
def test_adam_trains_the_same_bits_even_where_the_loss_draws_from_numpy(tmp_path):
    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, labels = batch
        return cross_entropy(model, (x + 0.1 * torch.from_numpy(np.random.randn(*x.shape)), labels))

    found = []
    for follow in (False, True):
        torch.manual_seed(3)
        np.random.seed(3)
        model = noisy()
        by = Adam(model.parameters(), lr=0.01)
        with eom.track(model, by, loss_fn, tmp_path / "run", every=3, disabled=not follow) as tracker:
            by_closure(model, by, tracker.loss)
        found.append(state_of(model, by))
    assert_same(*found)


def test_saving_the_state_in_mid_run_changes_nothing(tmp_path):
    def loop(model, optimizer, loss):
        batch = images()
        for _ in range(12):
            steps(optimizer, loss, [batch])
            if hasattr(loss.__self__, "state_dict"):
                loss.__self__.state_dict()

    compare(tmp_path, noisy, loop, every=2)


def test_values_of_an_observable_that_draws_random_numbers_do_not_move_the_generator(tmp_path):
    def drawn(named: dict[str, Tensor]) -> Tensor:
        torch.rand(3)
        return named["first.weight"].sum()

    compare(tmp_path, mlp, plain, observables={"drawn": drawn})


class Carrying(nn.Module):
    """A loss kept in an attribute, a layer dropped by Python's generator, and a teacher that follows the student."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
        self.extra, self.aux, self.mean = nn.Linear(4, 3), torch.zeros(()), torch.zeros(())
        self.ema, self.seen = torch.zeros(3), [0.0]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for a, b in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                a.lerp_(b, 0.05)
        y = self.student(x)
        self.aux, self.mean = y.square().mean(), 0.9 * self.mean + 0.1 * y.detach().mean()
        self.ema.mul_(0.9).add_(0.1 * y.detach().mean(0))
        self.seen.append(float(self.ema.sum()))
        y = y * (1 + self.ema) + self.seen[-2]
        return y + 0.1 * self.teacher(x) + self.mean + (self.extra(x) if random.random() < 0.7 else 0)


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_attributes_teachers_and_pythons_generator_are_the_same_bits(tmp_path, settings):
    found = []
    for follow in (False, True):
        random.seed(3)
        torch.manual_seed(3)
        model = Carrying().double()
        by = SGD(model.parameters(), lr=0.05)
        chosen = {"every": 3, "disabled": not follow} | settings
        with eom.track(model, by, cross_entropy, tmp_path / "run", **chosen) as tracker:
            for _ in range(25):
                by.zero_grad()
                (tracker.loss(tanh_mlp()[1]) + 0.1 * model.aux).backward()
                by.step()
        found.append(state_of(model, by))
    assert_same(*found)
