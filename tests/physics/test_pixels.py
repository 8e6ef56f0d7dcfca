"""Films: drawn, read back, taken from files of a user's own; and laws of motion learned through their pixels."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from eom import physics
from eom.dynamics.runge_kutta import RK4
from eom.errors import DataError, EomError, SettingError
from eom.physics.fitting import fit
from eom.physics.latents import LatentField, LatentStepper, latent_model, principal_coding
from eom.physics.learned_fields import EnergyField, PlainField, dense
from eom.physics.measured_files import read_frames
from eom.physics.models import LearnedSystem, energy_model, mean_square, neural_ode
from eom.physics.pixels import BLUR, film_angle, film_energy, film_of, frame_pairs, pendulum_film, render
from eom.physics.rules import Shooting, midpoint
from eom.physics.systems import pendulum, spring
from eom.physics.trajectories import Trajectories

WIDE = torch.float64
TURNS = torch.linspace(-3.1, 3.1, 301, dtype=WIDE)


def test_the_angle_is_read_back_to_what_sums_over_pixels_lack():
    """exp(-2 pi^2 b^2) = 6.3e-5 of a radian for edges of width b; uniform light behind it changes nothing."""
    assert float((film_angle(render(TURNS)) - TURNS).abs().max()) < math.exp(-2 * math.pi**2 * BLUR**2)
    torch.testing.assert_close(film_angle(render(TURNS) + 0.3), film_angle(render(TURNS)), rtol=0, atol=1e-12)


def test_frames_of_opposite_angles_are_mirror_images_bit_by_bit():
    assert torch.equal(render(-TURNS), render(TURNS).flip(-1))


def test_a_frame_is_light_between_nothing_and_one_and_hangs_down_at_rest():
    frame = render(torch.tensor(0.0, dtype=WIDE))
    assert frame.shape == (28, 28)
    assert 0 <= float(frame.min()) < 1e-12
    assert 0.999 < float(frame.max()) <= 1
    assert float(frame[14:].sum()) > 20 * float(frame[:13].sum())
    assert render(torch.zeros(2, 3)).shape == (2, 3, 28, 28)


def test_gradients_flow_through_the_drawing():
    angle = torch.tensor([0.4, 0.0], dtype=WIDE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: film_angle(render(a)), angle, atol=1e-6)


def test_a_film_is_of_the_pendulums_motion_and_of_its_seed():
    film, again, other = pendulum_film(3, 0), pendulum_film(3, 0), pendulum_film(3, 1)
    assert torch.equal(film.frames, again.frames)
    assert not torch.equal(film.frames, other.frames)
    assert torch.equal(film.frames, render(film.states[..., 0]))
    energies = pendulum().energy(film.states)
    assert float((energies - energies[:, :1]).abs().max()) < 1e-9  # the solver's tolerance
    assert float(film.states[:, 0, 0].abs().max()) < math.pi / 6


def test_a_period_has_twenty_one_frames():
    """2 pi / sqrt 6, and up to 1.7 % more at pi / 6: 21.4 to 21.8 frames between crossings of rest."""
    angle = pendulum_film(3, 2, frames=70).states[..., 0]
    for one in angle:
        k = ((one[:-1] < 0) & (one[1:] >= 0)).nonzero().flatten()
        when = k + one[k] / (one[k] - one[k + 1])
        assert 21.3 < float((when[-1] - when[0]) / (len(k) - 1)) < 21.9


def test_energies_read_off_a_film_are_those_of_the_motion():
    """Rates are off by (omega dt)^4 / 30 = 2.5e-4 of themselves, and energies by twice that, below H = 0.41."""
    film = pendulum_film(5, 3)
    true = pendulum().energy(film.states)[:, 2:-2]
    assert float((film_energy(film.frames, film.dt) - true).abs().max()) < 0.41 * 5e-4


def test_pairs_hold_the_film_and_give_it_back():
    film = pendulum_film(2, 0, frames=7)
    pairs = frame_pairs(film.frames, film.dt)
    assert pairs.states.shape == (2, 6, 2 * 784)
    torch.testing.assert_close(pairs.times[1], 0.12 * torch.arange(6, dtype=WIDE))
    torch.testing.assert_close(pairs.states[1, 4, 784:].view(28, 28), film.frames[1, 5])
    torch.testing.assert_close(film_of(pairs, 28, 28), film.frames)
    torch.testing.assert_close(frame_pairs(film.frames[1], film.dt).states, pairs.states[1:])


FILM = pendulum_film(2, 0, frames=6).frames


def broken(value: float) -> Tensor:
    film = FILM.clone()
    film[1, 4, 0, 0] = value
    return film


@pytest.mark.parametrize(
    ("film", "dt", "complaint"),
    [
        (FILM[0, 0], 0.1, r"shape \[28, 28\], expected floats \[s, h, w\]"),
        ((255 * FILM).to(torch.uint8), 0.1, "frames are torch.uint8 .* Divide bytes by 255"),
        (FILM[:, :2], 0.1, "three frames or more"),
        (FILM[:0], 0.1, "three frames or more"),
        (broken(math.nan), 0.1, "1 pixels are not finite, the first in frame 4 of film 1"),
        (broken(math.inf), 0.1, "not finite"),
        (torch.cat([FILM[:1], FILM[1:, :1].expand(-1, 6, -1, -1)]), 0.1, "nothing moves in film 1: all its 6 frames"),
        (FILM, 0.0, "dt is 0.0, expected the positive time"),
        (FILM, math.nan, "dt is nan"),
    ],
)
def test_a_film_that_shows_no_motion_or_is_none_is_refused(film, dt, complaint):
    with pytest.raises(DataError, match=complaint):
        frame_pairs(film, dt)


@pytest.mark.parametrize(
    ("act", "kind", "complaint"),
    [
        (lambda: pendulum_film(0, 0), SettingError, "count, frames, dt are 0"),
        (lambda: pendulum_film(1, 0, dt=-1.0), SettingError, "a positive time"),
        (lambda: film_energy(FILM[:, :4], 0.1), DataError, "five or more"),
        (lambda: film_energy(torch.cat([FILM, 0 * FILM[:, :1]], 1), 0.1), DataError, "2 frames are of one brightness"),
        (lambda: film_energy(broken(math.nan), 0.1), DataError, "frames holds NaN or infinity in 1 of its"),
        (lambda: film_energy(FILM.numpy(), 0.1), DataError, "frames are a ndarray, expected a tensor"),  # type: ignore[arg-type]
        (lambda: frame_pairs(FILM.numpy(), 0.1), DataError, "frames are a ndarray, expected a tensor"),  # type: ignore[arg-type]
        (lambda: film_angle(FILM[0, 0, 0]), DataError, r"frames have shape \[28\], expected \[\.\.\., h, w\]"),
        (lambda: film_energy(FILM, 0), DataError, "dt is 0, expected the positive time"),
        (lambda: frame_pairs(FILM, None), DataError, "dt is None, expected"),  # type: ignore[arg-type] - as a user may
        (lambda: pendulum_film(1, 1.5), SettingError, r"seed is 1\.5"),  # type: ignore[arg-type] - as a user may
        (
            lambda: frame_pairs(FILM[..., None].expand(-1, -1, -1, -1, 3)[0], 0.1),
            DataError,
            r"colours last, or 3 .*mean\(-1\)",
        ),
        (lambda: film_of(frame_pairs(FILM, 0.1), 28, 27), DataError, "1568 entries, expected two frames of 28 x 27"),
        (lambda: latent_model(8, neural_ode(3)), SettingError, "3 latents"),
        (lambda: latent_model(8, energy_model(2), time=0.0), SettingError, "a positive time"),
        (lambda: principal_coding(frame_pairs(FILM, 0.1), 3, components=2), SettingError, "2 components for 3 latents"),
        (lambda: principal_coding(frame_pairs(FILM, 0.1), 2, components=10), DataError, "9 directions.*take fewer"),
        (
            lambda: latent_model(1568, energy_model(2)).residual(frame_pairs(FILM[:1, :3], 0.1).windows()),
            DataError,
            "take batch=2 or more",
        ),
        (lambda: latent_model(4, physics.hamiltonian_network(2)), SettingError, "those of codes are not observed"),
    ],
)
def test_bad_input_is_named(act, kind, complaint):
    with pytest.raises(kind, match=complaint):
        act()


def turned(count: int, seed: int) -> tuple[Trajectories, Tensor]:
    """A spring's motion behind a rotation into six entries."""
    times = torch.arange(12, dtype=WIDE) * 0.2
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count, 2, generator=generator, dtype=WIDE)
    solution = spring().solution
    assert solution is not None
    z = torch.stack([solution(float(t), start) for t in times], 1)
    basis = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(7), dtype=WIDE))[0]
    return Trajectories(times, z @ basis.T), basis


def linear(weight: Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


class Sum(torch.nn.Module):
    """H = |u|^2, of ``spring``."""

    def forward(self, u: Tensor) -> Tensor:
        return u.square().sum(-1)


def test_with_the_true_code_and_energy_nothing_is_left_and_the_motion_is_predicted():
    """Of a spring q' = 2 p, so that p is q' in the unit of time 1/2; its energy-keeping step is the midpoint rule."""
    data, basis = turned(4, 0)
    model: Any = latent_model(6, energy_model(2, Sum()), linear(basis.T), linear(basis), time=0.5)
    system = spring()
    march = system.simulate(data.states[:, 0] @ basis, h=0.2, steps=11).transpose(0, 1) @ basis.T
    exact = Trajectories(data.times, march)
    assert float(model.residual(exact.windows()).detach().abs().max()) < 1e-12
    found = model.predict(march[:, 0], data.times)
    torch.testing.assert_close(found.states, march, rtol=0, atol=1e-11)
    torch.testing.assert_close(model.field.energy(march[:, 3]), system.energy(march[:, 3] @ basis))
    rate = system.field(0.0, march[:, 3] @ basis) @ basis.T
    torch.testing.assert_close(model(march[:, 3]), rate)
    backward = latent_model(6, energy_model(2, Sum()), linear(-basis.T), linear(basis), time=0.5)
    assert float(mean_square(backward, exact.windows()).detach()) > 1


def test_two_near_frames_do_not_outweigh_the_motion():
    """Noise over a short step is a large rate: the wrong law is still seen, and weighed as without them."""
    seen = physics.data_sets.springs(noise=0.01).draw(10, seed=0)
    near = torch.cat([seen.times, seen.times[:, 10:11] + 1e-5], 1).sort(1).values
    noisy = seen.states[:, 10:11] + 0.01 * torch.randn(10, 1, 2, generator=torch.Generator().manual_seed(0), dtype=WIDE)
    uneven = Trajectories(near, torch.cat([seen.states[:, :11], noisy, seen.states[:, 11:]], 1))

    def losses(size: float) -> list[float]:
        law: Any = physics.EnergyField(lambda u: size * u.square().sum(-1))  # type: ignore[arg-type] - a function
        model = latent_model(2, LearnedSystem(2, law, midpoint, RK4()), nn.Identity(), nn.Identity(), time=0.5)
        return [float(mean_square(model, data.windows())) for data in (seen, uneven)]

    for size in (0.0, 1.0):
        even, other = losses(size)
        assert other == pytest.approx(even, rel=0.1, abs=0.01)
    assert losses(1.0)[1] < 0.1 * losses(0.0)[1]


def test_only_the_first_state_is_encoded():
    """A prediction marches codes: a decoder that loses all does not stop them."""
    _, basis = turned(1, 0)
    field = LatentField(linear(basis.T), linear(0 * basis), EnergyField(Sum()))
    stepper = LatentStepper(RK4())
    u = torch.ones(2, 6, dtype=WIDE)
    y, carry = stepper.step(field, 0.0, 0.1, u, stepper.init(u))
    _, (z, _) = stepper.step(field, 0.0, 0.1, y, carry)
    torch.testing.assert_close(z.square().sum(-1), (u @ basis).square().sum(-1), rtol=1e-5, atol=0)
    assert float(y.detach().abs().max()) == 0


def test_a_plain_field_has_no_energy_behind_its_code():
    assert not hasattr(
        LatentField(linear(torch.ones(2, 6)), linear(torch.ones(6, 2)), PlainField(dense(2, 2))), "energy"
    )


def test_principal_codes_are_white_and_decode_to_the_best_states_of_their_rank():
    data, _ = turned(6, 1)
    encode, decode = (list(part.children()) for part in principal_coding(data, 2, components=2))
    u = data.states.flatten(0, 1)
    codes = encode[0](u)
    torch.testing.assert_close(codes.mean(0), torch.zeros(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(codes.T @ codes / len(u), torch.eye(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(decode[1](codes), u)  # the states have rank two


@pytest.mark.parametrize("mirrored", [False, True])
def test_principal_codes_do_not_depend_on_the_signs_that_a_decomposition_leaves_open(mirrored):
    """Of the same states in another order, LAPACK gives some of its vectors with the other sign."""
    film = pendulum_film(6, 0, frames=12)
    frames = torch.cat([film.frames, film.frames.flip(-1)]) if mirrored else film.frames
    own, *others = (frame_pairs(frames.roll(k, 0), film.dt) for k in range(6))
    code = principal_coding(own, 2, components=6)[0][0]  # type: ignore[index] - a Sequential
    for data in others:
        again = principal_coding(data, 2, components=6)[0][0]  # type: ignore[index]
        torch.testing.assert_close(again(own.states), code(own.states), rtol=0, atol=1e-9)


def swings(count: int, seed: int) -> Trajectories:
    film = pendulum_film(count, seed, frames=24)
    return frame_pairs(film.frames, film.dt)


def learned(system: LearnedSystem, steps: int) -> LearnedSystem:
    seen = swings(8, 0)
    torch.manual_seed(0)
    model = latent_model(seen.size, system, *principal_coding(seen, 2, components=8, width=32), time=6**-0.5)
    fit(model, seen, steps=steps, batch=40, optimizer=torch.optim.Adam(model.parameters(), 5e-3), seed=0)
    return model


def test_a_hamiltonian_of_latents_is_learned_through_pixels_and_kept():
    """Predictions over a period are nearer to the film than a picture of its mean, and the code's energy stays."""
    model, unseen = learned(energy_model(2, dense(2, 1, 32)), 200), swings(4, 1)
    found = model.predict(unseen.states[:, 0], unseen.times).states
    assert float((found - unseen.states).square().mean()) < 0.5 * float(unseen.states.var(1).mean())
    parts: Any = model
    start = parts.field.encode(unseen.states[:, 0])
    codes = LearnedSystem(2, parts.field.field, parts.rule, parts.stepper.stepper).predict(start, unseen.times).states
    energies = parts.field.field.energy(codes.flatten(0, 1)).view(4, -1)
    assert float((energies - energies[:, :1]).detach().abs().max()) < 1e-10


@pytest.mark.slow
def test_over_eight_periods_energy_read_off_a_hamiltonians_film_stays_and_a_plain_fields_drifts():
    """Means over two periods, at the end and at the start; what is left of the first are phases of the reading."""
    film = pendulum_film(4, 1, frames=4 * 43)
    pairs = frame_pairs(film.frames, film.dt)

    def drift(system: LearnedSystem) -> float:
        found = film_of(learned(system, 600).predict(pairs.states[:, 0], pairs.times), 28, 28)
        energies = film_energy(found, film.dt)
        return float((energies[:, -43:].mean(1) - energies[:, :43].mean(1)).square().mean())

    plain = LearnedSystem(2, PlainField(dense(2, 2, 32)), Shooting(RK4()), RK4())
    assert drift(energy_model(2, dense(2, 1, 32))) < 0.1 * drift(plain)


def picture(path, frame: Tensor, mode: str = "L") -> None:
    Image.fromarray((255 * frame).round().to(torch.uint8).numpy()).convert(mode).save(path)


def test_a_folder_of_pictures_is_read_in_the_order_of_names(tmp_path):
    """To half a grey level, in colour as in grey; other files are left out."""
    for k in (2, 0, 1):
        picture(tmp_path / f"{k:03}.png", FILM[0, k], "RGB" if k == 1 else "L")
    (tmp_path / "notes.txt").write_text("no frame")
    found = read_frames(tmp_path)
    torch.testing.assert_close(found, FILM[0, :3], rtol=0, atol=0.5 / 255 + 1e-12)
    torch.testing.assert_close(read_frames([tmp_path / "002.png", tmp_path / "000.png"]), found[[2, 0]])
    assert frame_pairs(found, 0.12).states.shape == (1, 2, 1568)


def test_an_array_of_bytes_is_divided_by_255_and_one_of_floats_is_taken_as_it_is(tmp_path):
    np.save(tmp_path / "floats.npy", FILM[0].numpy().astype(np.float32))
    np.save(tmp_path / "bytes.npy", (255 * FILM[0]).round().to(torch.uint8).numpy())
    torch.testing.assert_close(read_frames(tmp_path / "floats.npy"), FILM[0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(read_frames(str(tmp_path / "bytes.npy")), FILM[0], rtol=0, atol=0.5 / 255 + 1e-12)


def mixed(path) -> None:
    picture(path / "0.png", FILM[0, 0])
    picture(path / "1.png", FILM[0, 1, :20])


def no_picture(path) -> None:
    picture(path / "0.png", FILM[0, 0])
    (path / "1.png").write_text("no picture")


@pytest.mark.parametrize(
    ("fill", "complaint"),
    [
        (mixed, "2 frames of 2 sizes"),
        (lambda path: None, "0 frames"),
        (no_picture, "a frame could not be read"),
    ],
)
def test_a_folder_without_frames_of_one_size_is_refused(fill, complaint, tmp_path):
    fill(tmp_path)
    with pytest.raises(DataError, match=complaint):
        read_frames(tmp_path)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((3, 4)), r"shape \[3, 4\], expected finite numbers"),
        (np.full((3, 4, 4), np.nan), "expected finite numbers"),
        (np.array([{}], dtype=object), "no array without pickle"),
    ],
)
def test_an_array_that_is_no_film_is_refused(array, complaint, tmp_path):
    np.save(tmp_path / "film.npy", array)
    with pytest.raises(DataError, match=complaint):
        read_frames(tmp_path / "film.npy")


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.npy"):
        read_frames(tmp_path / "absent.npy")
    with pytest.raises(DataError, match=r"absent\.png"):
        read_frames([tmp_path / "absent.png"])


def test_a_picture_of_other_numbers_is_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)).save(tmp_path / "0.tif")
    with pytest.raises(DataError, match="values of mode F, expected 8 or 16 bits"):
        read_frames([tmp_path / "0.tif"])


def test_times_of_frames_are_in_double_precision():
    pairs = physics.frame_pairs(torch.rand(60, 4, 4, dtype=torch.float16), 0.15)
    torch.testing.assert_close(pairs.times[0], 0.15 * torch.arange(59.0, dtype=torch.float64), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: physics.principal_coding(torch.rand(3, 4, 5), 2), "the data are a Tensor, expected Trajectories"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.latent_model(4, physics.pendulum()), "the law of latents is a System, expected a model"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.latent_model(4, physics.energy_model(2), motion="1"), "motion, canonical, time of '1', 1.0"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.symplectic_network("a"), "size is 'a', expected 1 or more"),  # type: ignore[arg-type] - as a user may
    ],
)  # fmt: skip
def test_codes_and_laws_of_latents_that_are_none_are_refused(act, message):
    with pytest.raises(EomError, match=message):
        act()
