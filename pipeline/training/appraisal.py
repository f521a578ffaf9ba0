"""Quality of a network: predictions on held-out images, compared with truth as `tilewise evaluate`
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotations.panoptic import VOID, kinds_of
from pipeline.evaluation import metrics
from pipeline.evaluation.metrics import Contingency
from pipeline.image.legend import CLASS
from pipeline.segmenters.decoders.affinities import Decoder, Panoptic, Semantic
from pipeline.segmenters.decoders.detections import ByKey
from pipeline.training.objectives import Draw
from pipeline.training.samples import Example, Floats, Labels


@dataclass(frozen=True, slots=True)
class Shown:
    """A network's labels on a held-out image, and the truth."""

    name: str
    image: Floats
    """(band, row, column), scaled for the network."""

    drawn: npt.NDArray[Any]
    truth: Labels
    """Labels; -1 where unknown."""

    measures: dict[str, Any]


def appraise(
    pairs: Sequence[Example], decoder: Decoder | ByKey, draw: Draw
) -> tuple[dict[str, Any], list[Shown]]:
    """Measure a network on pairs of image and truth.

    Parameters
    ----------
    pairs : sequence of Pair
        The held-out images.
    decoder : Decoder or ByKey
        The network's decoder.
    draw : callable
        From a window to labels or classes.

    Returns
    -------
    measures : dict
        Over all pairs; empty without any. For objects ``f1``, ``precision``, ``recall`` at an IoU
        of 0.5, ``ap``, and their number; for classes ``iou``, the mean over those that occur, and
        ``accuracy``; for things and stuff ``pq``, ``sq`` and ``rq``. ``images``: the first of
        these, of each pair.
    shown : list of Shown
        What was drawn on each.
    """
    shown = []
    counts = []
    offset = 0
    for pair in pairs:
        box = pair.middle()
        image, truth, valid = pair.read(box)
        drawn = draw(image, valid, box.start)
        known = truth >= (1 if isinstance(decoder, Semantic) and decoder.background is None else 0)
        count = Contingency.of(drawn, truth, known)
        shown.append(Shown(pair.name, image, drawn, truth, _measures([count], decoder)))
        # Objects of different images never match.
        moved = 0 if isinstance(decoder, Semantic) else offset
        ours, true = (np.where(names > 0, names + moved, 0) for names in (count.ours, count.truth))
        counts.append(Contingency(ours, true, count.count))
        offset += 1 + max(
            int((each.astype(np.int64) % CLASS).max(initial=0))
            for each in (drawn, np.maximum(truth, 0))
        )
    if not shown:
        return {}, []
    return _measures(counts, decoder) | {
        "images": {one.name: next(iter(one.measures.values())) for one in shown}
    }, shown


def score(measures: dict[str, Any]) -> float:
    """The measure that selects the best weights: AP for objects, mean IoU for classes.

    F1 at one IoU would say little about the quality of outlines.
    """
    return float(next((measures[name] for name in ("ap", "pq", "iou") if name in measures), 0.0))


def _measures(counts: Sequence[Contingency], decoder: Decoder | ByKey) -> dict[str, Any]:
    every = Contingency.added(counts)
    overlap = metrics.overlaps(every)
    if isinstance(decoder, Panoptic):
        found = metrics.panoptic(
            every,
            kinds_of(overlap.ours),
            kinds_of(overlap.truth),
            void=VOID,
            things=frozenset(decoder.things),
        )
    else:
        found = (
            metrics.semantic(every) if isinstance(decoder, Semantic) else metrics.objects(overlap)
        )
    every_name = (
        ("pq", "sq", "rq")
        if isinstance(decoder, Panoptic)
        else ("f1", "precision", "recall", "ap", "objects", "truth", "iou", "accuracy")
    )
    names = [name for name in every_name if name in found]
    return {name: round(found[name], 4) for name in names}
