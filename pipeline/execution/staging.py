"""Write all products of a run into its staging folder, unseen until all are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.execution.dispatch import Dispatcher
from pipeline.execution.planning import Plan
from pipeline.sources import unmeasured
from pipeline.stages import Run, commit, lines, measure, panoptic, products, publish
from pipeline.stages.group import Grouping
from pipeline.stages.stitching import CERTIFICATES


def write_products(
    run: Run, draft: Plan, objects: Grouping, dispatcher: Dispatcher
) -> dict[str, Any]:
    """Write labels, classes, their pyramids, the table and whatever else the job asks for.

    Parameters
    ----------
    run
        The run, of which every tile is segmented and grouped.
    draft
        Its plan.
    objects
        Which labels are one object.
    dispatcher
        Who does it.

    Returns
    -------
    dict
        ``certificates``: the number of objects by certificate. ``unmeasured``: the pixels that
        were not measured, by reason.
    """
    if "panoptic" in draft.results:
        panoptic.refuse(objects)
    work = publish.places(
        run,
        draft.job.output,
        draft.results,
        draft.layout,
        draft.staging,
        (objects.objects, objects.classes),
        nest=draft.nest,
    )
    _write_rasters(work, dispatcher)
    slabs = list(
        dispatcher.all("measure", measure.measure, run, range(run.grid.counts[0])).values()
    )
    _write_files(work, draft, objects, dispatcher)
    return _summed(run, slabs)


def _write_rasters(work: publish.Publication, dispatcher: Dispatcher) -> None:
    """Write the labels and classes of each tile, then the levels of their pyramids."""
    for place in (work.labels, work.classes, work.nested, work.mask):
        if place:
            place.create()
    dispatcher.all("publish", publish.publish, work, work.tiles)
    for pyramid in (work.labels, work.classes, work.nested):
        for above in publish.levels(pyramid):
            dispatcher.all(
                f"pyramid {above.level}", publish.reduce, above, range(len(above.blocks))
            )


def _write_files(
    work: publish.Publication, draft: Plan, objects: Grouping, dispatcher: Dispatcher
) -> None:
    """Write the table, and the lines, TIFFs, panoptic files and picture that are asked for."""
    run = work.run
    output = draft.job.output
    staging = draft.staging
    commit.write_table(run, staging)
    if curves := lines.tiles(run):
        dispatcher.all("trace", lines.trace_tile, work, curves)
        commit.write_curves(run, staging)
    commit.write_tiffs(work, output.labels, staging)
    if "panoptic" in draft.results:
        panoptic.write_panoptic(work, objects, staging / products.TABLE, draft.image, staging)
    if output.picture:
        commit.write_picture(work, staging)


def _summed(run: Run, slabs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was counted in each slab, of the whole image."""
    counts = np.array([slab["certificates"] for slab in slabs]).sum(axis=0)
    lost = unmeasured.added(slab["unmeasured"] for slab in slabs)
    pixels = sum(slab["pixels"] for slab in slabs)
    return {
        "certificates": dict(zip(CERTIFICATES, counts.tolist(), strict=True)),
        "unmeasured": unmeasured.told(run.source.frame, lost, pixels),
    }
