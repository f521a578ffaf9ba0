"""Classes as a result: rasters of classes with a legend, and objects with their class."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import pipeline
from pipeline.errors import JobError
from pipeline.image.legend import entry
from tests.tiling import in_raster_order, tiled

LEGEND = {1: "meadow", 2: {"name": "wood & <hedge>", "colour": "#104020"}}


@pytest.fixture(scope="module")
def picture():
    """Three classes of smooth patches, and pixels that were not measured (0)."""
    noise = ndimage.gaussian_filter(np.random.default_rng(1).random((170, 230)), 4)
    image = np.digitize(noise, np.quantile(noise, [0.4, 0.7])).astype(np.uint8) * 80 + 20
    image[30:50, 60:90] = 0
    return image


@pytest.fixture
def scene(picture, tmp_path):
    """The same as a GeoTIFF."""
    path = tmp_path / "scene.tif"
    place = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=230,
        height=170,
        count=1,
        dtype="uint8",
        crs="EPSG:32633",
        transform=place,
        nodata=0,
    ) as f:
        f.write(picture, 1)
    return path


def run(image, out, method, **output):
    how = {"tile": output.pop("tile", 64), **output}
    with pipeline.local() as engine:
        return pipeline.segment(image, method, out, engine=engine, **how)


def expected(picture):
    return np.where(picture == 0, 255, np.digitize(picture, [60, 140])).astype(np.uint8)


@pytest.mark.parametrize("tile", [32, 64, 500])
def test_classes_of_every_pixel(picture, scene, tmp_path, tile):
    """A class raster holds each pixel's class, 0 for background, and another value where nothing
    was measured; a row for each class.
    """
    result = run(
        scene,
        tmp_path / "out",
        pipeline.Threshold(levels=(60, 140)),
        results=["semantic"],
        legend=LEGEND,
        tile=tile,
    )
    classes = zarr.open_array(tmp_path / "out" / "classes.zarr" / "0")[:]
    np.testing.assert_array_equal(classes, expected(picture))
    assert not (tmp_path / "out" / "labels.zarr").exists()
    table = result.objects.set_index("class")
    assert table["area"].to_dict() == {k: int((expected(picture) == k).sum()) for k in (1, 2)}
    assert set(table["certificate"]) == {"proved"}
    np.testing.assert_array_equal(result.classes.values, classes)
    assert result.classes.attrs["_FillValue"] == 255
    assert result.classes.attrs["legend"]["1"]["name"] == "meadow"
    assert "classes.zarr" in "\n".join(result.lines())
    assert "classes" in result._repr_html_()
    with pytest.raises(
        pipeline.TilewiseError, match=r"holds no labels: output\.results was semantic"
    ):
        _ = result.labels


def test_both_results(picture, scene, tmp_path):
    """Asked for both, objects are the connected pieces of the classes, each with its class, and the
    class raster says the same.
    """
    result = run(
        scene,
        tmp_path / "out",
        pipeline.Threshold(levels=(60, 140)),
        results=["instance", "semantic"],
    )
    kinds = np.where(picture == 0, 0, expected(picture))
    first, number = ndimage.label(kinds == 1)
    _, more = ndimage.label(kinds == 2)
    assert result.record["objects"] == number + more
    labels, classes = result.labels.values, result.classes.values
    np.testing.assert_array_equal(labels > 0, kinds > 0)
    kind_of = np.concatenate([[0], result.objects["class"]])
    np.testing.assert_array_equal(kind_of[labels], kinds)
    np.testing.assert_array_equal(np.where(classes == 255, 0, classes), kinds)
    assert len(np.unique(labels[first > 0])) == number


def test_small_objects_lose_their_class(picture, scene, tmp_path):
    """Where objects are decided upon (a minimum area), the class raster holds the classes of those
    that were kept.
    """
    result = run(
        scene,
        tmp_path / "out",
        pipeline.Threshold(levels=(60, 140), min_area=300),
        results=["semantic"],
    )
    kept = np.zeros(picture.shape, int)
    for kind in (1, 2):
        pieces, _ = ndimage.label(expected(picture) == kind)
        kept[(np.bincount(pieces.ravel()) >= 300)[pieces] & (pieces > 0)] = kind
    np.testing.assert_array_equal(np.where(picture == 0, 255, kept), result.classes.values)


def test_gdal_reads_the_legend(picture, scene, tmp_path):
    """The GeoTIFF of classes has colours, names, a nodata value apart from class 0, overviews, and
    the image's place.
    """
    run(
        scene,
        tmp_path / "out",
        pipeline.Threshold(levels=(60, 140)),
        results=["semantic"],
        legend=LEGEND,
        labels=["zarr", "cog"],
    )
    with rasterio.open(tmp_path / "out" / "classes.tif") as file, rasterio.open(scene) as source:
        np.testing.assert_array_equal(file.read(1), expected(picture))
        assert (file.nodata, file.crs, file.transform) == (255, source.crs, source.transform)
        assert file.colormap(1)[2][:3] == (0x10, 0x40, 0x20)
        np.testing.assert_array_equal(file.read_masks(1) > 0, picture > 0)
    text = (tmp_path / "out" / "classes.tif.aux.xml").read_text()
    assert "<Category>wood &amp; &lt;hedge&gt;</Category>" in text


def test_skipped_tiles_have_class_zero(picture, tmp_path):
    """What a rule leaves out is background where it was measured."""
    job = pipeline.Job(
        source=picture,
        tiles={"size": 64},
        segmenters={"cover": pipeline.Threshold(levels=(60, 140))},
        route=[{"use": "skip", "when": {"mean": {"max": 100}}}, "cover"],
        output={"path": str(tmp_path / "out"), "results": ["semantic"]},
    )
    with pipeline.local() as engine:
        result = pipeline.run(job, engine)
    assert result.record["routes"]["skip"]["tiles"] > 0
    classes = result.classes.values
    assert not (classes == 255).any()
    assert set(np.unique(classes)) == {0, 1, 2}


def test_many_classes(tmp_path):
    """Classes beyond 254 take two bytes."""
    image = np.arange(400, dtype=np.uint16).reshape(20, 20)

    def itself(block):
        return block[0].astype(np.int32)

    itself.identity = "connected"
    result = run(image, tmp_path / "out", itself, results=["semantic"], tile=16)
    assert result.classes.dtype == np.uint16
    np.testing.assert_array_equal(result.classes.values, image)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 20), st.sampled_from([(27, 33), (9, 10, 11)]))
def test_keys_are_objects(seed, tile, shape):
    """Pixels of one key are one object, numbered in raster order, over any number of tiles; keys
    may need 64 bits, 0 is background.
    """
    cells = (
        np.random.default_rng(seed)
        .permutation(np.prod([-(-n // 5) for n in shape]))
        .reshape([-(-n // 5) for n in shape])
    )

    def lattice(block, origin):
        place = [
            axis + first for axis, first in zip(np.indices(block.shape[1:]), origin, strict=True)
        ]
        return cells[tuple(axis // 5 for axis in place)].astype(np.int64) * 10**12

    lattice.identity, lattice.reach = "keyed", 0
    image = np.ones((1, *shape), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image, lattice, (tile,) * len(shape), Path(folder))
    np.testing.assert_array_equal(
        found.labels, in_raster_order(lattice(image, (0,) * len(shape)) // 10**12)
    )
    assert set(found.certificates) == {"proved"}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"legend": {1: 5}}, "output.legend.1: 5; allowed: a name, "),
        (
            {"legend": {1: {"name": "a", "color": "#000000"}}},
            "output.legend.1.color: there is no such key; .*did you mean 'colour'",
        ),
        (
            {"legend": {1: {"name": "a", "colour": "red"}}},
            "output.legend.1.colour: 'red'; allowed: '#0040ff' or the like",
        ),
        ({"legend": {70000: "a"}}, "class 70000; allowed: 0 to 65534"),
        ({"results": []}, "output.results: .*; allowed: instance, semantic, panoptic, each once"),
    ],
    ids=str,
)
def test_refusals(output, message):
    """A legend that is none is refused, and so is a result that is none."""
    with pytest.raises(JobError, match=message):
        pipeline.Job(
            source="a.tif", segmenters={"a": "threshold"}, output={"path": "out", **output}
        )
    assert entry(1) != entry(2)


def test_objects_that_cross_routes_keep_their_pixels(tmp_path):
    """Where only classes are wanted, an object that one route would remove for its area is weighed
    with what another route drew of it.
    """
    image = np.full((32, 64), 10, np.uint8)
    image[:, 32:] = (
        60  # by which the routes part: the left half removes what is small, the right half does not
    )
    image[4:8, 28:40] = image[20:22, 4:6] = 110
    image[12:16, 30:36] = image[26:28, 30:32] = 110
    parts = {
        "source": image,
        "tiles": {"size": 16, "halo": 4},
        "segmenters": {
            "large": pipeline.Threshold(value=100, min_area=20),
            "any": pipeline.Threshold(value=100),
        },
        "route": [{"use": "any", "when": {"mean": {"min": 50}}}, {"use": "large"}],
    }
    found = {
        wanted: pipeline.run(
            pipeline.Job(
                **parts, output={"path": str(tmp_path / wanted), "results": wanted.split()}
            ),
            pipeline.local(),
        )
        for wanted in ("semantic", "instance semantic")
    }
    labels = ndimage.label(image == 110)[0]
    whole = np.isin(labels, np.flatnonzero(np.bincount(labels.ravel())[1:] >= 20) + 1)
    for result in found.values():
        np.testing.assert_array_equal(result.classes.values, whole)
        assert set(result.objects["certificate"]) == {"disputed"} or set(
            result.objects["certificate"]
        ) == {"agreed"}
    assert (
        found["semantic"].record["certificates"]
        == found["instance semantic"].record["certificates"]
    )
