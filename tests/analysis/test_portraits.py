"""Pictures of motion: labelled axes with units, legends, one scale for true and predicted, as many frames as states."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import Normalize
from PIL import Image
from torch import nn

from eom import physics, picturing
from eom.analysis import drawing, fields, films, portraits
from eom.errors import DataError, SettingError
from eom.physics.learned_fields import GridEnergy, dense

T = np.linspace(0, 1, 6)
RING = np.stack([np.cos(6 * T), np.sin(6 * T)], -1)[None]  # [1, s, 2]


def bowl(states):
    return (states**2).sum(-1)


@pytest.fixture
def kept(monkeypatch):
    """The figures as matplotlib has them, before they are written."""
    figures = []

    def keep(figure, name):
        figures.append(figure)
        return drawing.inline(figure, name)

    for module in (portraits, fields):
        monkeypatch.setattr(module, "inline", keep)
    return figures


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def measured(figure):
    """Drawn, so that extents are in points."""
    figure.set_dpi(72)
    figure.draw_without_rendering()


def test_a_portrait_has_equal_axes_with_units_and_a_legend_of_all_that_is_drawn(kept):
    panels = [portraits.Portrait("plain", 1.1 * RING), portraits.Portrait("with energy", RING, lambda u: bowl(u) + 7)]
    svg = portraits.phase_portrait("p", RING, panels, ("angle / rad", "p"), bowl, observed=RING)
    (figure,) = kept
    assert [ax.get_title() for ax in figure.axes] == ["observed points", "plain", "with energy"]
    for ax in figure.axes:
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_aspect()) == ("angle / rad", "p", 1.0)
        assert ax.get_xlim() == figure.axes[0].get_xlim()
    assert texts(figure) == [
        "true motion",
        "predicted motion",
        "level lines of the true energy",
        "of the learned energy",
    ]
    assert svg.startswith("<svg")
    assert 'id="p-' in svg


def test_without_energies_a_portrait_promises_no_level_lines(kept):
    portraits.phase_portrait("p", RING, [portraits.Portrait("plain", RING)], ("x / m", "y / m"))
    assert texts(kept[0]) == ["true motion", "predicted motion"]
    assert not kept[0].axes[0].collections


def test_without_models_a_portrait_is_of_the_true_motion_alone(kept):
    test = physics.data_sets.springs().exact(2, 0)
    picturing.phase_portrait({}, physics.spring(), test)
    picturing.phase_portrait({}, None, test, observed=test)
    assert [[ax.get_title() for ax in figure.axes] for figure in kept] == [
        ["true motion"],
        ["observed points", "true motion"],
    ]
    assert [texts(figure) for figure in kept] == [["true motion", "level lines of the true energy"], ["true motion"]]
    assert [len(ax.lines) for ax in kept[1].axes] == [1, 2]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_legends_of_portraits_are_inside_the_picture_and_above_its_panels(kept, count):
    panels = [portraits.Portrait(f"model {k}", RING, bowl) for k in range(count)]
    portraits.phase_portrait("p", RING, panels, ("q", "p"), bowl)
    measured(kept[0])
    legend, first = kept[0].legends[0].get_window_extent(), kept[0].axes[0].title.get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= kept[0].bbox.x1
    assert first.y1 < legend.y0


def test_a_learned_energy_that_is_right_but_for_a_constant_has_the_level_lines_of_the_true_one(kept):
    portraits.phase_portrait("p", RING, [portraits.Portrait("m", RING, lambda u: bowl(u) - 3)], ("q", "p"), bowl)
    true, learned = kept[0].axes[0].collections
    assert true.get_linewidths()[0] > 2 * learned.get_linewidths()[0]  # and below it: both are seen
    np.testing.assert_allclose(learned.levels, true.levels)
    for one, other in zip(learned.get_paths(), true.get_paths(), strict=True):
        np.testing.assert_allclose(one.vertices, other.vertices, atol=1e-12)


def energies(values, lines=("true", "model")):
    rows = [
        {"panel": "p", "unit": "H / J", "line": text, "time": t, "value": v, "low": v / 2, "high": 2 * v}
        for text, column in zip(lines, values, strict=True)
        for t, v in zip(T, column, strict=True)
    ]
    return pd.DataFrame(rows)


def test_sizes_over_many_powers_of_ten_are_on_a_logarithmic_axis_and_signed_values_on_a_linear_one(kept):
    wide = [np.full(6, 1e-14), np.array([0, 1e-4, 1e-3, 1e-2, 1e-1, 1])]
    portraits.energy_courses("e", energies(wide), "time / s")
    portraits.energy_courses("e", energies([np.zeros(6), np.linspace(-1, 1e3, 6)]), "time / s")
    portraits.energy_courses("e", energies([np.full(6, 3.0), np.linspace(3, 4, 6)]), "time / s")
    assert [figure.axes[0].get_yscale() for figure in kept] == ["log", "linear", "linear"]
    low, high = kept[0].axes[0].get_ylim()
    assert low <= 1e-14 < 1 <= high
    for figure in kept:
        assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("time / s", "H / J")
        assert texts(figure) == ["true", "model"]


def test_the_start_where_only_rounding_is_there_is_not_on_a_logarithmic_axis(kept):
    late = np.array([1e-17, 1e-4, 1e-3, 1e-2, 1e-1, 1])
    portraits.energy_courses("e", energies([late, late], ("a", "b")))
    portraits.energy_courses("e", energies([np.array([1e-17, 2, 3, 4, 5, 6])], ("a",)))
    wide, near = (figure.axes[0] for figure in kept)
    assert wide.get_yscale() == "log"
    assert wide.get_ylim()[0] > 1e-5
    assert list(wide.lines[0].get_xdata()) == list(T[1:])
    assert near.get_yscale() == "linear"  # what rounding is at the start says nothing of how much sizes differ
    assert list(near.lines[0].get_xdata()) == list(T)


def test_a_size_that_is_alone_on_a_logarithmic_axis_is_a_dot(kept):
    portraits.energy_courses("e", energies([np.array([0, 0, 1e-3, 0, 0, 0]), np.logspace(-5, 0, 6)]))
    alone, course = kept[0].axes[0].lines
    assert list(alone.get_ydata()) == [1e-3]
    assert (alone.get_marker(), course.get_marker()) == (".", "")


def apart(ax):
    """Whether the labels of its ticks in view are several, and a digit apart."""
    low, high = ax.get_xlim()
    boxes = [
        tick.label1.get_window_extent()
        for tick in ax.xaxis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_text()
    ]
    return len(boxes) > 1 and all(b.x0 - a.x1 > drawing.DIGIT for a, b in pairwise(boxes))


@pytest.mark.parametrize("span", [2e-5, 0.00025, 0.02, 1.0, 40.0, 250_000.0])
def test_labels_of_ticks_do_not_run_into_each_other(kept, span):
    frame = energies([np.zeros(6), np.linspace(-1, 1, 6)]).assign(time=lambda rows: rows.time * span)
    portraits.energy_courses("e", frame)
    portraits.phase_portrait("p", span * RING, [portraits.Portrait("m", span * RING)] * 2, ("q", "p"))
    fields.space_time("s", np.ones((1, 6, 8)), {"m": np.ones((1, 6, 8))}, T, span * np.arange(8) / 8)
    fields.snapshots("s", {"true": np.ones((5, 4, 4))}, T[:5], size=(span, span))
    for figure in kept:
        measured(figure)
        shown = [ax for ax in figure.axes if ax.get_title() and ax.xaxis.get_tick_params()["labelbottom"]]
        assert shown
        assert all(apart(ax) for ax in shown)


def meshes(figure):
    return [mesh for ax in figure.axes for mesh in ax.collections if mesh.get_array() is not None and ax.get_title()]


def test_true_predicted_and_difference_have_the_colours_of_the_true_fields_scale(kept):
    x = np.arange(8) / 8
    true = np.sin(2 * np.pi * (x[None] - T[:, None]))
    svg = fields.space_time("s", true[None], {"model": 3 * true[None]}, T, x, ("x / m", "t / s", "u / m"))
    panels = {ax.get_title(): ax for ax in kept[0].axes if ax.get_title()}
    assert list(panels) == ["true", "model", "model − true"]
    largest = np.abs(true).max()
    scales = {(mesh.norm.vmin, mesh.norm.vmax) for mesh in meshes(kept[0])}
    assert scales == {(-largest, largest)}
    assert isinstance(meshes(kept[0])[0].norm, Normalize)
    drawn = panels["model − true"].collections[0].get_array()
    np.testing.assert_allclose(drawn, 2 * true)
    assert panels["model − true"].get_xlabel() == "x / m"
    assert panels["true"].get_ylabel() == "t / s"
    bar = kept[0].axes[-1]
    assert bar.get_ylabel() == "u / m"
    assert bar._colorbar.extend == "both"  # a prediction goes beyond the scale, and the bar says so
    assert svg.count("<image") == 4  # three panels and the bar
    assert len(svg) < 60_000


def test_two_fields_on_a_line_have_panels_and_a_scale_each_and_a_line_of_unknown_points_none(kept):
    system = physics.wave(8)
    states = torch.cat([torch.ones(1, 3, 8), torch.full((1, 3, 8), 5.0)], -1).double()
    test = physics.Trajectories(torch.arange(3.0), states, system.entries)
    plain = physics.neural_ode(16).double()
    picturing.space_time({"m": plain}, test, system.grid, predicted={"m": test})
    on_grid = physics.energy_model(16, dense(16, 1, 4), system.structure).double()
    on_grid.grid = (8,)
    picturing.space_time({"m": on_grid}, test, predicted={"m": test})
    for figure in kept:
        assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["true", "m", "m − true"] * 2
        assert [mesh.norm.vmax for mesh in meshes(figure)] == [1, 1, 1, 5, 5, 5]
        assert {mesh.get_array().shape for mesh in meshes(figure)} == {(3, 8)}
        assert [bar.get_ylabel() for bar in figure.axes[-2:]] == ["u", "v"]
    for wrong, message in {(): r"the grid is \(\), .* grid=system.grid", (4, 4): "snapshots", (5,): "multiple"}.items():
        with pytest.raises(SettingError, match=message):
            picturing.space_time({"m": plain}, test, wrong, predicted={"m": test})
    with pytest.raises(SettingError, match="expected those of places, times and 2 fields"):
        picturing.space_time({"m": plain}, test, (8,), predicted={"m": test}, labels=("x", "t", "u"))


def test_a_true_field_alone_is_a_picture_too(kept):
    fields.space_time("s", np.ones((1, 6, 8)), {}, T, np.arange(8))
    assert [ax.get_title() for ax in kept[0].axes] == ["true", ""]


def test_snapshots_are_rows_of_times_on_one_scale(kept):
    true = np.random.default_rng(0).normal(size=(6, 4, 5))
    fields.snapshots("s", {"true": true, "model": 0.5 * true}, T, ("x / m", "y / m", "u / K"))
    axes, bar = kept[0].axes[:-1], kept[0].axes[-1]
    assert len(axes) == 12
    assert [ax.get_title() for ax in axes[:6]] == [f"t = {t:g}" for t in T]
    assert {(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in axes} == {
        (-np.abs(true).max(), np.abs(true).max())
    }
    assert (axes[6].get_ylabel(), axes[6].get_xlabel(), bar.get_ylabel()) == ("model: y / m", "x / m", "u / K")
    assert bar._colorbar.extend == "neither"


def test_animations_have_a_picture_for_each_state_even_where_nothing_moves(tmp_path):
    swing = films.film_pendulums(tmp_path / "a.gif", {"true": np.sin(3 * T), "model": np.zeros(6)}, T)
    still = films.film_fields(tmp_path / "b.gif", {"true": np.ones((6, 4, 4))}, T)
    for path in (swing, still):
        with Image.open(path) as film:
            assert film.n_frames == 6  # type: ignore[attr-defined]
            assert film.info["duration"] == 100


def test_models_and_trajectories_become_pictures_in_one_call(tmp_path):
    torch.manual_seed(0)
    system = physics.pendulum()
    states = system.simulate(torch.tensor([[1.0, 0.5], [0.5, 0.0]]).double(), h=0.2, steps=5)
    test = physics.Trajectories(torch.linspace(0, 1, 6), states.transpose(0, 1), system.entries)
    models = {
        "energy": physics.energy_model(2, dense(2, 1, 8)).double(),
        "plain": physics.second_order_ode(2, dense(2, 1, 8)),  # in float32
    }
    picture = picturing.phase_portrait(models, system, test)
    plain = picturing.phase_portrait(models, None, test).svg  # as of measured data
    assert "predicted motion" in plain
    assert "level lines" not in plain
    assert "level lines" in picture.svg
    saved = picture.save(tmp_path / "portrait.svg").read_text("utf-8")
    assert saved.startswith("<svg")
    assert "currentColor" not in saved
    assert "angle / rad" in saved
    over_time = picturing.energy_over_time(models, system, test).svg
    for text in ("change of the true energy", "error of the true energy", "change of the model's own energy"):
        assert text in over_time
    own = picturing.energy_over_time(models, None, test).svg
    assert "change of the model's own energy" in own
    assert "true energy" not in own
    with pytest.raises(DataError, match="no model has an energy"):
        picturing.energy_over_time({"plain": models["plain"]}, None, test)
    with Image.open(picturing.animate(models, test, tmp_path / "swing.gif")) as film:
        assert film.n_frames == 6  # type: ignore[attr-defined]


def test_an_own_energy_that_is_to_fall_is_drawn_with_its_sign_and_apart(kept):
    test = physics.Trajectories(torch.arange(3.0), torch.rand(2, 3, 2).double())
    models = {"damped": physics.damped_energy_model(2).double(), "kept": physics.energy_model(2).double()}
    picturing.energy_over_time(models, None, test, predicted=dict.fromkeys(models, test))
    panels = {ax.get_title(): ax.get_ylabel() for ax in kept[0].axes}
    assert panels == {
        "change of a damped model's own energy": "E(t) − E(0)",
        "change of the model's own energy": "|E(t) − E(0)|",
    }


def test_energies_are_pictured_as_they_are_written_for_a_batch_of_states_with_one_number_each(kept):
    class Rows(nn.Module):
        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return (u[:, 0] ** 2 + u[:, 1] ** 2)[:, None]  # not of [..., n], and [b, 1]

    spring, test = physics.spring(), physics.data_sets.springs(points=4).exact(3, 0)
    models = {"m": physics.energy_model(2, Rows()), "drifts": physics.neural_ode(2)}
    for energy in (spring.energy, lambda u: Rows()(u)[:, 0], Rows()):
        system = replace(spring, energy=energy)
        assert "of the learned energy" in picturing.phase_portrait(models, system, test).svg
        picturing.energy_over_time(models, system, test)
    usual, *others = ([line.get_ydata() for ax in figure.axes for line in ax.lines] for figure in kept[1::2])
    for other in others:
        for values, same in zip(usual, other, strict=True):
            np.testing.assert_allclose(same, values, atol=1e-14)
    assert max(np.abs(values).max() for values in usual) > 1e-3


def test_a_learned_energy_is_drawn_as_predictions_know_it_without_dropout_and_in_the_models_floats(kept):
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 1)).float()
    model, test = physics.energy_model(2, net), physics.data_sets.springs(points=4).exact(1, 0)
    for _ in range(2):
        picturing.energy_over_time({"m": model}, None, test, predicted={"m": test})
    first, again = (figure.axes[0].lines[0].get_ydata() for figure in kept)
    np.testing.assert_array_equal(first, again)
    assert model.training


def test_what_was_predicted_already_is_not_predicted_again():
    system = physics.spring()
    test = physics.Trajectories(torch.linspace(0, 1, 3), torch.rand(1, 3, 2, dtype=torch.float64), system.entries)
    model = physics.neural_ode(2).double()
    model.predict = None  # type: ignore[assignment]
    assert "predicted motion" in picturing.phase_portrait({"m": model}, system, test, predicted={"m": test}).svg


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda test: picturing.phase_portrait({}, None, test, pair=(0, 7)), r"pair\[1\] is 7, expected .* 0 to 1"),
        (lambda test: picturing.space_time({}, test, (2,), member=9), "member is 9, expected a number of 0 to 1"),
        (lambda test: picturing.snapshots({}, test, (2, 1), member=1.5), r"member is 1\.5"),  # type: ignore[arg-type] - as a user may
        (lambda test: picturing.animate({}, test, "no.gif", (2, 1), member=-3), "member is -3"),
    ],
    ids=["pair", "space and time", "snapshots", "animation"],
)
def test_entries_and_trajectories_that_are_not_there_are_named(draw, message):
    with pytest.raises(SettingError, match=message):
        draw(physics.data_sets.springs().exact(2, 0))


def test_a_model_without_parameters_is_drawn_as_any_other():
    class Known(nn.Module):
        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return u.square().sum(-1)

    system, test = physics.spring(), physics.data_sets.springs(points=3).exact(1, 0)
    models = {"known": physics.energy_model(2, Known())}
    assert "learned energy" in picturing.phase_portrait(models, system, test).svg
    assert picturing.energy_over_time(models, system, test).svg.startswith("<svg")


def test_there_is_no_median_over_trajectories_with_times_of_their_own():
    times = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    test = physics.Trajectories(times, torch.rand(2, 2, 2, dtype=torch.float64))
    with pytest.raises(DataError, match="times of their own"):
        picturing.energy_over_time({}, physics.spring(), test)
    assert picturing.energy_over_time({}, physics.spring(), test.select([0])).svg.startswith("<svg")


def test_fields_in_two_dimensions_are_rolled_up_and_a_wrong_grid_is_named(tmp_path):
    system = physics.cahn_hilliard(6, dimensions=2)
    model = physics.energy_model(36, GridEnergy((6, 6), 4), system.structure).double()
    test = physics.Trajectories(torch.linspace(0, 1e-3, 4), 0.1 * torch.randn(2, 4, 36).double(), system.entries)
    assert picturing.snapshots({"m": model}, test, (6, 6), count=3, predicted={"m": test}).svg.count("t = ") == 3
    with Image.open(picturing.animate({"m": model}, test, tmp_path / "f.gif", (6, 6), predicted={"m": test})) as film:
        assert film.n_frames == 4  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="no angle of a pendulum"):
        picturing.animate({"m": model}, test, tmp_path / "f.gif", predicted={"m": test})
    with pytest.raises(DataError, match=r"grid is \(6, 5\), and states have 36"):
        picturing.snapshots({"m": model}, test, (6, 5), predicted={"m": test})
    for line in ((36,), (36, 1)):
        with pytest.raises(DataError, match="of one dimension are drawn by space_time"):
            picturing.animate({"m": model}, test, tmp_path / "f.gif", line, predicted={"m": test})  # type: ignore[arg-type]


def test_what_pictures_are_not_made_of_is_named(tmp_path):
    test, model = physics.data_sets.springs().exact(2, 0), physics.energy_model(2).double()
    for act, message in [
        (lambda: picturing.energy_over_time({"true": model}, None, test), "name 'true', which is that of the true"),
        (lambda: picturing.energy_over_time({"m": model}, physics.double_pendulum(), test), "2 entries, double"),
        (lambda: picturing.phase_portrait({"m": model}, physics.double_pendulum(), test), "2 entries, double"),
        (lambda: picturing.phase_portrait({"m": physics.spring()}, None, test), "'m' is a System, .* to system="),  # type: ignore[dict-item] - as a user may
        (lambda: picturing.phase_portrait(model, None, test), "models are a LearnedSystem, expected them by name"),  # type: ignore[arg-type]
        (lambda: picturing.energy_over_time({}, model, test), "the system is a LearnedSystem, expected one such as"),  # type: ignore[arg-type]
        (lambda: picturing.snapshots({"m": model}, test, (2, 1), count=0), "count is 0, expected 1 or more"),
        (lambda: picturing.animate({"m": model}, test, tmp_path / "f.mp4"), "ends in .gif, in a folder"),
        (lambda: picturing.animate({"m": model}, test, tmp_path / "f.gif", rate=0.0), "rate is 0.0, expected pos"),
        (lambda: picturing.Picture("<svg/>").save(tmp_path / "no" / "f.svg"), "ends in .svg, in a folder"),
    ]:
        with pytest.raises((DataError, SettingError), match=message):
            act()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda test: {"modle": test}, "predicted holds 'modle', expected names of the models: model"),
        (lambda test: {"model": test.select([0])}, "predict at all times of test"),
        (lambda test: {"model": physics.Trajectories(7 * test.times, test.states)}, "predict at all times of test"),
        (lambda test: {"model": test.states}, "predicted is a Tensor, expected Trajectories"),
    ],
    ids=["name", "fewer", "times", "states"],
)
@pytest.mark.parametrize("picture", [picturing.energy_over_time, picturing.phase_portrait], ids=["energy", "portrait"])
def test_predictions_of_something_else_are_not_drawn(picture, make, message):
    test = physics.data_sets.springs().exact(2, 0)
    with pytest.raises((DataError, SettingError), match=message):
        picture({"model": physics.energy_model(2).double()}, physics.spring(), test, predicted=make(test))
