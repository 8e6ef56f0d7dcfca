"""Newton's method for u = g(u) without matrices: directions by GMRES, from differences of g alone.

Each row of a batch has its own Krylov space; they take their steps together.

Source: Knoll & Keyes, J. Comput. Phys. 193, 2004; Saad & Schultz, SIAM J. Sci. Stat. Comput. 7(3), 1986.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]  # [b, n] -> [b, n], row by row
FORCING = 1e-3  # of its right side, that a direction leaves
SPACE = 40  # directions of a Krylov space, at most


def direction(g: Map, u: Tensor, value: Tensor) -> Tensor:
    """du [b, n] with (1 - g'(u)) du = g(u) - u, up to ``FORCING``; ``value`` is g(u)."""
    return gmres(lambda v: v - along(g, u, value, v), value - u, FORCING, SPACE)


def along(g: Map, u: Tensor, value: Tensor, v: Tensor) -> Tensor:
    """[b, n] g'(u) v, by a forward difference: g may be known to some digits less than u."""
    size = u.norm(dim=-1, keepdim=True) + value.norm(dim=-1, keepdim=True)
    e = torch.finfo(u.dtype).eps ** 0.375 * unit(size, v.norm(dim=-1))
    e = torch.where(e > 0, e, 1.0)  # at u = g(u) = 0
    return (g(u + e * v) - value) / e


def gmres(product: Map, right: Tensor, tolerance: float, most: int) -> Tensor:
    """x [b, n] with |right - A x| <= tolerance |right| for each row, or the best in a space of ``most`` directions.

    A V_k = V_(k+1) H_k with orthonormal V: x = V_k y of the least | |right| e_1 - H_k y |.
    """
    size = right.norm(dim=-1)
    space = right.new_zeros(most + 1, *right.shape)
    hessenberg = right.new_zeros(len(right), most + 1, most)
    goal = torch.nn.functional.pad(size[:, None, None], (0, 0, 0, most))  # [b, most + 1, 1]
    space[0] = unit(right, size)
    for k in range(most):
        basis, new = space[: k + 1], product(space[k])
        for _ in range(2):  # the second time for rounding
            share = torch.einsum("kbn,bn->bk", basis, new)
            new = new - torch.einsum("kbn,bk->bn", basis, share)
            hessenberg[:, : k + 1, k] += share
        left = new.norm(dim=-1)
        hessenberg[:, k + 1, k], space[k + 1] = left, unit(new, left)
        head, end = hessenberg[:, : k + 2, : k + 1], goal[:, : k + 2]
        y = shortest(head, end)
        if bool(((end - head @ y).norm(dim=(-2, -1)) <= tolerance * size).all()):
            break
    return torch.einsum("kbn,bk->bn", space[: k + 1], y[..., 0])


def shortest(a: Tensor, b: Tensor) -> Tensor:
    """[b, m, 1] the shortest x of the least |a x - b|; on a GPU torch's solver knows matrices of full rank alone."""
    return torch.linalg.lstsq(a, b, driver="gelsd").solution if a.is_cpu else torch.linalg.pinv(a) @ b


def unit(v: Tensor, size: Tensor) -> Tensor:
    return v / torch.where(size > 0, size, 1.0)[..., None]
