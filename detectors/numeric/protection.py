"""Protected learning: what is strange is learned only as far as its entity may teach.

Every model here refuses to let one entity make its own extremes normal: an entity has tokens, which
come with time and with its events, and what is strange costs some. The rule has one exception, kept
here: when a large share of all traffic has been strange for long, the model is wrong and not the
world, and it must learn. Otherwise a model that once refused would refuse for ever.

Measured on accounts that pay once an hour, p by all features and trees (`test_protection`): a burst
of 500 payments at fifty times the amounts stays below p = 1e-8 throughout (by the trees alone p
rises from 4e-5 to a median of 6e-3: the tokens buy them sixteen of these), and takes a quarter of
the others' events from below 1e-3; poisoners who raise their amounts by 2 to 10 % a payment are
below 1e-3 before they are at ten times their level, nineteen in twenty below 1e-4 before twenty
times, half of them before seven; those who take 1 % a payment fall below 1e-3 as soon, but one in
three never below 1e-4, and of those who take 0.6 % (3 % a day at five payments a day) four in five
never do: that is the pace at which an honest change is followed. Three times the amounts, or the
payments, for good are ordinary (median p above 0.05) after 200 events. Where poisoners are three in
a hundred accounts, they also teach the calibration, and up to half of them stay above 1e-4.
"""

from typing import Final

from detectors.numeric.decay import HOUR_MS
from detectors.numeric.kernels import kernel

MODEL_WRONG_SHARE: Final = 0.2
SHARE_MEMORY: Final = 10_000.0
"""Events after which a share is forgotten: two thousand strange ones in a row are a burst yet."""
TOKENS_PER_HOUR: Final = 3.0
TOKENS_PER_EVENT: Final = 0.02
TOKENS_MAX: Final = 6.0
"""Of the models' tokens, each of which pays for one strange event; calibration, where an event's
price depends on how strange it is, shares only the hour's."""


@kernel
def update_share(share: float, strange: bool) -> float:
    """The decayed share of strange events, with one more event."""
    return share + ((1.0 if strange else 0.0) - share) / SHARE_MEMORY


@kernel
def earn_tokens(
    tokens: float, since_ms: float, per_event: float, per_hour: float, most: float
) -> float:
    """An entity's tokens at its next event."""
    return min(tokens + per_event + per_hour * since_ms / HOUR_MS, most)
