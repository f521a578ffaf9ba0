"""Verification: what is right passes, what was tampered with is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from scipy import ndimage
from skimage import data as pictures
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import OutputError
from pipeline.verifying import verify

METHODS = {
    "threshold": {"sigma": 1.0, "min_area": 20, "fill_holes": True},
    "watershed": {"sigma": 2.0, "min_distance": 12},
    "blobs": {"sigma": 2.0, "local": 6},
    "edges": {"form": "regions", "min_area": 20},
    "quasi_flat": {"tolerance": 6.0, "min_area": 9},
    "region_growing": {"seeds": [[38, 45], [38, 112], [200, 200]], "tolerance": 40},
    "superpixels": {"spacing": 7, "iterations": 1},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A picture of coins with pixels that were not measured, as Zarr."""
    image = pictures.coins().astype(np.float32)
    image[120:140, 200:230] = np.nan
    path = tmp_path_factory.mktemp("scene") / "coins.zarr"
    zarr.save_array(path, image)
    return path


def carried_out(scene, out, kind, tile=96):
    with pipeline.local() as engine:
        pipeline.segment(str(scene), {"kind": kind, **METHODS.get(kind, {})}, out, engine=engine, tile=tile)
    return out


@pytest.mark.parametrize("kind", METHODS)
def test_what_is_right_passes(scene, tmp_path, kind):
    """Parts in other tiles hold the same objects, at seams and inside, with all that was fitted; nothing is left beside the result."""
    out = carried_out(scene, tmp_path / "out", kind)
    found = verify(out, parts=6)
    assert (found.parts, found.differ) == (6, [])
    assert found.objects > (0 if kind == "region_growing" else 5)
    assert found.at_seams > 0 or kind == "region_growing"
    assert CliRunner().invoke(app, ["verify", str(out), "--tiles", "3"]).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["labels.zarr", "objects.parquet", "run.json"]


def test_tampered_labels_are_found(scene, tmp_path):
    """A part of an object that is missing, and one that has another's id, are differences at proved objects: exit code 1."""
    out = carried_out(scene, tmp_path / "out", "watershed")
    array = zarr.open_array(out / "labels.zarr" / "0")
    labels = array[:]
    spans = ndimage.find_objects(labels)
    small = [k for k, span in enumerate(spans, start=1) if all(15 < s.stop - s.start < 60 for s in span)]  # some part holds it whole
    first, others = small[2], small[-6:-1]
    rows, columns = np.nonzero(labels == first)
    labels[rows[: len(rows) // 2], columns[: len(rows) // 2]] = 0
    labels[np.isin(labels, others)] = first
    array[:] = labels
    found = verify(out, parts=100)
    assert {tuple(one["ids"]) for one in found.wrong} == {(0, first), (first,)}
    assert found.wrong == found.differ
    done = CliRunner().invoke(app, ["verify", str(out), "--tiles", "100"])
    assert done.exit_code == 1
    assert f"{len(found.wrong)} are called proved" in done.stdout


def test_traces_of_tiles_are_seen(scene, tmp_path):
    """Where windows decide, objects end at seams more often than beside them; where nothing depends on tiles, they do not."""
    decided, exact = (verify(carried_out(scene, tmp_path / kind, kind, 60), parts=20) for kind in ("felzenszwalb", "quasi_flat"))
    assert decided.straightness > 1.3 > 1.15 > exact.straightness


def test_refusals(scene, tmp_path):
    """What cannot be had again is refused: functions, merged graphs, several segmenters, another image, no result."""

    def own(block):
        return ndimage.label(np.nan_to_num(block[0]) > 120)[0]

    with pipeline.local() as engine:
        pipeline.segment(str(scene), own, tmp_path / "own", engine=engine, tile=96)
        pipeline.segment(pictures.coins(), "threshold", tmp_path / "memory", engine=engine, tile=96)
        pipeline.segment(str(scene), "kmeans", tmp_path / "classes", engine=engine, tile=96)
    carried_out(scene, tmp_path / "graph", "region_graph")
    carried_out(scene, tmp_path / "changed", "threshold")
    record = json.loads((tmp_path / "changed" / "run.json").read_text())
    record["identity"]["source"]["fingerprint"] = {}
    (tmp_path / "changed" / "run.json").write_text(json.dumps(record))
    for name, message in (
        ("own", "the run used a function"),
        ("memory", "cannot be had again|there is no image"),
        ("classes", "no complete labels"),
        ("graph", "merged on the graph of the whole image"),
        ("changed", "the image has changed since the run"),
        ("none", "holds no complete result"),
    ):
        with pytest.raises(pipeline.TilewiseError, match=message):
            verify(tmp_path / name)
    assert issubclass(OutputError, pipeline.TilewiseError)
