"""Networks of one's own: `train`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.execution.result import Watch, silent
from pipeline.training import loop, recipe


def train(
    card: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    fresh: bool = False,
    watch: Watch | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train a network on images and truth, and write a bundle. The same call again goes on.

    Parameters
    ----------
    card
        The card of a network with a section ``train`` (a YAML file).
    out
        The folder for the bundle, the checkpoint, ``log.txt``, ``curves.png`` and
        ``predictions.png``; None: the card's name, in the working directory.
    changes
        Values by dotted key, such as ``{"train.steps": 500}``, that take the place of the card's.
    fresh
        Start anew, whatever the folder holds.
    watch
        Called with an `Event` whenever there is progress.
    say
        Called with a line of text for each evaluation.

    Returns
    -------
    Path
        The bundle. Its card has the measured stride and reach in pixels, what it was trained on,
        and the figures of the images that were held out.

    Raises
    ------
    JobError
        Something in the card does not fit the data, or a package is missing.
    ResumeError
        The folder holds a training by another card.
    OutputError
        The folder cannot be written.

    Examples
    --------
    >>> train("nuclei.yaml", "out/net", changes={"train.steps": 500})  # doctest: +SKIP
    PosixPath('out/net/nuclei.safetensors')
    """
    what = recipe.from_yaml(Path(card), changes)
    folder = Path(what.card.name if out is None else out)
    return loop.train(
        what, folder, fresh=fresh, watch=watch or silent, say=say or (lambda _line: None)
    )
