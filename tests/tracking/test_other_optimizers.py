"""Under an optimizer without an equation of motion everything is measured, nothing predicted, and that is said."""

import math

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch.optim import ASGD, SGD, Adam, AdamW, Optimizer, RMSprop
from trainings import at, bowl, bowl_loss, messages, sources, steps

import eom
from eom.errors import TrackingWarning

OPTIMIZERS = {
    "Adam": lambda p: Adam(p, lr=0.01),
    "AdamW": lambda p: AdamW(p, lr=0.01),
    "RMSprop": lambda p: RMSprop(p, lr=0.001),
    "ASGD": lambda p: ASGD(p, lr=0.01),
    "momentum": lambda p: SGD(p, lr=0.01, momentum=0.9),
    "maximize": lambda p: SGD(p, lr=0.01, maximize=True),
}


class Halving(Optimizer):
    """An optimizer of the user's own."""

    def __init__(self, params, lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] / 2)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_measurements_are_recorded_predictions_withheld_and_manifest_and_warning_say_so(tmp_path, make):
    model, batch = tanh_mlp()
    optimizer = make(model.parameters())
    with (
        pytest.warns(TrackingWarning, match="no equation of motion for"),
        eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5, horizon=5, horizons=1) as tracker,
    ):
        steps(optimizer, tracker.loss, [batch] * 20)
    run = tracker.run
    table = run.table()
    assert sources(run) == {"measured"}
    assert set(table.source) == {"measured"}
    assert set(table[table.quantity == "norm_squared_rate"].step) == {0, 5, 10}
    assert "no equation of motion" in run.manifest["predictions"]["withheld"]
    assert run.manifest["settings"]["optimizer"] == type(optimizer).__name__
    assert any("no equation of motion" in m for m in messages(run, "withheld"))
    assert "update_mismatch" not in set(table.quantity)


def test_the_measured_rate_under_an_optimizer_of_the_users_own_is_right(tmp_path):
    model, batch = bowl([1.0], [2.0])
    optimizer = Halving(model.parameters(), lr=0.02)
    with (
        pytest.warns(TrackingWarning),
        eom.track(model, optimizer, bowl_loss, tmp_path / "run", every=100) as tracker,
    ):
        steps(optimizer, tracker.loss, [batch] * 8)
    exact = math.log(0.99) / 0.02 * 2.0
    assert at(tracker.run, 0, "norm_rate") == pytest.approx(exact, rel=1e-9)
    assert at(tracker.run, 0, "gradient_norm") == 2.0


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
@pytest.mark.parametrize(
    ("make", "decay"),
    [
        (lambda p: Adam(p, lr=0.01, weight_decay=0.1), 0.1),  # adds it to the gradient
        (lambda p: SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9), 0.1),
        (lambda p: AdamW(p, lr=0.01, weight_decay=0.1), 0.0),  # decoupled: no part of the loss
        (lambda p: Halving(p, 0.01, 0.1), None),  # who knows
        (lambda p: SGD(p, lr=0.01, weight_decay=0.1, maximize=True), None),
    ],
    ids=["Adam", "momentum", "AdamW", "own", "maximize"],
)
def test_weight_decay_is_a_penalty_where_the_optimizer_adds_it_to_the_gradient(tmp_path, make, decay):
    model, batch = bowl([1.5], [2.0])
    optimizer = make(model.parameters())
    with eom.track(model, optimizer, bowl_loss, tmp_path / "run") as tracker:
        steps(optimizer, tracker.loss, [batch])
    if decay is None:
        assert not {"penalty", "gradient_norm"} & set(tracker.run.table().quantity)
    else:
        assert at(tracker.run, 0, "penalty") == pytest.approx(decay * 4 / 2)
        assert at(tracker.run, 0, "gradient_norm") == pytest.approx((1.5 + decay) * 2)
