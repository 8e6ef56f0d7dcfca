"""Numbers and names as a reader wants to see them."""

import math
from collections.abc import Sequence

FEW = 3  # names in a list
NAMES = {
    "whole_loss": "loss of all data",
    "position_error": "distance from the run",
    "gradient_noise": "gradient noise, Tr Σ",
    "gradient_noise_scale": "noise scale, a batch size",
    "gradient_noise_top": "largest direction of the noise",
    "gradient_noise_curvature": "curvature that the noise meets",
    "gradient_noise_tail": "tail index of the noise",
}


def number(value: float, digits: int = 3) -> str:
    """Two or three significant digits: 0.0123, 3.1e-4, 12.3, 1.5e6; or ``digits``, the last one left out beside e."""
    if not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "-infinite"}.get(value, "not a number")
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.{digits}g}'):.{max(6, digits)}g}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa.rstrip('0').removesuffix('.')}e{int(exponent)}"


def numbers(values: Sequence[float]) -> list[str]:
    """Numbers with as many digits as tell them apart."""
    for digits in range(3, 16):
        shown = [number(value, digits) for value in values]
        if len(set(shown)) == len(set(values)):
            break
    return shown


def percent(share: float) -> str:
    """A share as a percentage of two or three digits."""
    return "an unknown share" if math.isnan(share) else f"{number(100 * share)} %"


def count(number_of: int, noun: str) -> str:
    """1 record, 2 records."""
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def label(name: str, width: int = 1000) -> str:
    """A name on one line, what cannot be printed escaped, its middle left out beyond ``width`` characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name) or '""'
    if len(shown) <= width:
        return shown
    return shown[: width // 3] + "…" + shown[len(shown) - (width - width // 3 - 1) :]


def source_name(source: str) -> str:
    """order-0 is gradient flow, order-1 is order 1; any other theory has its own name."""
    return "gradient flow" if source == "order-0" else source.replace("order-", "order ")


def quantity_name(quantity: str) -> str:
    """norm_squared_rate is d|w|²/dt."""
    if quantity in NAMES:
        return NAMES[quantity]
    norms = {"norm_squared": "|w|²", "norm": "|w|"}
    for suffix, form in (("_rate", "d{}/dt"), ("_displacement", "change of {}")):
        if quantity.endswith(suffix):
            name = quantity.removesuffix(suffix)
            return form.format(norms.get(name, f"({name})" if suffix == "_rate" else name))
    return norms.get(quantity, quantity)
