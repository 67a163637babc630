"""Protected learning: an entity may teach a model only a bounded number of strange events.

An entity earns tokens with time and with its events, and learning a strange event costs tokens, so
that no entity can make its own extremes unsurprising. Exception: when a large share of all traffic
has been strange for long, the model is wrong and learns every event; otherwise it would never
recover.

Measured on accounts that pay once an hour, p by all features and trees (`test_protection`):
- A burst of 500 payments at fifty times the amounts stays below p = 1e-8 throughout. (By the trees
  alone p rises from 4e-5 to a median of 6e-3: the tokens pay for sixteen of these events.) A quarter
  of the other accounts' events below 1e-3 rise above it.
- Poisoners who raise their amounts by 2 to 10 % a payment fall below 1e-3 before they reach ten times
  their level; nineteen in twenty below 1e-4 before twenty times, half of them before seven times.
  At 1 % a payment they fall below 1e-3 as soon, but one in three never below 1e-4; at 0.6 % (3 % a
  day at five payments a day) four in five never do: that is the pace of an honest change.
- Three times the amounts, or the payments, for good are not surprising (median p above 0.05) after
  200 events.
- Where poisoners are three in a hundred accounts, they also affect the calibration, and up to half of
  them stay above 1e-4.
"""

from typing import Final

from detectors.numeric.decay import HOUR_MS
from detectors.numeric.kernels import kernel

MODEL_WRONG_SHARE: Final = 0.2
SHARE_MEMORY: Final = 10_000.0
"""Events over which the share is decayed: two thousand strange events in a row are still a
burst, not a wrong model."""
TOKENS_PER_HOUR: Final = 3.0
TOKENS_PER_EVENT: Final = 0.02
TOKENS_MAX: Final = 6.0
"""Of the models, where a token pays for one strange event. Calibration, where the price depends on how
strange an event is, shares only `TOKENS_PER_HOUR`."""


@kernel
def update_share(share: float, strange: bool) -> float:
    """The decayed share of strange events, after one more event."""
    return share + ((1.0 if strange else 0.0) - share) / SHARE_MEMORY


@kernel
def earn_tokens(
    tokens: float, elapsed_ms: float, per_event: float, per_hour: float, maximum: float
) -> float:
    """An entity's tokens at its next event."""
    return min(tokens + per_event + per_hour * elapsed_ms / HOUR_MS, maximum)
