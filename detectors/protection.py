"""Protected learning: what is strange is learned only as far as its entity may teach.

Every model here refuses to let one entity make its own extremes normal: an entity has tokens, which
come with time and with its events, and what is strange costs some. The rule has one exception, kept
here: when a large share of all traffic has been strange for long, the model is wrong and not the
world, and it must learn. Otherwise a model that once refused would refuse for ever.
"""

from typing import Final

from detectors.decay import HOUR_MS
from detectors.kernels import kernel

WRONG_SHARE: Final = 0.2
WRONG_MEMORY: Final = 10_000.0
"""Events after which a share is forgotten: two thousand strange ones in a row are a burst yet."""


@kernel
def followed(share: float, strange: bool) -> float:
    """The decayed share of strange events, with one more event."""
    return share + ((1.0 if strange else 0.0) - share) / WRONG_MEMORY


@kernel
def earned(tokens: float, since_ms: float, per_event: float, per_hour: float, most: float) -> float:
    """An entity's tokens at its next event."""
    return min(tokens + per_event + per_hour * since_ms / HOUR_MS, most)
