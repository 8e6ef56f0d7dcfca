"""What a record says, against values computed here."""

import math

import pytest
import torch
from problems import DTYPE, cross_entropy, seeded, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD
from trainings import LR, Bowl, at, bar, bowl, bowl_loss, kinds, sources, steps, tracked

import eom

DECAY = 0.01


def norms(model: nn.Module) -> dict[str, float]:
    return {k: p.detach().square().sum().item() for k, p in model.named_parameters()}


@pytest.mark.parametrize("order", [None, 0])
def test_values_at_a_record_are_those_of_the_training_before_its_step(tmp_path, order):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=DECAY)
    seen = {}
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=4, order=order) as tracker:
        for step in range(9):
            optimizer.zero_grad()
            loss = tracker.loss(batch)
            loss.backward()
            squares = norms(model)
            gradient = torch.cat([torch.add(p.grad, p.detach(), alpha=DECAY).flatten() for p in model.parameters()])  # type: ignore[arg-type]
            seen[step] = squares, loss.item(), DECAY * sum(squares.values()) / 2, gradient.norm().item()
            optimizer.step()
    run = tracker.run
    assert sorted(set(run.table().step)) == [0, 4, 8]
    for step in (0, 4, 8):
        squares, loss, penalty, gradient_norm = seen[step]
        for name, value in squares.items():
            assert at(run, step, "norm_squared", group=name) == pytest.approx(value, rel=1e-14)
            assert at(run, step, "norm", group=name) == pytest.approx(value**0.5, rel=1e-14)
        assert at(run, step, "norm_squared") == pytest.approx(sum(squares.values()), rel=1e-14)
        assert at(run, step, "loss") == loss
        assert at(run, step, "penalty") == pytest.approx(penalty, rel=1e-13)
        if order is not None:
            assert at(run, step, "gradient_norm") == pytest.approx(gradient_norm, rel=1e-13)
        assert at(run, step, "lr") == LR


def test_time_is_the_running_sum_of_the_learning_rate(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=1, order=None) as tracker:
        for _ in range(8):
            steps(optimizer, tracker.loss, [batch])
            scheduler.step()
    table = tracker.run.table()
    total = 0.0
    for step in range(8):
        assert set(table[table.step == step].time) == {total}
        lr = at(tracker.run, step, "lr")
        assert lr == pytest.approx(LR * 0.9**step, rel=1e-14)
        total += lr


@pytest.mark.parametrize("lr", [0.01, 0.1, 0.2])
def test_the_measured_rate_on_a_bowl_is_its_closed_form_within_twice_its_bar(tmp_path, lr):
    curvature, theta = 1.3, 0.7
    run = tracked(
        tmp_path / "run",
        make=lambda: bowl([curvature], [theta]),
        loss_fn=bowl_loss,
        lr=lr,
        decay=0.0,
        every=3,
        count=12,
    )
    for step in (0, 3):
        q = theta**2 * (1 - lr * curvature) ** (2 * step)
        exact = 2 * math.log(1 - lr * curvature) / lr * q
        assert abs(at(run, step, "norm_squared_rate") - exact) <= 2 * bar(run, step, "norm_squared_rate")
        assert at(run, step, "norm_squared_rate") == pytest.approx(exact, rel=1e-2)
    assert sources(run, step=3) == {"measured", "reconstructed", "order-0", "order-1"}


def test_the_measured_rate_on_a_bowl_converges_to_its_closed_form_with_power_five_of_the_step(tmp_path):
    def error(lr: float) -> float:
        run = tracked(
            tmp_path / f"{lr}", make=lambda: bowl([1.0], [1.0]), loss_fn=bowl_loss, lr=lr, decay=0.0, every=100, count=8
        )
        return abs(at(run, 0, "norm_squared_rate") - 2 * math.log(1 - lr) / lr)

    assert eom.testing.observed_order(error, [0.08, 0.04, 0.02]) == pytest.approx(5, abs=0.1)


def test_predicted_rates_on_a_bowl_are_the_series_of_its_logarithm_and_their_bars_hold(tmp_path):
    a, lr = 1.3, 0.1
    run = tracked(
        tmp_path / "run",
        make=lambda: bowl([a], [0.7]),
        loss_fn=bowl_loss,
        lr=lr,
        decay=0.0,
        order=2,
        every=100,
        count=8,
    )
    series = [-a, -a - lr * a**2 / 2, -a - lr * a**2 / 2 - lr**2 * a**3 / 3]
    exact = 2 * math.log(1 - lr * a) / lr * 0.49
    for order, rate in enumerate(series):
        found = at(run, 0, "norm_squared_rate", f"order-{order}")
        assert found == pytest.approx(2 * 0.49 * rate, rel=1e-12)
        assert at(run, 0, "norm_rate", f"order-{order}") == pytest.approx(0.7 * rate, rel=1e-12)
        assert abs(found - exact) <= 2 * bar(run, 0, "norm_squared_rate", f"order-{order}")


def test_weight_decay_is_a_curvature_of_its_own(tmp_path):
    run = tracked(tmp_path / "run", make=lambda: bowl([0.0], [0.7]), loss_fn=flat_loss, lr=0.1, decay=0.5, count=8)
    assert at(run, 0, "norm_rate", "order-0") == pytest.approx(-0.5 * 0.7, rel=1e-12)
    assert at(run, 0, "norm_rate", "order-1") == pytest.approx(-(0.5 + 0.1 * 0.25 / 2) * 0.7, rel=1e-12)
    assert at(run, 0, "norm_rate") == pytest.approx(math.log(1 - 0.05) / 0.1 * 0.7, rel=1e-6)
    assert at(run, 0, "penalty") == pytest.approx(0.5 * 0.49 / 2, rel=1e-14)


def flat_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Almost constant; a gradient of exactly zero is refused."""
    return 1.0 + 1e-14 * model.theta.sum()  # type: ignore[operator]


@pytest.mark.parametrize(("lr", "lam"), [(0.01, 0.01), (0.1, 0.1), (0.1, 0.01)])
def test_the_translation_charge_of_a_softmax_layer_decays_as_theory_says(tmp_path, lr, lam):
    def charge(named: dict[str, Tensor]) -> Tensor:
        return named["head.weight"].sum(0)[0]  # one component along the direction that softmax does not see

    def make():
        model, batch = tanh_mlp()
        with torch.no_grad():
            model.get_submodule("head").weight.add_(1.0)  # type: ignore[operator]
        return model, batch

    run = tracked(tmp_path / "run", make=make, lr=lr, decay=lam, order=2, count=12, observables={"charge": charge})
    for step in (0, 5):
        c = at(run, step, "charge")
        assert at(run, step, "charge_rate", "order-0") == pytest.approx(-lam * c, rel=1e-12)
        assert at(run, step, "charge_rate", "order-1") == pytest.approx(-(lam + lr * lam**2 / 2) * c, rel=1e-12)
        third = lam + lr * lam**2 / 2 + lr**2 * lam**3 / 3
        assert at(run, step, "charge_rate", "order-2") == pytest.approx(-third * c, rel=1e-11)
        assert at(run, step, "charge_rate") == pytest.approx(math.log(1 - lr * lam) / lr * c, rel=1e-9)
    assert at(run, 5, "charge") == pytest.approx((1 - lr * lam) ** 5 * at(run, 0, "charge"), rel=1e-13)


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ("tensor", ["first.weight", "first.bias", "second.weight", "second.bias", "head.weight", "head.bias", "all"]),
        ("module", ["first", "second", "head", "all"]),
        ({"weights": ["first.weight", "head.weight"], "one": [3]}, ["weights", "one", "all"]),
    ],
    ids=["tensor", "module", "mapping"],
)
def test_groups_add_up_their_own_entries(tmp_path, groups, names):
    model, _ = tanh_mlp()
    squares = norms(model)
    run = tracked(tmp_path / "run", groups=groups, count=7)
    assert run.manifest["groups"] == names
    wanted = {
        "first": squares["first.weight"] + squares["first.bias"],
        "weights": squares["first.weight"] + squares["head.weight"],
        "one": model.get_parameter("first.weight").flatten()[3].item() ** 2,
    } | squares
    for name in names[:-1]:
        if name in wanted:
            assert at(run, 0, "norm_squared", group=name) == pytest.approx(wanted[name], rel=1e-13)
    assert at(run, 0, "norm_squared_rate", "order-1", names[0]) == pytest.approx(
        at(run, 0, "norm_squared_rate", "measured", names[0]), rel=5e-2
    )


def test_parameter_groups_with_their_own_rates_and_decays_are_read_exactly(tmp_path):
    model, batch = Bowl(torch.tensor([0.7, -0.4])), torch.tensor([[1.0, 2.0]])
    model.other = nn.Parameter(torch.tensor([0.9]))
    settings = [
        {"params": [model.theta], "lr": 0.05, "weight_decay": 0.2},
        {"params": [model.other], "lr": 0.1, "weight_decay": 0.3},
    ]

    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        return bowl_loss(model, batch) + 1.5 * model.other.square().sum() / 2  # type: ignore[operator]

    optimizer = SGD(settings)
    with eom.track(model, optimizer, loss_fn, tmp_path / "run", every=100, order=2, sharpness=1) as tracker:
        steps(optimizer, tracker.loss, [batch] * 8)
    run = tracker.run
    assert at(run, 0, "lr") == 0.1
    assert at(run, 0, "update_mismatch") < 1e-14
    factors = {  # time passes with the largest rate
        "other": (0.9, 0.1 * 1.8, 0.1),
        "theta": (0.7, 0.05 * 1.2, 0.1),
    }
    x, step, h = factors["other"]
    assert at(run, 0, "norm_squared_rate", group="other") == pytest.approx(2 * x * x * math.log(1 - step) / h, rel=1e-2)
    assert at(run, 0, "norm_squared_rate", "order-0", "other") == pytest.approx(-2 * x * x * step / h, rel=1e-12)
    exact = sum(2 * x * x * math.log(1 - s) / h for x, s in ((0.7, 0.05 * 1.2), (-0.4, 0.05 * 2.2)))
    first = sum(-2 * x * x * s / h * (1 + s / 2) for x, s in ((0.7, 0.05 * 1.2), (-0.4, 0.05 * 2.2)))
    assert at(run, 0, "norm_squared_rate", "order-1", "theta") == pytest.approx(first, rel=1e-12)
    assert at(run, 0, "norm_squared_rate", group="theta") == pytest.approx(exact, rel=1e-3)
    assert at(run, 0, "sharpness") == pytest.approx(1.8, rel=1e-10)  # of 1.8, and 1.2 and 2.2 at half the rate
    assert at(run, 0, "penalty") == pytest.approx((0.2 * (0.49 + 0.16) + 0.3 * 0.81) / 2, rel=1e-13)


class Odd(nn.Module):
    """A frozen layer, one that the loss does not use, and a head tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.frozen, self.unused = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(2, 2)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.frozen.requires_grad_(False)

    def forward(self, i: Tensor) -> Tensor:
        return self.head(torch.tanh(self.frozen(self.embed(i))))


def test_frozen_unused_and_tied_parameters_are_what_they_are(tmp_path):
    def make():
        g = torch.Generator().manual_seed(0)
        return seeded(Odd), (torch.randint(5, (20,), generator=g), torch.randint(5, (20,), generator=g))

    run = tracked(tmp_path / "run", make=make, order=2, count=12)
    assert run.manifest["groups"] == ["embed.weight", "unused.weight", "unused.bias", "all"]
    assert at(run, 5, "update_mismatch") < 1e-13
    for source in ("measured", "order-0", "order-1"):
        assert at(run, 5, "norm_rate", source, "unused.weight") == 0.0  # SGD neither moves nor decays it
    exact = at(run, 5, "norm_squared_rate", group="embed.weight")
    errors = [abs(at(run, 5, "norm_squared_rate", f"order-{k}", "embed.weight") - exact) for k in (0, 1, 2)]
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 3


def test_a_norm_of_zero_has_values_but_no_predicted_rate_of_its_norm(tmp_path):
    def make():
        model, batch = tanh_mlp()
        nn.init.zeros_(model.get_parameter("head.bias"))
        return model, batch

    run = tracked(tmp_path / "run", make=make)
    table = run.table()
    assert not table.value.isna().any()
    assert at(run, 0, "norm", group="head.bias") == 0.0
    assert at(run, 0, "norm_squared_rate", "order-0", "head.bias") == 0.0
    assert "order-0" in sources(run, "norm_rate", step=0)
    bias = table[(table.step == 0) & (table.group == "head.bias") & (table.quantity == "norm_rate")]
    assert set(bias.source) <= {"measured"}


def test_order_none_records_values_only_and_evaluates_nothing_again(tmp_path):
    calls = 0

    def counted(model: nn.Module, batch) -> Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(model, batch)

    run = tracked(tmp_path / "run", loss_fn=counted, order=None, count=12)
    assert calls == 12
    quantities = {"norm_squared", "norm", "loss", "penalty", "lr"}
    assert set(run.table().quantity) == quantities
    assert not kinds(run)


def test_an_observed_batch_gives_the_same_records_as_a_computed_loss(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=DECAY)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "observed", every=5) as tracker:
        for _ in range(20):
            optimizer.zero_grad()
            tracker.observe(batch)
            cross_entropy(model, batch).backward()
            optimizer.step()
    keys = ["step", "quantity", "source", "group"]
    tables = [r.table().sort_values(keys).reset_index(drop=True) for r in (tracker.run, tracked(tmp_path / "run"))]
    assert tables[0][keys].equals(tables[1][keys])
    assert torch.allclose(*(torch.tensor(t.value.to_numpy(), dtype=DTYPE) for t in tables), rtol=1e-12, atol=1e-12)
