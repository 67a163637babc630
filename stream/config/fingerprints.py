"""The settings that determine the learned state, and their fingerprint."""

from functools import cache
from typing import Any

import msgspec
import pyarrow as pa
import xxhash

from detectors.monitor import MonitorSpec
from detectors.numeric.hashing import hash_key, hash_text, pseudonym
from detectors.spec import Name, Spec
from detectors.state import STATE_VERSION
from stream.config.declarations import AssessSpec, Config, InputSpec, LimitsSpec


class StateConfig(Spec, frozen=True, kw_only=True):
    """The settings that determine the learned state, as stored in checkpoints. version: the state
    version. secret: a keyed hash of the secret."""

    version: int
    revision: int
    monitors: list[MonitorSpec]
    assess: AssessSpec | None
    stages: dict[Name, dict[str, Any]]
    inputs: dict[Name, InputSpec]
    limits: LimitsSpec
    reveal: list[str]
    secret: str


def state_config(config: Config) -> StateConfig:
    """The settings of a configuration that determine the learned state."""
    return StateConfig(
        version=STATE_VERSION,
        revision=config.revision,
        monitors=config.monitors,
        assess=config.assess,
        stages=config.stages,
        inputs=config.inputs,
        limits=config.limits,
        reveal=sorted(config.reveal),
        secret=_secret_hash(config.secret),
    )


@cache
def _secret_hash(secret: str) -> str:
    """A keyed hash of the secret."""
    return pseudonym(hash_text(pa.array(["fingerprint"]), hash_key(secret))[0])


def with_state_config(config: Config, state: StateConfig) -> Config:
    """The configuration with the settings of `state`. Both must have the same secret."""
    return msgspec.structs.replace(
        config,
        revision=state.revision,
        monitors=state.monitors,
        assess=state.assess,
        stages=state.stages,
        inputs=state.inputs,
        limits=state.limits,
        reveal=state.reveal,
    )


def fingerprint(config: Config) -> str:
    """32 hex digits of the state settings: equal fingerprints give equal results on the same log.

    The secret enters only as a keyed hash. Kafka properties, outputs, mode and worker do not enter.
    """
    body = msgspec.json.encode(state_config(config), order="deterministic")
    return xxhash.xxh3_128_hexdigest(body)
