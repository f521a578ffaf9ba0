"""Libraries that only some methods and some files need: the extras of the package."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.errors import JobError

EXTRAS = {
    "pyogrio": "vectors",
    "safetensors": "networks",
    "shapely": "vectors",
    "sklearn": "clustering",
}
"""By library, the extra that installs it."""


def require(library: str, what: str) -> None:
    """Refuse what needs a library that is not installed, before any work.

    Parameters
    ----------
    library
        The name by which it is imported; a key of `EXTRAS`.
    what
        What needs it, as the message begins: an option, a kind or a file.

    Raises
    ------
    JobError
        If the library is not installed.
    """
    if find_spec(library) is None:
        raise JobError(
            f"{what} needs {library}; install it with: pip install 'tilewise[{EXTRAS[library]}]'"
        )
