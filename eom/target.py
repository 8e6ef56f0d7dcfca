"""A function of the user's own that makes a model, its loss and its data, named on the command line."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from eom.errors import SettingError

WANTED = "expected PACKAGE.MODULE:FUNCTION, a function without arguments that returns (model, loss_fn, data)"


def load(target: str) -> tuple[Any, Any, Any]:
    """(model, loss_fn, data) from PACKAGE.MODULE:FUNCTION; modules of the present folder are found first.

    Raises:
        SettingError: no such module or function, or one that returns something else. Errors inside the function come
            through as they are.
    """
    make = function(target)
    from eom.objective.explain import check_setup  # torch is to be loaded anyway

    check_setup(make, target)
    found = make()
    if not isinstance(found, tuple) or len(found) != 3:
        raise SettingError(f"{target} returned a {type(found).__name__}, {WANTED}")
    return found


def function(target: str) -> Callable[[], Any]:
    """The function named by PACKAGE.MODULE:FUNCTION."""
    module, colon, name = target.partition(":")
    if not (colon and name and all(part.isidentifier() for part in module.split("."))):
        raise SettingError(f"the target is {target!r}, {WANTED}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module}.".startswith(f"{missing.name}."):
            raise  # a module that the user's own imports
        raise SettingError(f"there is no module {missing.name!r} in {here} or among the installed ones") from missing
    if not callable(found):
        raise SettingError(f"{module} has no function {name!r}, {WANTED}")
    return found
