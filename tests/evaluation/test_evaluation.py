"""Measures against other implementations, and comparisons from file to file."""

from __future__ import annotations

import json

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import sklearn.metrics
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.metrics import adapted_rand_error, variation_of_information
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import JobError, SourceError
from pipeline.evaluation import against_truth, error_map, metrics
from pipeline.evaluation.metrics import Contingency
from tests.annotations.test_rle import counted, packed

PLACE = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)


@st.composite
def labellings(draw):
    """Two labellings of one small image, with background, some objects of theirs alike; labels need
    not be dense.
    """
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = (
        rng.integers(0, 5, [-(-n // 4) for n in shape])
        .repeat(4, 0)
        .repeat(4, 1)[: shape[0], : shape[1]]
    )
    ours = np.where(
        rng.random(shape) < draw(st.sampled_from([0, 0.1, 0.6])), rng.integers(0, 6, shape), truth
    )
    return ours * draw(st.sampled_from([1, 10**12])), truth * 3


@settings(max_examples=100, deadline=None)
@given(labellings(), st.integers(0, 20))
def test_measures_are_other_libraries(both, cut):
    """Sums over parts of an image are those of the whole, and give scikit-image's and
    scikit-learn's measures.
    """
    ours, truth = both
    counts = Contingency.added(
        [Contingency.of(ours[:cut], truth[:cut]), Contingency.of(ours[cut:], truth[cut:])]
    )
    whole = Contingency.of(ours, truth)
    for field in ("ours", "truth", "count"):
        np.testing.assert_array_equal(getattr(counts, field), getattr(whole, field))
    small = np.unique(ours, return_inverse=True)[1].reshape(ours.shape) + (ours.min() > 0)
    found = metrics.instances(counts)
    split, merge = variation_of_information(truth, small)
    assert (found["vi_split"], found["vi_merge"]) == pytest.approx((split, merge), abs=1e-9)
    inside = truth > 0
    if all(
        len(np.unique(each[inside])) < inside.sum() for each in (truth, small)
    ):  # else there is no pair of pixels to count
        error, recall, precision = adapted_rand_error(
            truth, small
        )  # it names the last two the other way round
        names = ("adapted_rand_error", "adapted_rand_precision", "adapted_rand_recall")
        if np.isfinite(error):
            assert tuple(found[name] for name in names) == pytest.approx((error, precision, recall))
    classes = metrics.semantic(counts)
    names = np.unique([*np.unique(ours), *np.unique(truth)])
    assert classes["accuracy"] == pytest.approx(
        sklearn.metrics.accuracy_score(truth.ravel(), ours.ravel())
    )
    each = classes["classes"].values()
    for key, score in (
        ("iou", sklearn.metrics.jaccard_score),
        ("dice", sklearn.metrics.f1_score),
        ("precision", sklearn.metrics.precision_score),
    ):
        theirs = score(truth.ravel(), ours.ravel(), labels=names, average=None, zero_division=0)
        np.testing.assert_allclose([one[key] for one in each], theirs)
    table = [[classes["confusion"][int(t)][int(o)] for o in names] for t in names]
    if len(names) > 1:  # of one class scikit-learn warns
        np.testing.assert_array_equal(
            table, sklearn.metrics.confusion_matrix(truth.ravel(), ours.ravel(), labels=names)
        )


@settings(max_examples=100, deadline=None)
@given(labellings())
def test_matches_are_the_most_that_there_can_be(both):
    """At every threshold the matches are those of an optimal assignment, and F1, AP and PQ follow
    from them.
    """
    ours, truth = both
    a, b = (np.unique(x[x > 0]) for x in both)
    iou = np.array(
        [
            [((ours == i) & (truth == j)).sum() / ((ours == i) | (truth == j)).sum() for j in b]
            for i in a
        ]
    ).reshape(len(a), len(b))
    found = metrics.instances(Contingency.of(ours, truth))
    for least in metrics.THRESHOLDS:
        hits = int((iou >= least)[linear_sum_assignment(iou >= least, maximize=True)].sum())
        at = found["at"][least]
        assert (at["matches"], at["missed"], at["invented"]) == (hits, len(b) - hits, len(a) - hits)
        assert at["f1"] == pytest.approx(2 * hits / max(len(a) + len(b), 1))
        assert at["ap"] == pytest.approx(hits / max(len(a) + len(b) - hits, 1))
    assert found["ap"] == pytest.approx(np.mean([at["ap"] for at in found["at"].values()]))
    assert found["pq"] == pytest.approx(found["sq"] * found["rq"])


def test_splits_and_merges():
    """An object of the truth that two of ours share is a split; one of ours over two of the truth's
    a merge.
    """
    truth = np.zeros((10, 40), int)
    truth[2:8, 2:12], truth[2:8, 15:20], truth[2:8, 20:25], truth[2:8, 30:36] = 1, 2, 3, 4
    ours = np.zeros((10, 40), int)
    ours[2:8, 2:7], ours[2:8, 7:12], ours[2:8, 15:25], ours[2:8, 30:36] = 1, 2, 3, 4
    found = metrics.instances(Contingency.of(ours, truth))
    assert (found["splits"], found["merges"], found["at"][0.95]["matches"]) == (1, 1, 1)


def plain_panoptic(ours, truth, kinds_ours, kinds_truth, void):
    """The published definition, pair by pair."""
    quality = {}
    for kind in sorted(set(kinds_ours.values()) | set(kinds_truth.values()) - {void}):
        total, hits, met = 0.0, 0, set()
        mine = [k for k, v in kinds_ours.items() if v == kind]
        theirs = [k for k, v in kinds_truth.items() if v == kind]
        nowhere = np.isin(truth, [k for k, v in kinds_truth.items() if v == void])
        for i in mine:
            for j in theirs:
                both = ((ours == i) & (truth == j)).sum()
                either = (((ours == i) & ~nowhere) | (truth == j)).sum()
                if either and both / either > 0.5:
                    total, hits = total + both / either, hits + 1
                    met |= {("a", i), ("b", j)}
        false = sum(
            ("a", i) not in met and ((ours == i) & nowhere).sum() <= 0.5 * (ours == i).sum()
            for i in mine
        )
        missed = sum(("b", j) not in met for j in theirs)
        if hits + false + missed:
            quality[kind] = (total / (hits + false / 2 + missed / 2), hits, missed, false)
    return quality


@settings(max_examples=100, deadline=None)
@given(labellings(), st.integers(0, 999))
def test_panoptic_quality_is_the_definition(both, seed):
    """Panoptic quality by class is what the definition gives, pair by pair, with parts of which
    nothing is asked.
    """
    ours, truth = both
    rng = np.random.default_rng(seed)
    kinds_ours = {int(k): int(rng.integers(1, 4)) for k in np.unique(ours[ours > 0])}
    kinds_truth = {int(k): int(rng.integers(0, 4)) for k in np.unique(truth[truth > 0])}
    found = metrics.panoptic(Contingency.of(ours, truth), kinds_ours, kinds_truth, void=0)
    expected = plain_panoptic(ours, truth, kinds_ours, kinds_truth, 0)
    for kind, (quality, hits, missed, false) in expected.items():
        each = found["classes"][kind]
        assert (each["pq"], each["matches"], each["missed"], each["invented"]) == (
            pytest.approx(quality),
            hits,
            missed,
            false,
        )
    assert found["pq"] == pytest.approx(
        np.mean([q for q, *_ in expected.values()]) if expected else 0
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Discs as truth, and labels that miss one, invent one and move one, as rasters of one grid;
    several parts of a comparison.
    """
    folder = tmp_path_factory.mktemp("scene")
    rows, columns = np.indices((300, 420))
    truth, ours = np.zeros((2, 300, 420), np.uint16)
    for number, (r, c) in enumerate([(50, 60), (150, 200), (250, 380), (60, 300)], start=1):
        truth[(rows - r) ** 2 + (columns - c) ** 2 <= 400] = number
    for number, (r, c) in enumerate([(50, 60), (150, 204), (250, 100), (60, 300)], start=5):
        ours[(rows - r) ** 2 + (columns - c) ** 2 <= 400] = number
    for name, labels in (("truth", truth), ("ours", ours)):
        with rasterio.open(
            folder / f"{name}.tif",
            "w",
            driver="GTiff",
            width=420,
            height=300,
            count=1,
            dtype="uint16",
            crs="EPSG:32633",
            transform=PLACE,
        ) as f:
            f.write(labels, 1)
    return folder, ours, truth


@pytest.fixture
def in_parts(monkeypatch):
    """Comparisons made in many small parts."""
    monkeypatch.setitem(against_truth.EXTENT, 2, 64)


def test_files_in_parts(scene, in_parts):
    """Rasters compared in parts give the measures of the whole, and boundaries those of a distance
    transform.
    """
    folder, ours, truth = scene
    found = against_truth.evaluate(folder / "ours.tif", folder / "truth.tif", tolerance=2)
    whole = metrics.instances(Contingency.of(ours, truth))
    assert {k: found.measures[k] for k in whole} == whole
    assert found.measures["at"][0.5]["matches"] == 3
    cross = ndimage.generate_binary_structure(2, 1)
    edges = [
        (x > 0)
        & (ndimage.grey_erosion(x, footprint=cross) != ndimage.grey_dilation(x, footprint=cross))
        for x in (ours, truth)
    ]
    near = [ndimage.distance_transform_edt(~edge) <= 2 for edge in edges]
    assert found.measures["boundary_precision"] == pytest.approx(
        (edges[0] & near[1]).sum() / edges[0].sum()
    )
    assert found.measures["boundary_recall"] == pytest.approx(
        (edges[1] & near[0]).sum() / edges[1].sum()
    )


def test_every_form_of_truth(scene, in_parts, tmp_path):
    """Truth as Zarr, vector file, COCO polygons, Pascal boxes and a table of boxes finds the same
    three matches.
    """
    folder, _, truth = scene
    zarr.save_array(tmp_path / "truth.zarr", truth)
    discs = shapely.buffer(
        shapely.points([(60.5, 50.5), (200.5, 150.5), (380.5, 250.5), (300.5, 60.5)]), 20.5
    )
    world = shapely.transform(
        discs, lambda xy: np.stack([500_000 + 10 * xy[:, 0], 5_000_000 - 10 * xy[:, 1]], axis=1)
    )
    pyogrio.raw.write(
        tmp_path / "truth.gpkg",
        shapely.to_wkb(world),
        [],
        [],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )
    bounds = shapely.bounds(discs)
    drawn = [
        {
            "image_id": 1,
            "category_id": 1,
            "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
            "segmentation": [np.ravel(d.exterior.coords).tolist()],
        }
        for b, d in zip(bounds.tolist(), discs, strict=True)
    ]
    images = [{"id": 1, "file_name": "a.tif", "height": 300, "width": 420}]
    coco = {"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "disc"}]}
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    corners = [dict(zip(("xmin", "ymin", "xmax", "ymax"), b, strict=True)) for b in bounds.tolist()]
    table = "xmin,ymin,xmax,ymax,label\n" + "".join(
        ",".join(map(str, c.values())) + ",Disc\n" for c in corners
    )
    (tmp_path / "truth.csv").write_text(table)
    objects = "".join(
        f"<object><name>d</name><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in c.items())}</bndbox></object>"  # noqa: E501
        for c in corners
    )
    size = "<size><width>420</width><height>300</height></size>"
    (tmp_path / "truth.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    expected = against_truth.evaluate(folder / "ours.tif", folder / "truth.tif").measures["at"][0.5]
    for name in ("truth.zarr", "truth.gpkg", "truth.json", "truth.csv", "truth.xml"):
        assert (
            against_truth.evaluate(folder / "ours.tif", str(tmp_path / name)).measures["at"][0.5]
            == expected
        )


def coco(path, outlines, shape, crowds=()):
    """A COCO file of one image; ``outlines`` may be None: only boxes."""
    drawn = []
    for number, (box, outline) in enumerate(outlines, start=1):
        r0, c0, r1, c1 = box
        drawn.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "bbox": [c0, r0, c1 - c0, r1 - r0],
                "iscrowd": int(number in crowds),
            }
        )
        drawn[-1] |= {"segmentation": outline} if outline else {}
    images = [{"id": 1, "file_name": "a.tif", "height": shape[0], "width": shape[1]}]
    path.write_text(
        json.dumps(
            {"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "disc"}]}
        )
    )
    return str(path)


def boxed(mask):
    (rows, columns) = ndimage.find_objects(mask.astype(int))[0]
    return rows.start, columns.start, rows.stop, columns.stop


@pytest.mark.parametrize("pack", [list, packed], ids=["counts", "string"])
def test_run_length_masks(scene, in_parts, tmp_path, pack):
    """Truth as run-length masks, alone or among polygons, is what the raster of these masks is."""
    folder, _, truth = scene
    masks = [truth == number for number in np.unique(truth[truth > 0])]
    drawn = [
        (boxed(mask), {"size": list(mask.shape), "counts": pack(counted(mask))}) for mask in masks
    ]
    expected = against_truth.evaluate(folder / "ours.tif", folder / "truth.tif").measures
    assert (
        against_truth.evaluate(
            folder / "ours.tif", coco(tmp_path / "masks.json", drawn, truth.shape)
        ).measures
        == expected
    )
    square = np.zeros(truth.shape, bool)
    square[270:290, 10:50] = True
    both = [(boxed(square), [[10, 270, 50, 270, 50, 290, 10, 290]]), *drawn]
    more = against_truth.evaluate(folder / "ours.tif", np.where(square, 99, truth)).measures
    assert (
        against_truth.evaluate(
            folder / "ours.tif", coco(tmp_path / "both.json", both, truth.shape)
        ).measures
        == more
    )


def test_nothing_is_asked_of_crowds(scene, in_parts, tmp_path):
    """Pixels of a crowd are left out, but those of an object drawn in it; of boxes, those of ours
    that lie mostly in it.
    """
    folder, ours, truth = scene
    masks = [truth == number for number in np.unique(truth[truth > 0])]
    crowd = np.zeros(truth.shape, bool)
    crowd[200:, :250] = True  # over what is invented, at (250, 100)
    crowd[10:90, 20:80] = True  # over an object
    assert set(np.unique(ours[crowd & (truth == 0)])) != {0}
    drawn = [
        (boxed(mask), {"size": list(mask.shape), "counts": counted(mask)})
        for mask in [*masks, crowd]
    ]
    found = against_truth.evaluate(
        folder / "ours.tif", coco(tmp_path / "crowd.json", drawn, truth.shape, crowds=[len(drawn)])
    ).measures
    asked = np.where(crowd & (truth == 0), 77, truth)
    plain = against_truth.evaluate(folder / "ours.tif", asked, ignore=[77]).measures
    assert found == plain
    assert found["at"][0.5]["invented"] == 0
    boxes = [(box, None) for box, _ in drawn[:-1]]
    corner = ((200, 0, 300, 250), None)
    without, with_crowd = (
        against_truth.evaluate(
            folder / "ours.tif",
            coco(tmp_path / f"{len(some)}.json", some, truth.shape, crowds=[len(drawn)]),
        ).measures
        for some in (boxes, [*boxes, corner])
    )
    assert (without["at"][0.5]["invented"], with_crowd["at"][0.5]["invented"]) == (1, 0)
    assert without["truth"] == with_crowd["truth"]


def test_masks_that_do_not_fit(tmp_path):
    """A mask of another size, or whose runs do not add up, is an error that names the
    annotation.
    """
    labels = np.zeros((6, 8), np.uint8)
    zarr.save_array(tmp_path / "ours.zarr", labels)
    for mask, message in (
        (
            {"size": [8, 6], "counts": [48]},
            r"annotation 1: a mask of \[8, 6\] pixels; allowed: the image's \[6, 8\]",
        ),
        ({"size": [6, 8], "counts": [40]}, "annotation 1: the runs of a mask add up to 40 pixels"),
        ({"size": [6, 8], "counts": "~"}, "annotation 1: the runs '~' are no packed lengths"),
        ({"size": [6, 8]}, "holds no drawings that can be read: KeyError: 'counts'"),
    ):
        with pytest.raises(SourceError, match=message):
            against_truth.evaluate(
                tmp_path / "ours.zarr", coco(tmp_path / "bad.json", [((0, 0, 2, 2), mask)], (6, 8))
            )


def test_a_result_of_a_run(scene, tmp_path):
    """A result's folder stands for its labels, or its classes with what was not measured
    left out.
    """
    folder, _, truth = scene
    image = np.where(truth > 0, 200.0, 10.0)
    image[:40] = np.nan
    with pipeline.local() as engine:
        pipeline.segment(
            image,
            pipeline.Threshold(value=100),
            tmp_path / "out",
            engine=engine,
            results=["instance", "semantic"],
            tile=128,
        )
    found = against_truth.evaluate(tmp_path / "out", folder / "truth.tif")
    assert found.measures["objects"] == 4
    classes = against_truth.evaluate(
        tmp_path / "out", (truth > 0).astype(np.uint8), kind="semantic"
    )
    assert classes.measures["accuracy"] == 1
    assert sum(one["pixels"] for one in classes.measures["classes"].values()) == 260 * 420


def test_the_command(scene, tmp_path, in_parts):
    """The command prints a table, writes all measures as JSON and a picture of what happened to
    each object.
    """
    folder, ours, truth = scene
    report, drawing = tmp_path / "m.json", tmp_path / "m.png"
    where = (str(folder / "ours.tif"), str(folder / "truth.tif"))
    done = CliRunner().invoke(
        app, ["evaluate", *where, "--json", str(report), "--picture", str(drawing)]
    )
    assert done.exit_code == 0, done.output
    assert "f1                            0.7500" in done.stdout
    assert json.loads(report.read_text())["f1"] == 0.75
    picture = np.asarray(Image.open(drawing))
    shade = np.array(error_map.SHADES, np.uint8)
    np.testing.assert_array_equal(picture[50, 60], shade[error_map.MATCHED])
    np.testing.assert_array_equal(picture[250, 100], shade[error_map.INVENTED])
    np.testing.assert_array_equal(picture[250, 380], shade[error_map.MISSED])
    np.testing.assert_array_equal(picture[0, 0], shade[0])
    assert ((picture != shade[0]).any(axis=2) <= ((ours > 0) | (truth > 0))).all()
    done = CliRunner().invoke(app, ["evaluate", *where, "--kind", "classes"])
    assert done.exit_code == 2
    assert "kind: 'classes'; allowed: 'instance', 'semantic' or 'panoptic'" in done.stderr


@pytest.mark.parametrize("option", ["--json", "--picture"])
def test_what_cannot_be_written_is_said_first(tmp_path, option):
    """A file that cannot be written at the end is refused before anything is compared, here before
    it is seen that there is nothing.
    """
    done = CliRunner().invoke(
        app,
        [
            "evaluate",
            "nothing.tif",
            "nothing_either.tif",
            option,
            str(tmp_path / "no/such/folder.png"),
        ],
    )
    assert done.exit_code == 2
    assert (
        "folder.png cannot be written: No such file or directory; choose another file"
        in done.output
    )


def test_refusals(scene, tmp_path):
    """Truth of another shape or CRS, of floats that are not whole, or unreadable, is refused, and
    so are labels that are none.
    """
    folder, _, truth = scene
    ours = folder / "ours.tif"
    with rasterio.open(
        tmp_path / "moved.tif",
        "w",
        driver="GTiff",
        width=420,
        height=300,
        count=1,
        dtype="uint8",
        crs="EPSG:32634",
        transform=PLACE,
    ) as f:
        f.write(truth.astype(np.uint8), 1)
    (tmp_path / "wrong.xml").write_text(
        "<annotation><size><width>4</width><height>3</height></size></annotation>"
    )
    (tmp_path / "broken.csv").write_text("a,b\n1,2\n")
    (tmp_path / "two.json").write_text(
        json.dumps({"images": [{"id": k, "file_name": "ab"[k]} for k in (0, 1)], "annotations": []})
    )
    for known, error, message in (
        (truth[:9], JobError, "a raster of 9 x 420 pixels; allowed: the image's 300 x 420"),
        (
            str(tmp_path / "moved.tif"),
            JobError,
            r"moved\.tif: in the CRS EPSG:32634; allowed: the image's, EPSG:32633",
        ),
        (truth + 0.5, SourceError, r"the array holds 0\.5; allowed: whole numbers"),
        (str(tmp_path / "wrong.xml"), JobError, "truth of 3 x 4 pixels; allowed: 300 x 420"),
        (str(tmp_path / "broken.csv"), SourceError, "holds no drawings that can be read"),
        (str(tmp_path / "two.json"), SourceError, r"describes 2 images \(a, b\); name one of them"),
        (str(tmp_path / "none.tif"), SourceError, "there is no truth at"),
        (str(tmp_path / "none.json"), SourceError, "there is no truth at"),
    ):
        with pytest.raises(error, match=message):
            against_truth.evaluate(ours, known)
    zarr.save_array(tmp_path / "floats.zarr", truth + 0.5)
    with pytest.raises(
        SourceError, match=r"floats\.zarr holds 0\.5; allowed: whole numbers, as floats too"
    ):
        against_truth.evaluate(tmp_path / "floats.zarr", truth)
