"""A hint to the processor, for kernels that wait for memory: bring this near, I shall come to it.

It changes no result and touches nothing: a place that does not exist is as good as any.
"""

from collections.abc import Callable
from typing import Any, Final, cast

from llvmlite import ir  # type: ignore[import-untyped]  # comes with numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from detectors.numeric.kernels import kernel
from schemas.columns import F64

LINE_WORDS: Final = 8
"""Of a cache line."""
TO_READ, CHECKPOINTS_KEPT, DATA = 0, 3, 1
"""What LLVM's prefetch is told, as its language reference has it."""


@intrinsic
def _prefetch(_: Any, array: Any, place: Any) -> Any:
    """array, place: numba's types of the arguments."""

    def generate(target: Any, builder: Any, _: Any, values: Any) -> Any:
        tools = cast("Any", cgutils)
        places = zip(tools.unpack_tuple(builder, values[1]), place, strict=True)
        indices = [target.cast(builder, one, kind, types.intp) for one, kind in places]
        held = target.make_array(array)(target, builder, values[0])
        pointer = tools.get_item_pointer(target, builder, array, held, indices)
        word = ir.IntType(32)
        taking = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
        call = tools.get_or_insert_function(builder.module, taking, "llvm.prefetch.p0")
        builder.call(call, [pointer, word(TO_READ), word(CHECKPOINTS_KEPT), word(DATA)])
        return target.get_dummy_value()

    return types.void(array, place), generate


prefetch = cast("Callable[[Any, tuple[int, ...]], None]", _prefetch)
"""prefetch(array, place), in kernels only. place: whole numbers ≥ 0, one a dimension."""


@kernel
def prefetch_words(words: F64, row: int, at: int, count: int) -> None:
    """Have so many words of a row brought near, from `at` on."""
    for line in range(at, at + count, LINE_WORDS):
        prefetch(words, (row, line))
