"""Measures of agreement between labels and truth, from counts of pixels that add up over tiles.

Pure functions over small arrays. Objects are matched one to one by intersection over union (IoU).
The measures are those of the literature; on a whole image they equal those of scikit-image and
scikit-learn (see the tests).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.extras import require

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
"""The IoU thresholds at which objects are matched."""
_QUALITIES = ("pq", "sq", "rq")
MOSTLY = 0.5
"""An object is part of another if more than this share of it lies in the other."""


@dataclass(frozen=True, slots=True)
class Contingency:
    """How many pixels each pair of labels shares; 0 is background."""

    ours: Integers
    """(n,) the label in the result."""

    truth: Integers
    """(n,) the label in the truth."""

    count: Integers
    """(n,) pixels; each pair of labels once, in ascending order."""

    @classmethod
    def of(
        cls,
        ours: npt.NDArray[Any],
        truth: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_] | None = None,
    ) -> Contingency:
        """Count the pairs of labels of two arrays of one shape, only where ``valid`` if it is
        given.
        """
        a, b = (ours.ravel(), truth.ravel()) if valid is None else (ours[valid], truth[valid])
        names_a, where_a = np.unique(a, return_inverse=True)
        names_b, where_b = np.unique(b, return_inverse=True)
        keys, count = np.unique(
            where_a.astype(np.int64) * len(names_b) + where_b, return_counts=True
        )
        names = (
            names_a.astype(np.int64)[keys // max(len(names_b), 1)],
            names_b.astype(np.int64)[keys % max(len(names_b), 1)],
        )
        return cls(*names, count.astype(np.int64))

    @classmethod
    def added(cls, parts: Iterable[Contingency]) -> Contingency:
        """The summed counts of several parts of an image."""
        every = list(parts)
        rows = np.concatenate(
            [np.stack([p.ours, p.truth, p.count], axis=1) for p in every]
            or [np.zeros((0, 3), np.int64)]
        )
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        first = np.flatnonzero((np.diff(rows[:, :2], axis=0, prepend=-1) != 0).any(axis=1))
        return cls(
            rows[first, 0],
            rows[first, 1],
            np.add.reduceat(rows[:, 2], first) if len(first) else rows[:0, 2],
        )


@dataclass(frozen=True, slots=True)
class Overlap:
    """Objects of the result and of the truth, and the overlap of each pair."""

    ours: Integers
    """(n,) the labels of the result."""

    truth: Integers
    """(m,) the labels of the truth."""

    pairs: Integers
    """(k, 2) the pairs that share pixels: positions in ``ours`` and in ``truth``."""

    iou: Floats
    """(k,) the intersection over union of each pair."""

    shared: Integers
    """(k,) the number of pixels that each pair shares."""

    area: tuple[Integers, Integers]
    """(n,) and (m,) the area in pixels of each object of the result, and of the truth."""


def overlaps(counts: Contingency) -> Overlap:
    """The objects of a contingency and their overlaps; label 0 is background."""
    ours, place_a = np.unique(counts.ours, return_inverse=True)
    truth, place_b = np.unique(counts.truth, return_inverse=True)
    area_a, area_b = (
        np.bincount(p, counts.count, len(n)).astype(np.int64)
        for p, n in ((place_a, ours), (place_b, truth))
    )
    both = (counts.ours > 0) & (counts.truth > 0)
    shared = counts.count[both]
    iou = shared / (area_a[place_a[both]] + area_b[place_b[both]] - shared)
    skip_a = int((ours <= 0).sum())
    skip_b = int((truth <= 0).sum())
    pairs = np.stack([place_a[both] - skip_a, place_b[both] - skip_b], axis=1).astype(np.int64)
    return Overlap(
        ours[skip_a:], truth[skip_b:], pairs, iou, shared, (area_a[skip_a:], area_b[skip_b:])
    )


def matched(overlap: Overlap, least: float) -> Integers:
    """The largest one-to-one matching of objects with an IoU of at least ``least``: (n,) positions
    in ``overlap.pairs``.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    good = np.flatnonzero(overlap.iou >= least)
    shape = (len(overlap.ours), len(overlap.truth))
    graph = csr_array((np.ones(len(good)), tuple(overlap.pairs[good].T)), shape=shape)
    partner = (
        maximum_bipartite_matching(graph, perm_type="column")
        if len(good)
        else np.full(shape[0], -1)
    )
    return np.asarray(good[partner[overlap.pairs[good, 0]] == overlap.pairs[good, 1]], np.int64)


def instances(counts: Contingency) -> dict[str, Any]:
    """Measures of objects: those of `objects`, of `information` and of `rand`."""
    return objects(overlaps(counts)) | information(counts) | rand(counts)


def objects(overlap: Overlap) -> dict[str, Any]:
    """Measures of how objects match.

    Returns
    -------
    dict
        ``objects`` and ``truth``: the numbers of objects. ``at``: for each IoU threshold from 0.5
        to 0.95 the matches, missed and invented, precision, recall, F1 and ``ap`` (matches divided
        by the sum of matches, missed and invented). ``f1``, ``precision``, ``recall``: those at
        0.5. ``ap``: the mean over the thresholds. ``dice``: the mean over the pairs matched at 0.5.
        ``pq``, ``sq``, ``rq``: panoptic, segmentation and recognition quality of all objects as one
        class. ``splits``: objects of the truth that contain several of ours, each for the most
        part; ``merges``: the reverse.
    """
    n = len(overlap.ours)
    m = len(overlap.truth)
    at = {least: _at(len(matched(overlap, least)), n, m) for least in THRESHOLDS}
    iou = overlap.iou[matched(overlap, 0.5)]
    found = {"objects": n, "truth": m, **{k: at[0.5][k] for k in ("f1", "precision", "recall")}}
    found |= {"ap": float(np.mean([each["ap"] for each in at.values()]))}
    found |= {
        "dice": _ratio((2 * iou / (1 + iou)).sum(), len(iou)),
        **_quality(iou.sum(), len(iou), n, m),
    }
    split, merged = broken(overlap)
    return found | {"splits": int(split.sum()), "merges": int(merged.sum()), "at": at}


def broken(overlap: Overlap) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which objects are split, and which are merged.

    Returns
    -------
    split
        (m,) True for an object of the truth that contains several of ours, each for the most part.
    merged
        (n,) True for one of our objects that contains several of the truth, each for the most part.
    """
    inside, around = (
        overlap.shared > MOSTLY * overlap.area[side][overlap.pairs[:, side]] for side in (0, 1)
    )
    split = np.bincount(overlap.pairs[inside, 1], minlength=len(overlap.truth)) > 1
    return split, np.bincount(overlap.pairs[around, 0], minlength=len(overlap.ours)) > 1


def boxes(ours: Floats, truth: Floats) -> Overlap:
    """The overlap of boxes: (n, 4) and (m, 4) low row, low column, high row, high column, with the
    high ones excluded. Areas are rounded to whole pixels.
    """
    require("shapely", "comparing boxes")
    import shapely

    shapes = [shapely.box(b[:, 1], b[:, 0], b[:, 3], b[:, 2]) for b in (ours, truth)]
    pairs = shapely.STRtree(shapes[1]).query(shapes[0], predicate="intersects").T
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    shared = shapely.area(shapely.intersection(shapes[0][pairs[:, 0]], shapes[1][pairs[:, 1]]))
    area = [shapely.area(each) for each in shapes]
    iou = shared / np.maximum(area[0][pairs[:, 0]] + area[1][pairs[:, 1]] - shared, 1e-12)
    names = [np.arange(1, len(b) + 1) for b in (ours, truth)]
    whole = [np.rint(each).astype(np.int64) for each in (*area, shared)]
    return Overlap(names[0], names[1], pairs.astype(np.int64), iou, whole[2], (whole[0], whole[1]))


def information(counts: Contingency) -> dict[str, float]:
    """The variation of information in bits: ``vi_split`` is the entropy of our labels given the
    truth, ``vi_merge`` that of the truth given our labels.

    References
    ----------
    M. Meilă (2007), "Comparing clusterings: an information based distance", J. Multivariate
    Analysis 98(5), 873-895.
    """
    total = counts.count.sum()
    if not total:
        return {"vi_split": 0.0, "vi_merge": 0.0}
    joint = counts.count / total
    each = [
        np.bincount(np.unique(names, return_inverse=True)[1], joint)
        for names in (counts.ours, counts.truth)
    ]
    ours, truth, both = (float(-(p * np.log2(p)).sum()) for p in (*each, joint))
    return {"vi_split": max(both - truth, 0.0), "vi_merge": max(both - ours, 0.0)}


def rand(counts: Contingency) -> dict[str, float]:
    """The adapted Rand error, over the pixels that are not background in the truth.

    References
    ----------
    I. Arganda-Carreras et al. (2015), "Crowdsourcing the creation of image segmentation algorithms
    for connectomics", Frontiers in Neuroanatomy 9, 142.
    """
    inside = counts.truth > 0
    shared = counts.count[inside].astype(np.float64)
    ours, truth = (
        np.bincount(np.unique(names[inside], return_inverse=True)[1], shared, 1)
        if inside.any()
        else np.zeros(1)
        for names in (counts.ours, counts.truth)
    )
    both = (shared**2).sum() - shared.sum()
    precision = _ratio(both, (ours**2).sum() - shared.sum())
    recall = _ratio(both, (truth**2).sum() - shared.sum())
    error = 1.0 - _ratio(2 * precision * recall, precision + recall)
    return {
        "adapted_rand_error": error,
        "adapted_rand_precision": precision,
        "adapted_rand_recall": recall,
    }


def semantic(counts: Contingency) -> dict[str, Any]:
    """Measures of classes.

    Returns
    -------
    dict
        ``classes``: for each class its ``iou``, ``dice``, ``precision``, ``recall`` and the
        ``pixels`` in the truth. ``accuracy``. ``iou`` and ``dice``: the means over the classes that
        occur. ``confusion``: the pixels by class of the truth, then by class of ours.
    """
    names = np.unique(np.concatenate([counts.ours, counts.truth]))
    table = np.zeros((len(names), len(names)), np.int64)
    table[np.searchsorted(names, counts.truth), np.searchsorted(names, counts.ours)] = counts.count
    hits = np.diag(table).tolist()
    truth = table.sum(axis=1).tolist()
    ours = table.sum(axis=0).tolist()
    each = {
        int(name): {
            "iou": _ratio(h, t + o - h),
            "dice": _ratio(2 * h, t + o),
            "precision": _ratio(h, o),
            "recall": _ratio(h, t),
            "pixels": t,
        }
        for name, h, t, o in zip(names, hits, truth, ours, strict=True)
    }
    means = {
        key: _ratio(sum(one[key] for one in each.values()), len(each)) for key in ("iou", "dice")
    }
    confusion = {
        int(n): {int(k): int(table[i, j]) for j, k in enumerate(names)} for i, n in enumerate(names)
    }
    return {
        "accuracy": _ratio(sum(hits), int(table.sum())),
        **means,
        "classes": each,
        "confusion": confusion,
    }


def panoptic(
    counts: Contingency,
    ours: dict[int, int],
    truth: dict[int, int],
    *,
    void: int | None = None,
    things: Container[int] | None = None,
) -> dict[str, Any]:
    """Panoptic, segmentation and recognition quality.

    Parameters
    ----------
    counts
        The counts of segments; 0 is no segment.
    ours, truth
        The class of each segment. Only segments of one class match.
    void
        The class of the truth to ignore: its pixels do not count, and a segment that lies mostly on
        it is not counted as invented.
    things
        The classes of things, if known; the others are stuff.

    Returns
    -------
    dict
        ``pq``, ``sq``, ``rq``: the means over all classes; with ``_things`` and ``_stuff`` added to
        the name, over those classes. ``classes``: for each class the same, with its matches, missed
        and invented.

    References
    ----------
    A. Kirillov et al. (2019), "Panoptic segmentation", CVPR, 9396-9405.
    """
    overlap = overlaps(counts)
    kind_a = np.array([ours.get(int(k), -1) for k in overlap.ours], np.int64)
    kind_b = np.array([truth.get(int(k), -1) for k in overlap.truth], np.int64)
    unknown = np.zeros(len(overlap.ours))
    empty = (
        (kind_b == void)[overlap.pairs[:, 1]]
        if void is not None
        else np.zeros(len(overlap.pairs), bool)
    )
    np.add.at(unknown, overlap.pairs[empty, 0], overlap.shared[empty])
    area_a, area_b = (area[overlap.pairs[:, side]] for side, area in enumerate(overlap.area))
    iou = overlap.shared / np.maximum(
        area_a - unknown[overlap.pairs[:, 0]] + area_b - overlap.shared, 1
    )
    good = (iou > 0.5) & (kind_a[overlap.pairs[:, 0]] == kind_b[overlap.pairs[:, 1]]) & ~empty
    met_a = np.zeros(len(kind_a), bool)
    met_b = np.zeros(len(kind_b), bool)
    met_a[overlap.pairs[good, 0]], met_b[overlap.pairs[good, 1]] = True, True
    false = ~met_a & ~(unknown > MOSTLY * overlap.area[0])
    each: dict[int, dict[str, Any]] = {}
    for kind in sorted({*kind_a.tolist(), *kind_b.tolist()} - {void}):
        mine = good & (kind_a[overlap.pairs[:, 0]] == kind)
        hits = int(mine.sum())
        missed = int((~met_b & (kind_b == kind)).sum())
        invented = int((false & (kind_a == kind)).sum())
        quality = _quality(iou[mine].sum(), hits, hits + invented, hits + missed)
        each[kind] = {**quality, "matches": hits, "missed": missed, "invented": invented}
    occurring = {
        kind: one for kind, one in each.items() if one["matches"] + one["missed"] + one["invented"]
    }
    groups = {"": set(occurring)}
    if things is not None:
        groups["_things"] = {kind for kind in occurring if kind in things}
        groups["_stuff"] = set(occurring) - groups["_things"]
    means = {
        f"{k}{name}": _ratio(sum(occurring[kind][k] for kind in kinds), len(kinds))
        for name, kinds in groups.items()
        for k in _QUALITIES
    }
    return {**means, "classes": each}


def boundary(hits: tuple[int, int], totals: tuple[int, int]) -> dict[str, float]:
    """The boundary F1, with its precision and recall.

    Parameters
    ----------
    hits
        How many of our border pixels are near the truth's border, and how many of the truth's are
        near ours.
    totals
        The numbers of our border pixels, and of the truth's.
    """
    precision = _ratio(hits[0], totals[0])
    recall = _ratio(hits[1], totals[1])
    return {
        "boundary_f1": _ratio(2 * precision * recall, precision + recall),
        "boundary_precision": precision,
        "boundary_recall": recall,
    }


def _at(hits: int, ours: int, truth: int) -> dict[str, Any]:
    precision = _ratio(hits, ours)
    recall = _ratio(hits, truth)
    f1 = _ratio(2 * hits, ours + truth)
    ap = _ratio(hits, ours + truth - hits)
    return {
        "matches": hits,
        "missed": truth - hits,
        "invented": ours - hits,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "ap": ap,
    }


def _quality(iou: float, hits: int, ours: int, truth: int) -> dict[str, float]:
    return {
        "pq": _ratio(2 * iou, ours + truth),
        "sq": _ratio(iou, hits),
        "rq": _ratio(2 * hits, ours + truth),
    }


def _ratio(part: float, whole: float) -> float:
    """The quotient; 0 if the divisor is 0."""
    return float(part / whole) if whole else 0.0
