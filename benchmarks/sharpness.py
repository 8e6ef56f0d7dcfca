"""The five largest Hessian eigenvalues of the benchmark's perceptron to 1e-3: gradients they cost, and their errors.

    python benchmarks/sharpness.py [--rounds 5] [--csv FILE]

Cost is CPU time of one thread over that of one gradient, medians of paired rounds; errors are the largest over the five
eigenvalues, relative, against the float64 ones to 1e-9. Beside it scipy's eigsh on the same products to the same
tolerance, and PyHessian's power iteration where it is installed.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import table

K, RTOL, WANTED = 5, 1e-3, 60


def seconds(f: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = f()
    return time.process_time() - start, found


def scipys(objective: Any, theta: Any) -> Any:
    import numpy as np
    import torch
    from scipy.sparse.linalg import LinearOperator, eigsh

    at = objective.expansion(theta)

    def product(v: Any) -> Any:
        return at.hvp(torch.from_numpy(v.astype(np.float32)).ravel()).numpy()

    n = len(theta)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float32)  # type: ignore[call-overload] - its stub wants no matvec
    start = torch.randn(n, generator=torch.Generator().manual_seed(0)).numpy()
    settings: dict[str, Any] = {"which": "LA", "tol": RTOL, "v0": start}
    return eigsh(operator, k=K, return_eigenvectors=False, **settings)[::-1]


def pyhessians(model: Any, batch: Any) -> Any:
    import torch
    from pyhessian import hessian  # type: ignore[import-not-found] - measured where it is installed

    torch.manual_seed(0)
    found = hessian(model, torch.nn.functional.cross_entropy, data=batch, cuda=False)
    return found.eigenvalues(top_n=K, tol=RTOL)[0]


def main() -> None:
    table.hold_still()
    options = table.parser(__doc__, rounds=5).parse_args()
    import torch
    from models import cross_entropy, make

    import eom

    torch.set_num_threads(1)
    model, batch = make("mlp")
    objective = eom.Objective(model, cross_entropy, batch, product="double-backward")
    theta = objective.theta()
    exact = eom.sharpness(objective, K, theta=theta.double(), rtol=1e-9).eigenvalues
    solvers: dict[str, Callable[[], Any]] = {
        "eom.sharpness": lambda: eom.sharpness(objective, K, theta=theta, rtol=RTOL).eigenvalues,
        "scipy eigsh": lambda: scipys(objective, theta),
    }
    if find_spec("pyhessian"):
        solvers["PyHessian"] = lambda: pyhessians(model, batch)
    rows = []
    for name, solve in solvers.items():
        ratios, found = [], None
        for _ in range(options.rounds):
            gradient = statistics.median(seconds(lambda: objective.gradient(theta))[0] for _ in range(10))
            with contextlib.suppress(RuntimeWarning):
                taken, found = seconds(solve)
            ratios.append(taken / gradient)
        error = float((torch.as_tensor(list(found)).double() / exact - 1).abs().max())  # type: ignore[arg-type] - found, as there is a round
        rows.append({"solver": name, "gradients": statistics.median(ratios), "error": error})
        print(f"{name:16s} {rows[-1]['gradients']:7.0f} gradients   error {error:.1e}", flush=True)
    print(f"wanted: at most {WANTED} gradients, error 1e-3")
    table.write(rows, options.csv)


if __name__ == "__main__":
    main()
