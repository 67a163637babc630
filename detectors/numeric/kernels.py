"""The decorator that compiles kernels, with their settings.

A kernel walks the events of a batch in order. It has no state of its own and draws no random number,
and its floating-point operations are never reordered, so that batch boundaries cannot change a
result. It allocates nothing: scratch arrays are arguments, and the compiler can omit reference
counting, which took a third of the time.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite.binding import set_option  # type: ignore[import-untyped]  # comes with numba
from numba.core.caching import FunctionCache

# without it a loop over the eight lanes of a vector is not vectorised: the compiler considers it too
# short to check whether its arrays overlap
set_option("", "-vectorizer-min-trip-count=4")

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba: machine code cached on disk, the GIL released, no fast-math.

    Where no cache folder can be written (a read-only file system without a home), the kernel is
    compiled at each start, which takes about a second a kernel.
    """
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
    compiled: Any
    try:
        compiled = numba.njit(cache=True, **settings)(function)
        compiled._cache = _Cache(function)  # type: ignore[no-untyped-call]  # noqa: SLF001  # it has no public setter
    except RuntimeError as no_cache_folder:
        if "cannot cache" not in str(no_cache_folder):
            raise
        compiled = numba.njit(**settings)(function)
    return cast("Callable[P, R]", compiled)


class _Cache(FunctionCache):
    """Finds cached machine code by all code and constants compiled into it.

    numba checks only whether the kernel's own file has changed. But kernels of other modules, and
    constants, are compiled in; stale machine code would behave as before an edit, and fail where
    the shape of an array has changed.
    """

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        key = super()._index_key(signature, codegen)  # type: ignore[no-untyped-call]  # numba's
        return (*key, code_digest(self._py_func))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As numba's, but an index that names a type of another version counts as empty."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]  # numba's
        except (AttributeError, ImportError):
            self.flush()  # type: ignore[no-untyped-call]  # numba's
            return None


def code_digest(function: Callable[..., Any]) -> str:
    """A digest of a kernel's code with its names, and of every kernel and constant that they refer to."""
    hasher, seen = sha256(), set[object]()
    pending: list[object] = [function]
    while pending:
        current = pending.pop()
        if current in seen or not isinstance(current, FunctionType):
            continue
        seen.add(current)
        for code in _codes(current.__code__):
            hasher.update(code.co_code + repr(code.co_names).encode())
        for value in _named(current):
            if callable(value):  # a kernel, or an intrinsic; others are identified by their names
                pending.append(getattr(value, "py_func", getattr(value, "_defn", None)))
                value = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")  # noqa: PLW2901
            hasher.update(repr(value).encode())
    return hasher.hexdigest()


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _named(function: FunctionType) -> Iterator[Any]:
    """The values that a function's code names, in its order: kernels, constants, named tuples' fields."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    for value in (*cells, *(function.__defaults__ or ())):
        yield from _plain(value)
    for code in _codes(function.__code__):
        yield from _plain(code.co_consts)
        for name in code.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, ModuleType):  # its attributes are among the code's names, too
                for inner in code.co_names:
                    yield from _plain(getattr(value, inner, None))
            else:
                yield from _plain(value)


def _plain(value: Any) -> Iterator[Any]:
    """The parts of a value whose text is the same in every process."""
    if isinstance(value, tuple):
        for element in value:
            yield from _plain(element)
    elif isinstance(value, type):
        yield getattr(value, "_fields", None)
    elif isinstance(value, np.ndarray):
        yield value.tobytes()
    elif callable(value) or isinstance(value, bool | int | float | str | bytes | np.generic):
        yield value
