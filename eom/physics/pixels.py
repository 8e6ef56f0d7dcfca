"""Films of a pendulum that are drawn by us, what is read back from them, and films of a user's own as states.

A state is two frames in a row, flattened, since one alone shows no velocity.

Source: Greydanus, Dzamba & Yosinski, Hamiltonian neural networks, NeurIPS 2019, sec. 5; their films are of OpenAI Gym.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from eom.errors import DataError, SettingError
from eom.physics.data_sets import WIDE, motion
from eom.physics.limits import is_number, require_finite, require_seed
from eom.physics.systems import pendulum
from eom.physics.trajectories import Trajectories

SIDE = 28  # pixels
ROD, BOB, THICK, BLUR = 9.0, 3.0, 0.8, 0.7  # pixels: length of the rod, radius of the bob, widths of rod and of edges


class Film(NamedTuple):
    """``frames`` [b, s, h, w] in 0..1, a time ``dt`` apart, of a motion through ``states`` [b, s, n]."""

    frames: Tensor
    states: Tensor
    dt: float


def render(angle: Tensor) -> Tensor:
    """[..., 28, 28] frames in 0..1 of a pendulum at ``angle`` [...], which hangs down at 0 and moves right at first.

    1 - (1 - exp(-d^2 / 2 w^2)) (1 - Phi((r - e) / b)) of each pixel's distances d to the rod and e to the bob's centre,
    all around the middle of the frame. Smooth in the angle: gradients flow through it.
    """
    at = torch.arange(SIDE, dtype=angle.dtype, device=angle.device) - (SIDE - 1) / 2
    x, y = at[None, :], at[:, None]  # to the right; down
    s, c = torch.sin(angle)[..., None, None], torch.cos(angle)[..., None, None]
    along = (x * s + y * c).clamp(0, ROD)
    rod = torch.exp(-((x - along * s) ** 2 + (y - along * c) ** 2) / (2 * THICK**2))
    apart = ((x - ROD * s) ** 2 + (y - ROD * c) ** 2 + 1e-12).sqrt()  # whose root has a slope at 0
    bob = torch.special.ndtr((BOB - apart) / BLUR)
    return 1 - (1 - rod) * (1 - bob)


def film_angle(frames: Tensor) -> Tensor:
    """[...] angles of frames [..., h, w]: atan2(sum I x, sum I y) around the middle.

    A pendulum is its own mirror image in its rod, so that the centre of its light lies on it: exactly in the plane, and
    on pixels to what sums over them lack of integrals, exp(-2 pi^2 b^2) = 6e-5 for edges of width b = .7. A uniform
    background has its centre in the middle and changes nothing.

    Raises:
        DataError: no tensor, frames that are not finite, or of one brightness throughout, which show no angle.
    """
    _require_frames(frames)
    if frames.ndim < 2:
        raise DataError(f"frames have shape {list(frames.shape)}, expected [..., h, w]")
    require_finite("frames", frames)
    even = int((frames.flatten(-2).amax(-1) == frames.flatten(-2).amin(-1)).sum())
    if even:
        raise DataError(f"{even} frames are of one brightness throughout, black or not, and show no pendulum")
    h, w = frames.shape[-2:]
    across = torch.arange(w, dtype=frames.dtype, device=frames.device) - (w - 1) / 2
    down = torch.arange(h, dtype=frames.dtype, device=frames.device) - (h - 1) / 2
    return torch.atan2((frames.sum(-2) * across).sum(-1), (frames.sum(-1) * down).sum(-1))


def film_energy(frames: Tensor, dt: float) -> Tensor:
    """[..., s - 4] energies H of ``pendulum()`` read off a film [..., s, h, w].

    p = q' / 2 with q' = (8 (q_1 - q_-1) - (q_2 - q_-2)) / 12 dt, off by (omega dt)^4 / 30 of its size.

    Raises:
        DataError: fewer than five frames, or no time between them; frames that have no ``film_angle``.
    """
    _require_time(dt)
    _require_frames(frames)
    if frames.ndim < 3 or frames.shape[-3] < 5:
        raise DataError(f"frames have shape {list(frames.shape)}, expected [..., s, h, w] with s of five or more")
    q = film_angle(frames)
    rate = (8 * (q[..., 3:-1] - q[..., 1:-3]) - (q[..., 4:] - q[..., :-4])) / (12 * dt)
    return pendulum().energy(torch.stack([q[..., 2:-2], rate / 2], -1))


def _require_frames(frames: Tensor) -> None:
    if not isinstance(frames, Tensor):
        raise DataError(f"frames are a {type(frames).__name__}, expected a tensor: torch.as_tensor of an array")


def _require_time(dt: float) -> None:
    if not (is_number(dt) and dt > 0):
        raise DataError(f"dt is {dt!r}, expected the positive time between two frames")


def pendulum_film(count: int, seed: int, *, frames: int = 46, dt: float = 0.12) -> Film:
    """``count`` films of swings from angles U(-pi/6, pi/6), p = U(-.1, .1), float64; 21 frames are a period."""
    if type(count) is not int or count < 1 or type(frames) is not int or frames < 2 or not 0 < dt < math.inf:
        raise SettingError(
            f"count, frames, dt are {count!r}, {frames!r}, {dt!r}; expected a whole number of films, two frames or "
            "more, and a positive time"
        )
    require_seed(seed)
    drawn = 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=WIDE) - 1
    start = drawn * torch.tensor([math.pi / 6, 0.1], dtype=WIDE)
    states = motion(pendulum(), start, torch.arange(frames, dtype=WIDE) * dt)
    return Film(render(states[..., 0]), states, dt)


def frame_pairs(frames: Tensor, dt: float) -> Trajectories:
    """States [b, s - 1, 2 h w] of a film [s, h, w], or of b films [b, s, h, w], with ``dt`` between two frames.

    Raises:
        DataError: other shapes, no floats, fewer than three frames, numbers that are not finite, or nothing that moves.
    """
    _require_frames(frames)
    if frames.ndim not in (3, 4) or not frames.is_floating_point():
        raise DataError(
            f"frames are {frames.dtype} of shape {list(frames.shape)}, expected floats [s, h, w] or [b, s, h, w]: one "
            "number for each pixel. Divide bytes by 255, and take the mean over colours"
        )
    _require_time(dt)
    if frames.ndim == 4 and frames.shape[-1] in (1, 3, 4):
        raise DataError(
            f"frames have shape {list(frames.shape)}, with colours last, or {frames.shape[-1]} pixels wide: expected "
            "one number for each pixel, as frames.mean(-1); give so narrow films turned by 90 degrees"
        )
    films = frames if frames.ndim == 4 else frames[None]
    if not len(films) or films.shape[1] < 3 or films[0, 0].numel() < 2:
        raise DataError(
            f"frames have shape {list(frames.shape)}: a state is two frames in a row, and two states are needed, so "
            "three frames or more, of two pixels or more"
        )
    bad = (~films.isfinite()).nonzero()
    if len(bad):
        raise DataError(
            f"{len(bad)} pixels are not finite, the first in frame {int(bad[0, 1])} of film {int(bad[0, 0])}"
        )
    still = (films == films[:, :1]).flatten(1).all(1).nonzero()
    if len(still):
        raise DataError(f"nothing moves in film {int(still[0])}: all its {films.shape[1]} frames are the same")
    flat = films.flatten(2)
    times = torch.arange(films.shape[1] - 1, dtype=torch.float64, device=frames.device) * dt  # frames may be halves
    return Trajectories(times, torch.cat([flat[:, :-1], flat[:, 1:]], -1))


def film_of(pairs: Trajectories, height: int, width: int) -> Tensor:
    """[b, s + 1, height, width] frames of states [b, s, 2 height width]: of each the first, and the very last."""
    if pairs.size != 2 * height * width:
        raise DataError(f"states have {pairs.size} entries, expected two frames of {height} x {width}")
    first, second = pairs.states.chunk(2, -1)
    return torch.cat([first, second[:, -1:]], 1).unflatten(-1, (height, width))
