"""First and second moments of linear problems, exactly: of the process, and of a scheme on it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eom.dynamics.field import State
from eom.dynamics.noise import Diagonal, require_commuting
from eom.dynamics.sde import Sde
from eom.errors import SettingError

LINEAR = 1e-9  # departure from an affine map, relative, that is rounding
PROBES = 3


class Moments(NamedTuple):
    """E y [n] and E y y^T [n, n]."""

    mean: Tensor
    second: Tensor

    @property
    def covariance(self) -> Tensor:
        """[n, n]"""
        return self.second - torch.outer(self.mean, self.mean)


def moments_at(y: State) -> Moments:
    """Of a process that is at ``y`` [n] for certain."""
    return Moments(y, torch.outer(y, y))


def evolved(sde: Sde, start: Moments, t: float) -> Moments:
    """Of dX = (A X + a) dt + sum_j (B_j X + b_j) dW_j after time ``t``, for an autonomous linear ``sde``.

    ``start`` is ``moments_at(y)`` for a process that is at y for certain.

    With Z = (1, X), P = E Z Z^T obeys P' = A P + P A^T + sum_j B_j P B_j^T.

    Raises:
        SettingError: the drift or the noise is not affine in the state, or depends on time.
    """
    if not isinstance(start, Moments):
        raise SettingError(f"start is a {type(start).__name__}, expected Moments, such as moments_at(y)")
    y = start.mean
    if isinstance(sde.noise, Diagonal):
        require_commuting(sde.noise, 0.0, y)
    sde = sde.read_as("ito")
    m = sde.noise.channels(y)
    unit = torch.eye(m, dtype=y.dtype)
    for f in (sde.drift, *(lambda s, x, e=e: sde.noise(s, x, e) for e in unit)):
        if not all(torch.allclose(f(0.0, y), f(s, y), rtol=LINEAR, atol=0) for s in (t / 3, t)):
            raise SettingError("moments are exact for autonomous problems, and this one depends on time")
    drift = homogeneous(lambda x: sde.drift(0.0, x), y)
    parts = [homogeneous(lambda x, e=e: sde.noise(0.0, x, e.expand(*x.shape[:-1], m)), y) for e in unit]
    one = torch.eye(len(drift), dtype=y.dtype)
    operator = torch.kron(drift, one) + torch.kron(one, drift) + sum(torch.kron(b, b) for b in parts)
    p = _packed(start)
    return _unpacked((torch.linalg.matrix_exp(t * operator) @ p.reshape(-1)).view_as(p))


def marched(step: Callable[[State], State], weights: Tensor, start: Moments, steps: int) -> Moments:
    """Of a scheme after ``steps`` steps, for one whose ``step`` is affine in the state.

    ``step`` takes [q, n] to [q, n], one outcome of its random numbers in each row, with ``weights`` [q]: the nodes of a
    quadrature, or every batch there is. With ``nodes = gaussian_nodes(m, points)`` in place of a path, one step of a
    scheme is ``lambda y: EulerMaruyama(nodes).step(sde, 0.0, h, y, EulerMaruyama().init(y))[0]``; a scheme that keeps
    something from one step for the next, as Leimkuhler-Matthews does, has no such map of y alone.

    Raises:
        SettingError: the step is not affine in the state.
    """
    q = len(weights)
    maps = homogeneous(lambda x: step(x.expand(q, -1) if x.ndim == 1 else x), start.mean, batch=q)  # [q, n+1, n+1]
    maps[:, 0, 0] = 1
    p = _packed(start)
    for _ in range(steps):
        p = torch.einsum("q,qij,jk,qlk->il", weights.to(p), maps, p, maps)
    return _unpacked(p)


def homogeneous(f: Callable[[State], State], y: State, batch: int | None = None) -> Tensor:
    """[n + 1, n + 1] the matrix of (1, y) -> (0, f(y)) for an affine f; with ``batch`` one for each row of its result.

    Raises:
        SettingError: f is not affine.
    """
    n = len(y)
    shift = f(torch.zeros_like(y))
    columns = torch.stack([f(e) - shift for e in torch.eye(n, dtype=y.dtype)], -1)
    scale, generator = 1 + float(y.abs().max()), torch.Generator().manual_seed(0)
    probes = scale * torch.randn(PROBES, n, dtype=y.dtype, generator=generator)
    wanted = torch.stack([shift + columns @ probe for probe in probes])
    found = torch.stack([f(probe) for probe in probes])
    if not torch.allclose(found, wanted, rtol=LINEAR, atol=LINEAR * float(wanted.abs().max())):
        raise SettingError("moments are exact for linear problems, and this one is not affine in the state")
    found = y.new_zeros(*([batch] if batch else []), n + 1, n + 1)
    found[..., 1:, 0], found[..., 1:, 1:] = shift, columns
    return found


def _packed(moments: Moments) -> Tensor:
    """E (1, y) (1, y)^T [n + 1, n + 1]."""
    mean, second = moments
    top = torch.cat([mean.new_ones(1), mean])
    return torch.cat([top[None], torch.cat([mean[:, None], second], 1)])


def _unpacked(p: Tensor) -> Moments:
    return Moments(p[0, 1:], p[1:, 1:])
