"""Layers of things and stuff: what shows, against the layers alone; panoptic files and their
measures, against other implementations.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage import data as pictures
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import JobError, OutputError, SourceError
from pipeline.evaluation import against_truth, error_map
from pipeline.evaluation.verify import verify
from pipeline.image.frame import Frame
from pipeline.image.legend import MOST
from pipeline.sinks import panoptic
from tests.faults.staging import Flawed, Stopped, Stopper, raises, tiles_by_route
from tests.tiling import in_raster_order

TISSUE = np.moveaxis(pictures.immunohistochemistry(), -1, 0)[:, :300, :400].copy()
NUCLEI = {
    "kind": "watershed",
    "channel": "haematoxylin",
    "sigma": 2.0,
    "min_distance": 6,
    "min_area": 40,
}
LEVELS = pipeline.Threshold(levels=(60, 140))
quiet = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def laid(image, segmenters, layers, out, tile=64, **more):
    """A run of layers."""
    output = {"path": str(out), **more.pop("output", {})}
    job = pipeline.Job(
        source=image,
        tiles={"size": tile, **more.pop("tiles", {})},
        segmenters=segmenters,
        layers=layers,
        output=output,
        **more,
    )
    with pipeline.local() as engine:
        return pipeline.run(job, engine)


def alone(image, segmenter, out, **more):
    """One segmenter, untiled."""
    with pipeline.local() as engine:
        return pipeline.segment(image, segmenter, out, engine=engine, tile=10_000, **more)


@st.composite
def scenes(draw):
    """Smooth noise in two bands, with pixels that were not measured, in two or three dimensions."""
    shape = draw(st.sampled_from([(31, 44), (1, 40), (9, 13, 15)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = ndimage.gaussian_filter(rng.random((2, *shape)), (0, *(1.5,) * len(shape)))
    image = (
        np.digitize(noise, np.quantile(noise, np.linspace(0.05, 0.95, 9))).astype(np.uint8) * 25 + 5
    )
    image[:, rng.random(shape) < 0.02] = 0
    return image


@settings(max_examples=40, deadline=None)
@given(scenes(), st.integers(5, 20), st.booleans())
def test_what_shows_is_what_the_layers_draw_alone(image, tile, swapped):
    """At each pixel the first layer that has something there has it, numbered in raster order; the
    same in any tiles, also in volumes.
    """
    bright = pipeline.Threshold(band=1, value=150, min_area=6)
    cover = pipeline.Threshold(band=2, levels=(60, 140))
    source = {
        "path": image,
        "nodata": 0,
        "axes": "czyx"[-image.ndim :] if image.ndim == 4 else "cyx",
    }
    if image.ndim == 4:
        source["planes"] = "all"
    layers = [{"things": "bright", "classes": 5}, {"stuff": "cover", "classes": {2: 7}}]
    with tempfile.TemporaryDirectory() as folder:
        result = laid(
            source,
            {"bright": bright, "cover": cover},
            layers[::-1] if swapped else layers,
            Path(folder, "out"),
            tile,
        )
        things = alone(source, bright, Path(folder, "things")).labels.values
        kinds = alone(source, cover, Path(folder, "stuff"), results=["semantic"]).classes.values
        labels, classes = result.labels.values, result.classes.values
        table = result.objects
    stuff = np.where(kinds == 255, 0, np.where(kinds == 2, 7, kinds))
    if swapped:
        things = np.where(stuff > 0, 0, things)
    np.testing.assert_array_equal(labels, in_raster_order(things))
    expected = np.where(things > 0, 5, stuff)
    np.testing.assert_array_equal(classes, np.where((image == 0).all(axis=0), 255, expected))
    np.testing.assert_array_equal(table["area"], np.bincount(labels.ravel())[1:])
    assert set(table["class"]) <= {5}
    assert set(table["certificate"]) <= {"proved"}


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """Nuclei over tissue, in tiles and in one."""
    folder = tmp_path_factory.mktemp("tissue")
    layers = [{"things": "nuclei", "classes": 9}, {"stuff": "cover"}]
    segmenters = {"nuclei": NUCLEI, "cover": {"kind": "kmeans", "clusters": 3, "sigma": 2.0}}
    output = {"legend": {9: "nucleus"}, "picture": True}
    zarr.save_array(folder / "tissue.zarr", TISSUE)
    return [
        laid(
            str(folder / "tissue.zarr"), segmenters, layers, folder / str(tile), tile, output=output
        )
        for tile in (80, 1000)
    ]


def test_on_a_real_image(tissue):
    """Nuclei over kinds of tissue are the same in tiles and in one, all proved; every pixel has a
    class; objects name their layer.
    """
    tiled, whole = tissue
    np.testing.assert_array_equal(tiled.labels.values, whole.labels.values)
    np.testing.assert_array_equal(tiled.classes.values, whole.classes.values)
    assert tiled.objects.drop(columns="tiles").equals(whole.objects.drop(columns="tiles"))
    assert set(tiled.objects["route"]) == {"nuclei"}
    assert (tiled.classes.values > 0).all()
    np.testing.assert_array_equal(tiled.classes.values == 9, tiled.labels.values > 0)
    assert tiled.record["certificates"]["proved"] == tiled.record["objects"] > 100
    assert tiles_by_route(tiled) == {"empty": 0, "skip": 0, "nuclei": 20, "cover": 20}
    assert set(tiled.record["fitted"]) == {"nuclei", "cover"}


def test_verified_in_other_tiles(tissue, tmp_path):
    """Parts of a result of layers, laid anew in other tiles, hold the same things; a thing that was
    tampered with is found.
    """
    found = verify(tissue[0].path, parts=4)
    assert found.objects > 20
    assert found.differ == []
    copy = Path(shutil.copytree(tissue[0].path, tmp_path / "copy"))
    array = zarr.open_array(copy / "labels.zarr" / "0")
    labels = array[:]
    middle = int(labels[100:200, 100:300].max())
    array[:] = np.where(labels == middle, 0, labels)
    assert len(verify(copy, parts=100).wrong) > 0


@quiet
def test_files_of_coco(tissue):
    """The PNG's numbers are the things' ids, and one for each stuff; the JSON has class, area and
    box of every one, as read by others.
    """
    for result in tissue:
        folder = Path(result.path)
        coded = np.asarray(Image.open(folder / "panoptic.png"), np.int64)
        found = coded[..., 0] + 256 * coded[..., 1] + 65536 * coded[..., 2]
        told = json.loads((folder / "panoptic.json").read_text())
        (annotation,) = told["annotations"]
        assert annotation["file_name"] == "panoptic.png"
        assert [(i["file_name"], i["height"], i["width"]) for i in told["images"]] == [
            ("tissue.zarr", 300, 400)
        ]
        labels, classes = result.labels.values, result.classes.values
        np.testing.assert_array_equal(np.where(labels > 0, found, 0), labels)
        segments = {s["id"]: s for s in annotation["segments_info"]}
        assert sorted(segments) == np.unique(found).tolist()
        for number, span in enumerate(ndimage.find_objects(found), start=1):
            rows, columns = span
            mine = found == number
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            kind = np.unique(classes[mine]).tolist()
            expected = {
                "id": number,
                "category_id": kind[0],
                "area": int(mine.sum()),
                "bbox": box,
                "iscrowd": 0,
                "certificate": "proved",
            }
            assert (segments[number], len(kind)) == (expected, 1)
        kinds = {k["id"]: (k["name"], k["isthing"]) for k in told["categories"]}
        assert kinds == {1: ("class 1", 0), 2: ("class 2", 0), 3: ("class 3", 0), 9: ("nucleus", 1)}
    assert (Path(tissue[0].path) / "overview.png").stat().st_size > 1000
    assert "COCO" in "\n".join(tissue[0].lines())
    assert "nucleus" in json.dumps(tissue[0].record["legend"])
    assert "labels" in tissue[0]._repr_html_()


def test_doubt_goes_through_layers(tmp_path):
    """What an object in doubt hides a part of, in whichever tile, is not called proved; what lies
    elsewhere is.
    """
    image = np.zeros((2, 60, 90), np.uint8)
    image[0, 5:12, 4:86] = 200  # longer than any window that is allowed
    image[0, 30:36, 30:36] = 200
    image[1, 2:20, 8:14] = 200  # under the long one
    image[1, 30:40, 50:60] = 200

    def above(block, valid):
        return ndimage.label(block[0] > 100)[0]

    above.reach = 0
    segmenters = {"above": above, "below": pipeline.Threshold(band=2, value=100)}
    layers = [{"things": "above", "classes": 1}, {"things": "below", "classes": 2}]
    result = laid(image, segmenters, layers, tmp_path / "out", 30, tiles={"halo": 2, "max_halo": 2})
    told = result.objects.set_index(["class", "column_min"])["certificate"].to_dict()
    assert told[1, 4] != "proved"
    assert told[2, 8] == told[1, 4]
    assert (told[1, 30], told[2, 50]) == ("proved", "proved")
    enough = laid(
        image, segmenters, layers, tmp_path / "enough", 30, tiles={"halo": 2, "max_halo": 90}
    )
    assert set(enough.objects["certificate"]) == {"proved"}


def test_layers_of_some_tiles(tmp_path):
    """A layer with conditions draws only in tiles that meet them; what nobody draws has class 0,
    and the tiles of nobody are skipped.
    """
    image = np.zeros((64, 96), np.uint8)
    image[:, 32:64] = 100
    image[10:20, 40:50] = 200
    image[40:50, 5:15] = 200
    layers = [{"things": "spots", "classes": 1, "when": {"mean": {"min": 50}}}]
    result = laid(image, {"spots": pipeline.Threshold(value=150)}, layers, tmp_path / "out", 32)
    assert result.record["objects"] == 1
    assert tiles_by_route(result) == {"empty": 0, "skip": 4, "spots": 2}
    assert set(np.unique(result.classes.values)) == {0, 1}
    assert (
        json.loads(Path(result.path, "panoptic.json").read_text())["categories"][0]["isthing"] == 1
    )


def test_layers_can_be_laid_otherwise(tmp_path):
    """With a kept scratch store another order or other classes lay the layers anew, and nothing is
    segmented again.
    """
    log = tmp_path / "calls"
    segmenters = {
        "a": Flawed(raises, str(tmp_path / "flag"), 100, str(log)),
        "b": pipeline.Threshold(value=50),
    }
    layers = [{"things": "a", "classes": 1}, {"stuff": "b", "classes": 2}]
    image = TISSUE[0]
    kept = {"output": {"keep_scratch": True}}
    first = laid(image, segmenters, layers, tmp_path / "out", 100, **kept)
    before = log.read_text()
    assert set(np.unique(first.classes.values)) - {0} == {1, 2}
    again = laid(
        image, segmenters, [layers[1], layers[0] | {"classes": 3}], tmp_path / "out", 100, **kept
    )
    assert log.read_text() == before == 12 * "called\n"
    assert set(np.unique(again.classes.values)) - {0} == {2}  # b is wherever a is
    assert again.record["objects"] == 0


def test_a_run_that_dies_goes_on(tmp_path, monkeypatch):
    """However many files were written when a run of layers ends, the same call gives the same
    things, classes and files of COCO.
    """
    image = np.moveaxis(TISSUE, 0, -1)[:90, :120].transpose(2, 0, 1)
    segmenters = {"nuclei": NUCLEI, "cover": LEVELS}
    layers = [{"things": "nuclei", "classes": 9}, {"stuff": "cover"}]
    whole = laid(image, segmenters, layers, tmp_path / "whole", 50)
    stopper = Stopper(monkeypatch)
    laid(image, segmenters, layers, tmp_path / "counted", 50)
    for stop in range(2, stopper.written, 13):
        out, stopper.left = tmp_path / str(stop), stop
        with pytest.raises((Stopped, pipeline.TilewiseError)):
            laid(image, segmenters, layers, out, 50)
        stopper.left = math.inf
        again = laid(image, segmenters, layers, out, 50)
        np.testing.assert_array_equal(again.labels.values, whole.labels.values)
        np.testing.assert_array_equal(again.classes.values, whole.classes.values)
        assert again.objects.equals(whole.objects)
        for name in ("panoptic.json", "panoptic.png"):
            assert (out / name).read_bytes() == Path(whole.path, name).read_bytes()
        assert not (out / ".tilewise").exists()


LAYERS = [{"things": "a", "classes": 1}, {"stuff": "b", "classes": 2}]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"layers": [{"things": "a"}]},
            "layers: b is in none; allowed: each segmenter in one layer",
        ),
        ({"layers": [*LAYERS, {"stuff": "a", "classes": 3}]}, "layers: a is in two layers"),
        (
            {"layers": [{"things": "a", "stuff": "b"}]},
            r"layers\[0\].things: 'a', stuff: 'b'; allowed: one of them",
        ),
        ({"layers": [{"things": "c"}]}, r"layers\[0\].things: 'c'; allowed: a, b"),
        (
            {"layers": [{"thing": "a"}]},
            r"layers\[0\].thing: there is no such key; .*did you mean 'things'",
        ),
        ({"layers": ["a"]}, r"layers\[0\]: 'a'; allowed: a layer such as \{things: a\}"),
        (
            {"layers": [{"things": "a", "classes": 0}, LAYERS[1]]},
            r"layers\[0\].classes: 0; allowed: a class from 1",
        ),
        (
            {"layers": [{"things": "a", "classes": {1: MOST + 1}}, LAYERS[1]]},
            r"layers\[0\].classes: .*; allowed: a class from 1 to 65534",
        ),
        (
            {"layers": [LAYERS[0], {"stuff": "b", "classes": 1}]},
            r"layers: class 1 is that of things and of stuff \(a, b\)",
        ),
        (
            {"layers": [LAYERS[0], LAYERS[1] | {"when": {"mean": 5}}]},
            r"layers\[1\].when.mean: 5; allowed: \{min: number\}",
        ),
        (
            {"layers": [LAYERS[0], LAYERS[1] | {"when": {"sharpness": {"min": 5}}}]},
            r"layers\[1\].when.sharpness: there is no such trait",
        ),
        ({"layers": LAYERS, "route": ["a"]}, "route: given with layers"),
        (
            {"route": ["a"], "output": {"path": "out", "results": ["panoptic"]}},
            "output.results: panoptic; allowed with layers",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(parts, message):
    """Layers that cannot be are refused before any work, with the key and what is allowed."""
    known = {"segmenters": {"a": "threshold", "b": "threshold"}, "output": {"path": "out"}}
    with pytest.raises(JobError, match=message):
        pipeline.Job(source="a.tif", **{**known, **parts})


def test_refusals_once_classes_are_known(tmp_path, monkeypatch):
    """Classes that turn out to be those of things and of stuff, and more segments than a PNG can
    number, end the run unpublished.
    """
    segmenters = {"a": pipeline.Threshold(value=100), "b": LEVELS}
    with pytest.raises(JobError, match=r"layers: class 2 is that of things and of stuff \(a, b\)"):
        laid(
            TISSUE[0],
            segmenters,
            [{"things": "a", "classes": 2}, {"stuff": "b"}],
            tmp_path / "both",
        )
    monkeypatch.setattr("pipeline.stages.panoptic.MOST", 20)
    with pytest.raises(
        OutputError, match="objects are too many for a panoptic PNG, which numbers 20"
    ):
        laid(
            TISSUE[0],
            segmenters,
            [{"things": "a", "classes": 9}, {"stuff": "b"}],
            tmp_path / "many",
        )
    assert not (tmp_path / "many" / "labels.zarr").exists()
    volume = {"path": np.zeros((4, 5, 6), np.uint8), "axes": "zyx", "planes": "all"}
    with pytest.raises(
        JobError, match=r"output\.results: panoptic of a volume; allowed: instance and semantic"
    ):
        laid(
            volume,
            segmenters,
            LAYERS,
            tmp_path / "volume",
            output={"results": ["panoptic"]},
            tiles={"size": 4},
        )


def test_colours_are_numbers():
    """A number becomes a colour and comes back, up to the highest."""
    some = np.array([[0, 1, 255, 256, 65535, 65536, panoptic.MOST]])
    np.testing.assert_array_equal(panoptic.numbers(panoptic.colours(some)), some)


def as_coco(folder, numbers, kinds, things, crowds=()):
    """Truth in COCO's format, written by the format's definition."""
    coded = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1).astype(
        np.uint8
    )
    Image.fromarray(coded).save(folder / "truth.png")
    segments = [
        {"id": n, "category_id": k, "iscrowd": int(n in crowds), "area": int((numbers == n).sum())}
        for n, k in kinds.items()
    ]
    categories = [
        {"id": k, "name": str(k), "isthing": int(k in things)} for k in sorted(set(kinds.values()))
    ]
    told = {
        "images": [],
        "annotations": [{"image_id": 1, "file_name": "truth.png", "segments_info": segments}],
        "categories": categories,
    }
    (folder / "truth.json").write_text(json.dumps(told))
    return folder / "truth.json"


@quiet
def test_quality_is_that_of_torchmetrics(tissue, tmp_path, monkeypatch):
    """Panoptic quality of a result, in parts, is torchmetrics' on the whole image, for things and
    stuff and by class.
    """
    torch = pytest.importorskip("torch")
    quality = pytest.importorskip("torchmetrics.detection").PanopticQuality
    monkeypatch.setitem(against_truth.EXTENT, 2, 70)
    labels, classes = (
        tissue[0].labels.values.astype(np.int64),
        tissue[0].classes.values.astype(np.int64),
    )
    rng = np.random.default_rng(0)
    moved = np.roll(labels, (1, 2), (0, 1))
    lost = rng.choice(labels.max(), 60, replace=False) + 1
    things = np.where(np.isin(moved, lost), 0, moved)
    kinds = np.where(things > 0, 9, np.where(classes == 9, 3, np.roll(classes, 3, axis=1)))
    kinds = np.where((kinds == 9) & (things == 0), 1, kinds)
    numbers = np.where(things > 0, things, 5000 + kinds)
    void = np.zeros(labels.shape, bool)
    void[100:140, 50:120] = True
    numbers[void] = 0
    known = {int(n): int(kinds[numbers == n][0]) for n in np.unique(numbers[numbers > 0])}
    truth = as_coco(tmp_path, numbers, known, things={9})
    found = against_truth.evaluate(tissue[0].path, truth, kind="panoptic").measures

    metric = quality(
        things={9}, stuffs={1, 2, 3, 0}, allow_unknown_preds_category=True, return_per_class=True
    )
    ours = torch.tensor(np.stack([classes, labels], axis=-1)[None])
    # its void is any category that is neither of things nor of stuff
    theirs = torch.tensor(
        np.stack([np.where(void, 77, kinds), np.where(kinds == 9, things, 0)], axis=-1)[None]
    )
    metric.update(ours, theirs)
    per_class = dict(zip([9, 0, 1, 2, 3], metric.compute().ravel().tolist(), strict=True))
    for kind in (1, 2, 3, 9):
        assert found["classes"][kind]["pq"] == pytest.approx(per_class[kind], abs=1e-6), kind
    assert found["pq_things"] == found["classes"][9]["pq"]
    assert found["pq_stuff"] == pytest.approx(
        np.mean([found["classes"][k]["pq"] for k in (1, 2, 3)])
    )
    assert 0 < found["pq"] < 1


@quiet
def test_a_result_against_itself_and_another(tissue, tmp_path):
    """Against its own files, or the same result in other tiles, everything matches; the command
    prints measures and draws a picture.
    """
    tiled, whole = tissue
    for truth in (Path(tiled.path, "panoptic.json"), whole.path):
        found = against_truth.evaluate(tiled.path, truth, kind="panoptic").measures
        assert (found["pq"], found["sq"], found["rq"], found["boundary_f1"]) == (1, 1, 1, 1)
    drawing = tmp_path / "fates.png"
    command = [
        "evaluate",
        tiled.path,
        str(Path(whole.path, "panoptic.json")),
        "--kind",
        "panoptic",
        "--picture",
        str(drawing),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "pq_things" in done.output
    assert (np.asarray(Image.open(drawing)) == error_map.SHADES[error_map.MATCHED]).all(
        axis=-1
    ).mean() > 0.99


@quiet
def test_crowds_and_ignored_classes_ask_nothing(tmp_path):
    """Crowds, classes that are ignored and pixels without a number count neither as missed nor as
    invented.
    """
    image = np.zeros((40, 60), np.uint8)
    for column in (5, 25, 45):
        image[10:20, column : column + 10] = 200
    result = laid(
        image,
        {"spots": pipeline.Threshold(value=100)},
        [{"things": "spots", "classes": 4}],
        tmp_path / "out",
        32,
    )
    labels = result.labels.values.astype(np.int64)
    truth = as_coco(tmp_path, labels, {1: 4, 2: 4, 3: 6}, things={4, 6}, crowds={2})
    one = against_truth.evaluate(result.path, truth, kind="panoptic").measures["classes"][4]
    assert (one["matches"], one["missed"], one["invented"]) == (1, 0, 1)
    one = against_truth.evaluate(result.path, truth, kind="panoptic", ignore=[6]).measures[
        "classes"
    ][4]
    assert (one["matches"], one["missed"], one["invented"]) == (1, 0, 0)


@quiet
def test_refused_truth(tissue, tmp_path):
    """Truth of another shape, without its PNG, of another image, or no such JSON is refused, and so
    is a result without classes.
    """
    path = as_coco(tmp_path, np.ones((9, 9), int), {1: 1}, things={1})
    with pytest.raises(JobError, match="truth of 9 x 9 pixels; allowed: 300 x 400"):
        against_truth.evaluate(tissue[0].path, path, kind="panoptic")
    as_coco(tmp_path, np.full((300, 400), 8), {1: 1}, things={1})
    with pytest.raises(SourceError, match="segment 8 of the panoptic PNG is not in the JSON"):
        against_truth.evaluate(tissue[0].path, path, kind="panoptic")
    with pytest.raises(SourceError, match="describes 1 images"):
        against_truth.evaluate(tissue[0].path, path, kind="panoptic", image="other.png")
    (tmp_path / "truth.png").unlink()
    with pytest.raises(SourceError, match=r"there is no truth\.png beside"):
        against_truth.evaluate(tissue[0].path, path, kind="panoptic")
    path.write_text("{}")
    with pytest.raises(SourceError, match="is no panoptic JSON of COCO's: KeyError"):
        against_truth.evaluate(tissue[0].path, path, kind="panoptic")
    plain = alone(TISSUE, NUCLEI, tmp_path / "plain")
    with pytest.raises(
        SourceError, match=r"holds no classes\.zarr; allowed: the folder of a result of layers"
    ):
        against_truth.evaluate(plain.path, tissue[0].path, kind="panoptic")


def test_a_wide_picture_is_whole(tmp_path, monkeypatch):
    """A PNG larger than a window is written whole, and a write that fails leaves nothing."""
    monkeypatch.setattr(panoptic, "WINDOW", 512)
    frame = Frame((700, 1100))
    numbers = np.arange(700 * 1100).reshape(700, 1100)
    with pytest.MonkeyPatch.context():
        panoptic.write_png(str(tmp_path / "p.png"), frame, lambda box: numbers[box.slices])
    coded = np.asarray(Image.open(tmp_path / "p.png"), np.int64)
    np.testing.assert_array_equal(
        coded[..., 0] + 256 * coded[..., 1] + 65536 * coded[..., 2], numbers
    )
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]

    def broken(_box):
        raise rasterio.errors.RasterioIOError("no space")

    with pytest.raises(OutputError, match="cannot be written"):
        panoptic.write_png(str(tmp_path / "q.png"), frame, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
