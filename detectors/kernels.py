"""How compiled kernels are declared: one decorator, so that their settings stand in one place.

A kernel walks the events of a batch in order. It holds no state of its own, draws no random
number, and its floating-point operations are never reordered, so that cutting a batch elsewhere
cannot change a result. It allocates nothing: arrays to work in are handed to it, and the compiler,
told so, leaves out the counting of references, which was a third of the time.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite.binding import set_option  # type: ignore[import-untyped]  # comes with numba

# Else a loop over the eight lanes of a vector stays eight steps: it is too short to be worth a look
# at whether its arrays overlap.
set_option("", "-vectorizer-min-trip-count=4")

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba: machine code cached on disk, the GIL released, no fast-math.

    Where no cache folder can be written (a read-only file system without a home), the kernel is
    compiled at each start instead: slower by about a second a kernel, never an error.
    """
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
    try:
        compiled = numba.njit(cache=True, **settings)(function)
    except RuntimeError as no_cache_folder:
        if "cannot cache" not in str(no_cache_folder):
            raise
        compiled = numba.njit(**settings)(function)
    return cast("Callable[P, R]", compiled)
