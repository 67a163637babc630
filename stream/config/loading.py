"""Loading a configuration from a TOML file."""

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from stream.config.declarations import SHADOW_OUTPUTS, Config
from stream.config.document import (
    build,
    hide_environment_values,
    plain_texts,
    substitute_environment,
)
from stream.config.renamed import renamed_problems
from stream.config.validation import consistency_problems
from stream.errors import ConfigError


def load(path: Path) -> Config:
    """Load a configuration from a TOML file. Raises ConfigError, which lists every mistake."""
    if not path.is_file():
        raise ConfigError([f"{path}: no such file; expected a configuration in TOML"])
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # a number of 5,000 digits is a plain ValueError
        raise ConfigError([f"{path}: {error}"]) from error
    except RecursionError as error:
        raise ConfigError(
            [f"{path}: nested too deeply; expected a configuration in TOML"]
        ) from error
    try:
        return parse(document, dict(os.environ))
    except ConfigError as error:
        raise ConfigError([f"{path}: {line}" for line in error.problems]) from error


def parse(document: dict[str, Any], environment: dict[str, str]) -> Config:
    """Build a configuration from a parsed document; `${NAME}` is replaced from `environment`."""
    problems: list[str] = []
    filled = _with_outputs(substitute_environment(document, environment, problems))
    renamed = dict(renamed_problems(filled))
    build_problems: list[str] = []
    partial = build(Config, filled, build_problems)
    problems += (f"{path}: {text}" for path, text in renamed.items())
    problems += (line for line in build_problems if line.split(": ", 1)[0] not in renamed)
    named = [line.split(": ", 1)[0] for line in problems]
    problems += (
        f"{where}: {text}"
        for where, text in consistency_problems(partial)
        if not any(_is_within(where, path) or _is_within(path, where) for path in named)
    )
    if problems:
        raise ConfigError(hide_environment_values(problems, filled))
    return msgspec.convert(plain_texts(filled), Config)


def _with_outputs(document: dict[str, Any]) -> dict[str, Any]:
    """Add the default outputs of shadow mode to a document in that mode."""
    outputs = document.get("outputs", {})
    if document.get("mode") != "shadow" or not isinstance(outputs, dict):
        return document
    return {**document, "outputs": SHADOW_OUTPUTS | outputs}


def _is_within(where: str, outer: str) -> bool:
    """Whether a key's path is `outer` or within it."""
    return where == outer or where.startswith((f"{outer}.", f"{outer}["))
