"""Locations: paths, and addresses of object stores such as s3://bucket/prefix.

Also hides the credentials of addresses in messages, log lines and files.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

REDACTED: Final = "(hidden)"
"""Replaces user, password and query of an address."""

_ADDRESS: Final = re.compile(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://
        (?P<user>[^\s/?#"'<>]*@                                # user and password, as they must be
          |[^\s/?#"'<>:@\[]*:(?!\d*(?:[/?#,;)\s"'<>]|$))[^\s"'<>]*@)?  # or with "/", "?", "#" in them
        (?P<rest>[^\s?"'<>]*)
        (?P<query>\?(?:[^\s"'<>]*[^\s"'<>:;,.)])?)?""",
    re.VERBOSE,
)
_KAFKA_SCHEME: Final = "kafka"
"""The query of kafka://TOPIC?from=… holds offsets, which a run's manifest needs."""


def hide_credentials(text: str) -> str:
    """The text with user, password and query of every address replaced."""
    return _ADDRESS.sub(_redacted, text) if "://" in text else text


def _redacted(match: re.Match[str]) -> str:
    user = f"{REDACTED}@" if match["user"] else ""
    query = match["query"] or ""
    if query and match["scheme"].lower() != _KAFKA_SCHEME:
        query = f"?{REDACTED}"
    return f"{match['scheme']}://{user}{match['rest']}{query}"


@dataclass(frozen=True, slots=True)
class Location:
    """A path on this machine, or an address of an object store.

    path: absolute; None for an address. text: the absolute path or the address.
    """

    path: Path | None
    text: str

    @classmethod
    def of(cls, text: str) -> "Location":
        """The location that a path, a file:// URL or an address names."""
        scheme, match, rest = text.partition("://")
        if match and scheme != "file":
            return cls(None, text)
        path = Path(unquote(rest) if match else text).absolute()
        return cls(path, str(path))

    def is_same_as(self, other: "Location") -> bool:
        """Whether both name the same location."""
        if self.path is None or other.path is None:
            return self.text.rstrip("/") == other.text.rstrip("/")
        return self.path.resolve() == other.path.resolve()
