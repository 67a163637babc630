"""The configuration: inputs, monitors, stages' settings and outputs, loaded from a TOML file.

Connects to nothing. `declarations` holds the keys, `loading` reads and checks a file, `topology`
derives the logs and read paths, `fingerprints` what determines the learned state.
"""

from stream.config.declarations import (
    ALL_MONITORS,
    SHADOW_OUTPUTS,
    TOPIC_PATTERN,
    AssessSpec,
    CheckpointsSpec,
    Config,
    InputSpec,
    LearningSpec,
    LimitsSpec,
    OutputSpec,
)
from stream.config.fingerprints import StateConfig, fingerprint, state_config, with_state_config
from stream.config.loading import load, parse
from stream.config.stage_graph import logs, nodes
from stream.config.topology import (
    Log,
    extracted_fields,
    internal_topic_fields,
    is_input_read,
    label_entity_fields,
    label_inputs,
    learning_inputs,
    source_partitions,
)
from stream.config.validation import secret_problem

__all__ = [
    "ALL_MONITORS",
    "SHADOW_OUTPUTS",
    "TOPIC_PATTERN",
    "AssessSpec",
    "CheckpointsSpec",
    "Config",
    "InputSpec",
    "LearningSpec",
    "LimitsSpec",
    "Log",
    "OutputSpec",
    "StateConfig",
    "extracted_fields",
    "fingerprint",
    "internal_topic_fields",
    "is_input_read",
    "label_entity_fields",
    "label_inputs",
    "learning_inputs",
    "load",
    "logs",
    "nodes",
    "parse",
    "secret_problem",
    "source_partitions",
    "state_config",
    "with_state_config",
]
