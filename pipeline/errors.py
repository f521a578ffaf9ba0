"""Everything that Tilewise raises on purpose, and the exit code that it ends a command with.

::

    TilewiseError                        2
    ├── JobError          (ValueError)   2   the job, an option or an argument is wrong
    ├── SourceError       (OSError)      2   an image cannot be opened or read as asked
    ├── SegmenterError    (ValueError)   2   a segmenter raised, or returned what no labels can be
    ├── OutputError       (OSError)      2   the output exists, is in use, or cannot be written
    ├── ClusterError      (RuntimeError) 2   no worker can do what the job asks, or no scheduler
    ├── ScratchError      (OSError)      2   what lies in the scratch store is damaged
    ├── TilesError        (RuntimeError) 1   some tiles failed; the others are kept
    ├── ResumeError       (RuntimeError) 3   a run was begun with another job, source or version
    └── Interrupted       (RuntimeError) 130 stopped by the user; the same command goes on

Each message names the subject, the value given, the values allowed and what to do. An error carries
its message and nothing else, so that it can be pickled between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pipeline.redaction import redacted


class TilewiseError(Exception):
    """The root of all errors that Tilewise raises on purpose.

    ``exit_code`` is the exit code of a command that ends with the error.

    Parameters
    ----------
    message
        What was given, what is allowed and what to do. Passwords in addresses are hidden.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class JobError(TilewiseError, ValueError):
    """The job, an option or an argument is wrong."""


class SourceError(TilewiseError, OSError):
    """An image cannot be opened, or not read as asked."""


class SegmenterError(TilewiseError, ValueError):
    """A segmenter raised, or returned what cannot be labels."""


class OutputError(TilewiseError, OSError):
    """The output exists already, is in use by another run, or cannot be written."""


class ClusterError(TilewiseError, RuntimeError):
    """No worker can do what the job asks for, or the scheduler cannot be reached any more."""


class ScratchError(TilewiseError, OSError):
    """A file of the scratch store is missing, cut short or altered."""


class TilesError(TilewiseError, RuntimeError):
    """Some tiles have no result, so nothing is published; the run can be resumed."""

    exit_code = 1


class ResumeError(TilewiseError, RuntimeError):
    """The run in the scratch store was begun with another job, source, segmenter or version."""

    exit_code = 3


class Interrupted(TilewiseError, RuntimeError):
    """The user stopped the run; it can be resumed."""

    exit_code = 130


def nearest(word: object, allowed: Iterable[str]) -> str:
    """Say which words are allowed, for the end of an error about a misspelt name.

    Parameters
    ----------
    word
        What was given.
    allowed
        The words that are allowed, in any order.

    Returns
    -------
    str
        The words, sorted, and a question whether the most similar was meant, if one is similar.

    Examples
    --------
    >>> nearest("treshold", ["watershed", "threshold"])
    "allowed: threshold, watershed; did you mean 'threshold'?"
    """
    words = sorted(allowed)
    return f"allowed: {', '.join(words) or 'none'}{like(word, words)}"


def like(word: object, allowed: Iterable[str], *, asked: str = "did you mean") -> str:
    """Ask whether the most similar word was meant.

    Parameters
    ----------
    word
        What was given.
    allowed
        The words that are allowed.
    asked
        How the question begins.

    Returns
    -------
    str
        The question, after a semicolon; empty where no word is similar.
    """
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"; {asked} {close[0]!r}?" if close else ""
