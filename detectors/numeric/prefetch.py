"""Prefetching: a hint to the processor to load memory that a kernel will need soon.

It changes no result and accesses nothing: an index that does not exist is allowed.
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
"""Words of a cache line."""
READ, KEEP_IN_CACHE, DATA = 0, 3, 1
"""Arguments of LLVM's prefetch intrinsic, as in its language reference."""


@intrinsic
def _prefetch(_: Any, array: Any, index: Any) -> Any:
    """array, index: numba's types of the arguments."""

    def generate(target: Any, builder: Any, _: Any, values: Any) -> Any:
        codegen = cast("Any", cgutils)
        parts = zip(codegen.unpack_tuple(builder, values[1]), index, strict=True)
        indices = [
            target.cast(builder, index_value, kind, types.intp) for index_value, kind in parts
        ]
        array_struct = target.make_array(array)(target, builder, values[0])
        pointer = codegen.get_item_pointer(target, builder, array, array_struct, indices)
        word = ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
        call = codegen.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        builder.call(call, [pointer, word(READ), word(KEEP_IN_CACHE), word(DATA)])
        return target.get_dummy_value()

    return types.void(array, index), generate


prefetch = cast("Callable[[Any, tuple[int, ...]], None]", _prefetch)
"""prefetch(array, index), in kernels only. index: integers ≥ 0, one for each dimension."""


@kernel
def prefetch_words(words: F64, row: int, first_word: int, count: int) -> None:
    """Prefetch `count` words of a row, from `first_word` on."""
    for line in range(first_word, first_word + count, LINE_WORDS):
        prefetch(words, (row, line))
