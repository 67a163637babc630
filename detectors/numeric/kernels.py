"""How compiled kernels are declared: one decorator, so that their settings stand in one place.

A kernel walks the events of a batch in order. It holds no state of its own, draws no random
number, and its floating-point operations are never reordered, so that cutting a batch elsewhere
cannot change a result. It allocates nothing: arrays to work in are handed to it, and the compiler,
told so, leaves out the counting of references, which was a third of the time.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite.binding import set_option  # type: ignore[import-untyped]  # comes with numba
from numba.core.caching import FunctionCache

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
    compiled: Any
    try:
        compiled = numba.njit(cache=True, **settings)(function)
        compiled._cache = _Cache(function)  # type: ignore[no-untyped-call]  # noqa: SLF001  # it has no other place
    except RuntimeError as no_cache_folder:
        if "cannot cache" not in str(no_cache_folder):
            raise
        compiled = numba.njit(**settings)(function)
    return cast("Callable[P, R]", compiled)


class _Cache(FunctionCache):
    """Finds machine code by all that was compiled into it.

    numba asks only whether the kernel's own file has changed. But kernels of other modules, and
    constants, are compiled in; stale ones would go on answering as before an edit, and crash where
    the shape of an array has changed.
    """

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        own = super()._index_key(signature, codegen)  # type: ignore[no-untyped-call]  # numba's
        return (*own, code_digest(self._py_func))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As numba's, but an index that names a type of another version counts as empty."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]  # numba's
        except (AttributeError, ImportError):
            self.flush()  # type: ignore[no-untyped-call]  # numba's
            return None


def code_digest(function: Callable[..., Any]) -> str:
    """A digest of a kernel's code with all names in it, and of every kernel and constant that these
    stand for."""
    hasher, seen = sha256(), set[object]()
    waiting: list[object] = [function]
    while waiting:
        one = waiting.pop()
        if one in seen or not isinstance(one, FunctionType):
            continue
        seen.add(one)
        for code in _codes(one.__code__):
            hasher.update(code.co_code + repr(code.co_names).encode())
        for value in _named(one):
            if callable(value):  # a kernel, or an intrinsic; of others their names must do
                waiting.append(getattr(value, "py_func", getattr(value, "_defn", None)))
                value = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")  # noqa: PLW2901
            hasher.update(repr(value).encode())
    return hasher.hexdigest()


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _named(function: FunctionType) -> Iterator[Any]:
    """What a function's code names, in its order: kernels, constants, fields of named tuples."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    for value in (*cells, *(function.__defaults__ or ())):
        yield from _plain(value)
    for code in _codes(function.__code__):
        yield from _plain(code.co_consts)
        for name in code.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, ModuleType):  # its names stand among the code's, too
                for inner in code.co_names:
                    yield from _plain(getattr(value, inner, None))
            else:
                yield from _plain(value)


def _plain(value: Any) -> Iterator[Any]:
    """A value as far as its text is the same in each process."""
    if isinstance(value, tuple):
        for one in value:
            yield from _plain(one)
    elif isinstance(value, type):
        yield getattr(value, "_fields", None)
    elif isinstance(value, np.ndarray):
        yield value.tobytes()
    elif callable(value) or isinstance(value, bool | int | float | str | bytes | np.generic):
        yield value
