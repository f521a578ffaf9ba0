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
from pipeline.evaluation.verify import verify
from tests.small_networks import bundle
from tests.small_networks import scene as random_scene

METHODS = {
    "threshold": {"sigma": 1.0, "min_area": 20, "fill_holes": True},
    "watershed": {"sigma": 2.0, "min_distance": 12},
    "blobs": {"sigma": 2.0, "local": 6},
    "edges": {"form": "regions", "min_area": 20},
    "quasi_flat": {"tolerance": 6.0, "min_area": 9},
    "region_growing": {"seeds": [[38, 45], [38, 112], [200, 200]], "tolerance": 40},
    "superpixels": {"spacing": 7, "iterations": 1},
    "region_graph": {"spacing": 9, "iterations": 2},
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
        pipeline.segment(
            str(scene), {"kind": kind, **METHODS.get(kind, {})}, out, engine=engine, tile=tile
        )
    return out


@pytest.mark.parametrize("kind", METHODS)
def test_what_is_right_passes(scene, tmp_path, kind):
    """Parts in other tiles hold the same objects, at seams and inside, with all that was fitted;
    nothing is left beside the result.
    """
    out = carried_out(scene, tmp_path / "out", kind)
    found = verify(out, parts=6)
    assert (found.parts, found.differ, found.merged) == (6, [], kind == "region_graph")
    assert found.near[1] == found.inside[1] == 0
    assert min(found.near[0], found.inside[0]) > 100 or kind == "region_growing"
    assert found.objects > (0 if kind == "region_growing" else 5)
    assert found.at_seams > 0 or kind == "region_growing"
    assert CliRunner().invoke(app, ["verify", str(out), "--tiles", "3"]).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.zarr",
        "objects.parquet",
        "run.json",
    ]


def test_tampered_labels_are_found(scene, tmp_path):
    """A part of an object that is missing, and one that has another's id, are differences at proved
    objects: exit code 1.
    """
    out = carried_out(scene, tmp_path / "out", "watershed")
    array = zarr.open_array(out / "labels.zarr" / "0")
    labels = array[:]
    spans = ndimage.find_objects(labels)
    small = [
        k for k, span in enumerate(spans, start=1) if all(15 < s.stop - s.start < 60 for s in span)
    ]  # some part holds it whole
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


def test_pixels_that_differ(scene, tmp_path):
    """Pixels are counted near seams and inside: of a disc that was moved from an object, and of one
    where nothing is.
    """
    out = carried_out(scene, tmp_path / "out", "threshold", tile=100)
    array = zarr.open_array(out / "labels.zarr" / "0")
    labels = array[:]
    spans = ndimage.find_objects(labels)
    free = [
        k
        for k, s in enumerate(spans, 1)
        if s[0].start // 100 == (s[0].stop - 1) // 100
        and s[1].start // 100 == (s[1].stop - 1) // 100
    ]
    victim = next(
        k for k in free if spans[k - 1][0].start % 100 > 12 and spans[k - 1][0].stop % 100 < 85
    )
    rows, columns = np.nonzero(labels == victim)
    cut = slice(0, len(rows) // 3)
    labels[rows[cut], columns[cut]] = 0
    near = ((columns[cut] % 100 < 8) & (columns[cut] >= 100)) | (
        (columns[cut] % 100 >= 92) & (columns[cut] < 300)
    )
    array[:] = labels
    found = verify(out, parts=1000)
    assert [one["ids"] for one in found.wrong[:1]] == [[0, victim]]
    times = len(found.wrong)  # parts overlap, and each that holds it whole tells of it
    assert (found.near[1], found.inside[1]) == (times * near.sum(), times * (~near).sum())


def test_invented_objects_are_found(scene, tmp_path):
    """An object where nothing is drawn again is a difference, if the result calls it proved."""
    out = carried_out(scene, tmp_path / "out", "threshold", tile=100)
    array = zarr.open_array(out / "labels.zarr" / "0")
    labels = array[:]
    ground = ndimage.distance_transform_cdt(labels == 0, "chessboard")
    row, column = np.unravel_index(ground[10:-10, 10:-10].argmax(), (283, 364))
    moved = int(labels.max())
    labels[labels == moved] = 0
    labels[row + 8 : row + 13, column + 8 : column + 13] = moved
    array[:] = labels
    found = verify(out, parts=1000)
    assert [moved] in [one["ids"] for one in found.wrong]
    assert found.near[1] + found.inside[1] >= 25


ROUTED = {
    "segmenters": {
        "bright": {"kind": "threshold", "value": 130},
        "grounds": {"kind": "watershed", "sigma": 1.0, "min_distance": 4},
    },
    "route": [
        {"use": "skip", "when": {"mean": {"max": 70}}},
        {"use": "bright", "when": {"mean": {"min": 97}}},
        {"use": "grounds"},
    ],
}


@pytest.mark.heavy
def test_routed_runs(scene, tmp_path):
    """Where tiles went to several segmenters, or nowhere, the objects that lie in tiles of one are
    compared; what is wrong is found.
    """
    out = tmp_path / "out"
    job = pipeline.Job(
        source=str(scene), tiles={"size": 48, "halo": 8}, output={"path": str(out)}, **ROUTED
    )
    record = pipeline.run(job, pipeline.local()).record
    assert min(record["routes"][name]["tiles"] for name in ("skip", "bright", "grounds")) >= 5, (
        record["routes"]
    )
    found = verify(out, parts=50)
    assert found.wrong == []
    assert found.objects > 15
    assert found.near[0] > 0
    table = pipeline.Result(str(out)).objects
    array = zarr.open_array(out / "labels.zarr" / "0")
    labels = array[:]
    for route in ("bright", "grounds"):
        mine = table[
            (table["route"] == route)
            & (table["tiles"] == 1)
            & (table["certificate"] == "proved")
            & (table["area"].between(4, 300))
        ]
        changed = labels.copy()
        changed[np.isin(labels, mine["id"]) & (np.arange(labels.shape[1]) % 2 == 0)] = 0
        array[:] = changed
        again = verify(out, parts=50)
        assert (
            len({tuple(one["ids"]) for one in again.wrong} & {(0, id_) for id_ in mine["id"]}) > 0
        ), route


def test_merged_regions(scene, tmp_path):
    """Superpixels that do not lie whole in one region are found, though how regions are merged is
    not looked at.
    """
    out = carried_out(scene, tmp_path / "out", "region_graph")
    array = zarr.open_array(out / "labels.zarr" / "0")
    labels = array[:]
    labels[::2, 100:104] = labels.max()
    array[:] = labels
    found = verify(out, parts=20)
    assert len(found.wrong) > 10
    assert found.near[1] > 0
    assert "which are merged is decided on the whole image's graph" in "\n".join(found.lines())


CLASSES = {
    "levels": {"kind": "threshold", "levels": [80, 140]},
    "small": {"kind": "threshold", "levels": [80, 140], "min_area": 30},
    "filled": {"kind": "threshold", "sigma": 1.0, "fill_holes": True, "min_area": 20},
    "kmeans": {"kind": "kmeans", "clusters": 3, "sigma": 1.0},
    "objects": {"kind": "watershed", "sigma": 2.0, "min_distance": 12},
}


def of_classes(image, what, out, tile=96):
    with pipeline.local() as engine:
        pipeline.segment(str(image), what, out, engine=engine, tile=tile, results=["semantic"])
    return out


def recoloured(out, place, number):
    """The result, with another class in a few pixels."""
    array = zarr.open_array(out / "classes.zarr" / "0")
    classes = array[:]
    assert (classes[place] != number).all()
    classes[place] = number
    array[:] = classes


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_compared_pixel_by_pixel(scene, tmp_path, name):
    """Results of classes alone hold in other tiles; a pixel that was changed is found, near a seam
    or inside, and a class where nothing was measured: exit code 1.
    """
    out = of_classes(scene, CLASSES[name], tmp_path / "out")
    found = verify(out, parts=6)
    assert (found.parts > 4, found.differ, found.objects) == (True, [], 0)
    assert found.kinds_near[0] + found.kinds_inside[0] > found.pixels * (
        0.98 if name in ("levels", "kmeans") else 0.1
    )
    assert "classes of pixels that differ: 0 of" in "\n".join(found.lines())
    assert CliRunner().invoke(app, ["verify", str(out), "--tiles", "3"]).exit_code == 0
    recoloured(out, np.s_[190:193, 40:42], 200)  # two rows above the seam at 192, one below
    recoloured(out, np.s_[142:144, 240:243], 201)
    recoloured(out, np.s_[130, 210], 202)
    found = verify(out, parts=100)
    told = {one["classes"][0] for one in found.wrong}
    assert told >= ({202} if name in ("filled", "objects") else {201, 202})
    near, inside = found.kinds_near[1], found.kinds_inside[1]
    if name in ("levels", "kmeans"):
        assert ({200, 201, 202}, near > 0, inside > 0) == (told, True, True)
        assert {tuple(one["classes"]) for one in found.wrong if one["classes"][0] == 202} == {
            (202, -1)
        }
        assert all(one["at_seam"] == (one["classes"][0] == 200) for one in found.wrong)
    if name == "kmeans":
        assert CliRunner().invoke(app, ["verify", str(out), "--tiles", "100"]).exit_code == 1


def test_classes_of_a_network(tmp_path):
    """A network's classes hold, to the pixel; where it is not proved, a difference is told and is
    not called wrong.
    """
    image = tmp_path / "image.zarr"
    zarr.save_array(image, random_scene(150, 170))
    proved, agreed = (
        {"kind": "unet", "weights": bundle(tmp_path)},
        {"kind": "unet", "weights": bundle(tmp_path), "margin": 16, "window": 64},
    )
    for name, what in (("proved", proved), ("agreed", agreed)):
        with pipeline.local() as engine:
            pipeline.segment(
                {"path": str(image), "axes": "cyx"}, what, tmp_path / name, engine=engine, tile=60
            )
        out = tmp_path / name
        found = verify(out, parts=4)
        assert (found.differ, found.kinds_near[0] > 1000, found.kinds_inside[0] > 10000) == (
            [],
            True,
            True,
        )
        recoloured(out, np.s_[58:62, 20:30], 7)
        found = verify(out, parts=100)
        assert (len(found.differ) > 0, len(found.wrong) > 0) == (True, name == "proved")


def test_classes_of_layers(scene, tmp_path):
    """Of things over stuff, classes are compared besides objects: of a thing and of the ground,
    whichever was changed.
    """
    segmenters = {
        "coins": {"kind": "threshold", "sigma": 1.0, "min_area": 60},
        "ground": {"kind": "kmeans", "clusters": 3, "sigma": 1.0},
    }
    layers = [{"things": "coins", "classes": 9}, {"stuff": "ground"}]
    job = pipeline.Job(
        source=str(scene),
        tiles={"size": 96},
        segmenters=segmenters,
        layers=layers,
        output={"path": str(tmp_path / "out")},
    )
    result = pipeline.run(job, pipeline.local())
    found = verify(tmp_path / "out", parts=100)
    assert (found.differ, found.objects > 10, found.kinds_inside[0] > 20_000) == ([], True, True)
    classes = result.classes.values
    row, column = np.argwhere(
        (ndimage.minimum_filter(classes, 3) == classes) & (classes > 0) & (classes < 9)
    )[500]
    recoloured(tmp_path / "out", np.s_[row, column], 7)
    assert {one["classes"][0] for one in verify(tmp_path / "out", parts=100).wrong} == {7}


def own(block):
    return ndimage.label(np.nan_to_num(block[0]) > 120)[0]


def other(block):
    return ndimage.label(np.nan_to_num(block[0]) > 140)[0]


own.reach = other.reach = 0


def test_functions(scene, tmp_path):
    """From Python, a run of a function on an image in memory is verified with its job; another
    function or image is refused.
    """
    image = zarr.open_array(scene)[:]

    def job(function, what=image):
        return pipeline.Job(
            source=what,
            tiles={"size": 96},
            segmenters={"own": function},
            output={"path": str(tmp_path / "out")},
        )

    pipeline.run(job(own), pipeline.local())
    found = verify(tmp_path / "out", 6, job=job(own))
    assert (found.parts, found.differ) == (6, [])
    assert found.objects > 20
    with pytest.raises(
        OutputError, match=r"the job is another than the one that was run \(segmenters\.own"
    ):
        verify(tmp_path / "out", job=job(other))
    with pytest.raises(OutputError, match="the image has changed since the run"):
        verify(tmp_path / "out", job=job(own, image + 1))


def test_changed_seeds(scene, tmp_path):
    """Seeds that are others than in the run are refused, as another image is."""
    seeds = np.zeros((303, 384), np.int32)
    seeds[38, 45] = 1
    zarr.save_array(tmp_path / "seeds.zarr", seeds)
    with pipeline.local() as engine:
        what = {"kind": "region_growing", "seeds": str(tmp_path / "seeds.zarr"), "tolerance": 40}
        pipeline.segment(str(scene), what, tmp_path / "out", engine=engine, tile=96)
    assert verify(tmp_path / "out").wrong == []
    seeds[200, 200] = 2
    zarr.open_array(tmp_path / "seeds.zarr", mode="r+")[:] = seeds
    with pytest.raises(
        OutputError, match=r"given besides the image has changed since the run: .*seeds"
    ):
        verify(tmp_path / "out")


def test_traces_of_tiles_are_seen(scene, tmp_path):
    """Where windows decide, objects end at seams more often than beside them; where nothing depends
    on tiles, they do not.
    """
    decided, exact = (
        verify(carried_out(scene, tmp_path / kind, kind, 60), parts=20)
        for kind in ("felzenszwalb", "quasi_flat")
    )
    assert decided.straightness > 1.3 > 1.15 > exact.straightness


def test_refusals(scene, tmp_path):
    """What cannot be had again is refused: functions, another image, other seeds, no result."""

    def own(block):
        return ndimage.label(np.nan_to_num(block[0]) > 120)[0]

    with pipeline.local() as engine:
        pipeline.segment(str(scene), own, tmp_path / "own", engine=engine, tile=96)
        pipeline.segment(pictures.coins(), "threshold", tmp_path / "memory", engine=engine, tile=96)
    carried_out(scene, tmp_path / "changed", "threshold")
    record = json.loads((tmp_path / "changed" / "run.json").read_text())
    record["identity"]["source"]["fingerprint"] = {}
    (tmp_path / "changed" / "run.json").write_text(json.dumps(record))
    for name, message in (
        (
            "own",
            (
                r"the run used python:.*own, which its record does not hold; .* verify\(path, "
                r"job=job\)"
            ),
        ),
        ("memory", "cannot be had again|there is no image"),
        ("changed", "the image has changed since the run"),
        ("none", "holds no complete result"),
    ):
        with pytest.raises(pipeline.TilewiseError, match=message):
            verify(tmp_path / name)
    assert issubclass(OutputError, pipeline.TilewiseError)
