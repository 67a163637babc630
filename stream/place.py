"""Where something lies, as a person names it: a path, or an address such as s3://bucket/prefix."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Place:
    """A path on this machine, or an address of an object store.

    path: absolute; None of a store's address. text: the same wherever one is.
    """

    path: Path | None
    text: str

    @classmethod
    def of(cls, text: str) -> "Place":
        """The place that a path, a file:// URL or an address names."""
        scheme, found, rest = text.partition("://")
        if found and scheme != "file":
            return cls(None, text)
        path = Path(unquote(rest) if found else text).absolute()
        return cls(path, str(path))

    def same(self, other: "Place") -> bool:
        """Whether both are one."""
        if self.path is None or other.path is None:
            return self.text.rstrip("/") == other.text.rstrip("/")
        return self.path.resolve() == other.path.resolve()
