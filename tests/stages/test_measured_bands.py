"""What was measured is a fact of each band: of sources, methods, steps, fits, routes and
the table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from scipy import ndimage
from skimage.filters import threshold_otsu
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import JobError
from pipeline.evaluation.verify import verify
from pipeline.image.grid import Box
from pipeline.sources import open_source, where_measured
from tests.faults.staging import blobs
from tests.small_networks import bundle
from tests.sources.files import tiff

LOCAL = pipeline.local
PLACED = "<GeoTransform>500000, 10, 0, 5000000, 0, -20</GeoTransform>"


def scene(bands: int = 4, size: int = 72) -> np.ndarray:
    """Blobs, others in each band; float32, never 0."""
    return np.stack([blobs(size, seed) for seed in range(bands)]).astype(np.float32) + 1


def run(image: Any, method: Any, out: Path, tile: int = 32, **more: Any) -> pipeline.Result:
    return pipeline.segment(image, method, out, tile=tile, engine=LOCAL(), **more)


def array(image: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"path": image, "axes": "cyx", **more}


READERS: dict[str, tuple[dict[str, Any], set[int]]] = {
    "threshold": ({"kind": "threshold", "band": 2, "sigma": 1}, {1}),
    "index": ({"kind": "threshold", "index": [3, 1], "value": 0}, {0, 2}),
    "weights": ({"kind": "threshold", "weights": [0, 1, 0, 2]}, {1, 3}),
    "channel": ({"kind": "threshold", "channel": "saturation"}, {0, 1, 2}),
    "watershed": ({"kind": "watershed", "band": 2, "sigma": 1}, {1}),
    "blobs": ({"kind": "blobs", "band": 3}, {2}),
    "region_growing": ({"kind": "region_growing", "band": 2, "tolerance": 20}, {1}),
    "quasi_flat": ({"kind": "quasi_flat", "bands": [2, 3]}, {1, 2}),
    "edges": ({"kind": "edges", "band": 2, "sigma": 1}, {1}),
    "kmeans": ({"kind": "kmeans", "bands": [2], "indices": [[3, 1]], "clusters": 3}, {0, 1, 2}),
    "gmm": ({"kind": "gmm", "bands": [1, 3], "clusters": 3}, {0, 2}),
    "mean_shift": ({"kind": "mean_shift", "bands": [2]}, {1}),
    "superpixels": ({"kind": "superpixels", "bands": [4], "spacing": 8}, {3}),
    "region_graph": ({"kind": "region_graph", "bands": [2], "spacing": 8}, {1}),
    "felzenszwalb": ({"kind": "felzenszwalb", "bands": [2, 4]}, {1, 3}),
    "random_walker": ({"kind": "random_walker", "band": 2}, {1}),
    "normalized_cut": ({"kind": "normalized_cut", "bands": [2], "spacing": 8}, {1}),
}


@pytest.mark.parametrize("name", READERS)
def test_a_band_that_a_method_does_not_read_changes_nothing(name, tmp_path):
    """With NaN all over the bands that a method does not read, its labels and certificates are the
    same, whatever it is fitted to.
    """
    method, reads = READERS[name]
    image = scene() / np.float32(300) if name == "channel" else scene()
    image[:, 20:30, 50:60] = np.nan
    bare = image.copy()
    bare[[band for band in range(4) if band not in reads]] = np.nan
    found = [
        run(array(what), method, tmp_path / str(number))
        for number, what in enumerate((image, bare))
    ]
    rasters = [
        (one.classes if "semantic" in one.record["results"] else one.labels).values for one in found
    ]
    assert len(np.unique(rasters[0])) > 2
    np.testing.assert_array_equal(*rasters)
    assert found[0].record["certificates"] == found[1].record["certificates"]
    statistics = found[1].objects.filter(regex="^(mean|min|max|std)_")
    for band in range(4):
        assert statistics[
            [f"{what}_{band + 1}" for what in ("mean", "min", "max", "std")]
        ].isna().all(axis=None) == (band not in reads)


def test_a_band_that_a_network_does_not_read_changes_nothing(tmp_path):
    """Of four bands a network reads three: where the fourth was not measured it draws as
    elsewhere.
    """
    image, weights = (
        scene().astype(np.float32),
        bundle(tmp_path, data_type="float32", decoder={"kind": "semantic"}),
    )
    bare = image.copy()
    bare[1] = np.nan
    method = {"kind": "unet", "weights": weights, "bands": [1, 3, 4]}
    found = [
        run(array(what), method, tmp_path / str(number), tile=64).classes.values
        for number, what in enumerate((image, bare))
    ]
    np.testing.assert_array_equal(*found)
    assert (found[0] < 255).all()


def test_an_index_of_which_one_band_ends_early(tmp_path):
    """Where only red ends three columns before near infrared there is no NDVI, and no object."""
    image = np.stack([blobs(64, 0), blobs(64, 1)]).astype(np.uint16) + 1
    image[0, :, -3:] = 0
    path = tiff(tmp_path / "a.tif", image, nodata=0)
    result = run(path, {"kind": "threshold", "index": [2, 1], "value": 0.0}, tmp_path / "out")
    red, nir = np.ma.masked_equal(image, 0).astype(float)
    expected = ndimage.label(((nir - red) / (nir + red) > 0).filled(0))[0]
    np.testing.assert_array_equal(result.labels.values, expected)
    assert not result.labels.values[:, -3:].any()


@pytest.mark.parametrize("missing", [-9999, np.nan], ids=["nodata", "NaN"])
def test_a_threshold_is_fitted_to_what_was_measured_of_its_band(missing, tmp_path):
    """Otsu's threshold of a band that is missing in places, where the other is not, is
    scikit-image's of its measured values.
    """
    image = np.stack([blobs(64, 0), blobs(64, 1)]).astype(np.float32)
    image[0, :30] = missing
    result = run(array(image, nodata=-9999), {"kind": "threshold"}, tmp_path / "out")
    expected = threshold_otsu(image[0, 30:], nbins=256)
    found = result.record["fitted"]["threshold"]["value"]
    assert found == pytest.approx(expected, abs=1)
    np.testing.assert_array_equal(
        result.labels.values > 0, (image[0] > found) & (np.arange(64) >= 30)[:, None]
    )


@settings(max_examples=25)
@given(st.data())
def test_statistics_of_a_band_are_over_its_own_pixels(tmp_path_factory, data):
    """In any tiling, mean, spread, least and greatest of a band are NumPy's over the pixels of the
    object that were measured in that band; null where none was. Which pixels the object has depends
    on the band that defines it alone.
    """
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    dtype, nodata = data.draw(
        st.sampled_from(
            [
                ("uint8", 0),
                ("int16", -99),
                ("int64", -99),
                ("float32", np.nan),
                ("float64", -9999.0),
            ]
        )
    )
    shape = data.draw(st.sampled_from([(24, 31), (40, 18), (5, 14, 17)]))
    image = rng.integers(1, 200, (3, *shape)).astype(dtype)
    for band in (1, 2):
        lost = ndimage.uniform_filter(rng.random(shape), 5) < data.draw(
            st.sampled_from([0.4, 0.5, 0.55, 1.0])
        )
        image[band][lost] = nodata
    axes = "cyx" if len(shape) == 2 else "czyx"
    source = {"path": image, "axes": axes, "nodata": None if np.isnan(nodata) else nodata}
    result = run(
        source,
        {"kind": "threshold", "value": 120},
        folder / "out",
        tile=data.draw(st.integers(4, 40)),
    )
    labels, expected = result.labels.values, ndimage.label(image[0] > 120)[0]
    np.testing.assert_array_equal(labels, expected)
    table = result.objects
    for band in range(3):
        known = np.isfinite(image[band].astype(float)) & (image[band] != nodata)
        for row, number in enumerate(table["id"]):
            values = image[band][(labels == number) & known].astype(np.float64)
            mine = [table[f"{what}_{band + 1}"][row] for what in ("mean", "std", "min", "max")]
            if values.size:
                np.testing.assert_allclose(
                    mine,
                    [values.mean(), values.std(), values.min(), values.max()],
                    rtol=1e-9,
                    atol=1e-9,
                )
            else:
                assert np.isnan(mine).all()


def test_bands_of_a_separate_vrt_have_their_own_nodata(tmp_path):
    """Of a VRT of separate files with nodata 0 and 255 each band is measured where its own file is,
    as rasterio's masks say.
    """
    for number, (nodata, seed) in enumerate(((0, 0), (255, 1))):
        image = blobs(64, seed)
        image[10 * number : 10 * number + 10] = nodata
        tiff(tmp_path / f"{number}.tif", image[None], nodata=nodata)
    band = (
        '<VRTRasterBand dataType="Byte" '
        'band="{}"><NoDataValue>{}</NoDataValue><ComplexSource><SourceFilename '
        'relativeToVRT="1">{}.tif'
        "</SourceFilename><SourceBand>1</SourceBand><NODATA>{}</NODATA></ComplexSource></VRTRasterBand>"
    )
    both = band.format(1, 0, 0, 0) + band.format(2, 255, 1, 255)
    path = tmp_path / "a.vrt"
    path.write_text(f'<VRTDataset rasterXSize="64" rasterYSize="64">{PLACED}{both}</VRTDataset>')
    source, box = open_source(path), Box.whole((64, 64))
    with rasterio.open(path) as file:
        masks, values = file.read_masks() > 0, file.read()
    np.testing.assert_array_equal(where_measured(source, box, source.read(box)), masks)
    result = run(path, {"kind": "threshold", "band": 2, "value": 100}, tmp_path / "out")
    np.testing.assert_array_equal(
        result.labels.values, ndimage.label((values[1] > 100) & masks[1])[0]
    )


def test_a_channel_that_is_missing_beside_the_one_that_is_segmented(tmp_path):
    """Of an OME-TIFF whose second channel is NaN in a strip the first is segmented as if it were
    alone.
    """
    image = np.stack([blobs(64, 0), blobs(64, 1)]).astype(np.float32)
    image[1, :, 20:40] = np.nan
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata={"axes": "CYX"})
    result = run(tmp_path / "a.ome.tif", {"kind": "watershed", "sigma": 1}, tmp_path / "out")
    alone = run(image[0], {"kind": "watershed", "sigma": 1}, tmp_path / "alone")
    np.testing.assert_array_equal(result.labels.values, alone.labels.values)
    assert result.objects["mean_2"].isna().sum() < len(result.objects)


def test_chunks_of_another_channel_that_were_never_written(tmp_path):
    """An OME-Zarr's second channel lacks chunks, which its writer left out: objects of the first
    are all there, and the run says so.
    """
    image = np.stack([blobs(64, 0), blobs(64, 1)])
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    stored = group.create_array(
        "0", shape=image.shape, chunks=(1, 32, 32), dtype="uint8", dimension_names=("c", "y", "x")
    )
    stored[0], stored[1, :32] = image[0], image[1, :32]
    axes = [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]
    levels = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    result = run(tmp_path / "a.zarr", {"kind": "threshold", "value": 100}, tmp_path / "out")
    np.testing.assert_array_equal(result.labels.values, ndimage.label(image[0] > 100)[0])
    below = result.objects["row_min"] >= 32
    assert result.objects.loc[below, "mean_2"].isna().all()
    assert result.record["unmeasured"]["bands"] == {
        "2": {"pixels": 2048, "share": 0.5, "why": {"missing chunks": 2048}}
    }
    assert any(line == "not measured: 50 % (missing chunks) of band 2" for line in result.lines())
    assert not verify(tmp_path / "out").wrong


def coloured(path: Path, image: np.ndarray, **more: Any) -> Path:
    tiff(path, image, photometric="RGB", **more)
    with rasterio.open(path) as file:
        assert file.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    return path


@pytest.mark.parametrize("bands", [None, [1], [3, 1]], ids=["all", "red", "blue and red"])
def test_one_colour_shares_what_was_measured(bands, tmp_path):
    """With nodata 0 a pixel of red, green and blue is missing only where all three are 0, whichever
    of them are read; not so the fourth band, near infrared. ``nodata_by`` overrules it.
    """
    image = np.random.default_rng(0).integers(0, 3, (4, 30, 40)).astype(np.uint16)
    path, box = coloured(tmp_path / "a.tif", image, nodata=0), Box((3, 4), (25, 39))
    chosen = [number - 1 for number in bands or (1, 2, 3, 4)]
    colour, own = (image[:3] > 0).any(axis=0), image > 0
    for rule, expected in (
        (None, np.stack([colour, colour, colour, own[3]])[chosen]),
        ("band", own[chosen]),
        ("pixel", np.broadcast_to(own[chosen].any(axis=0), (len(chosen), 30, 40))),
    ):
        source = open_source(path, bands=bands, nodata_by=rule)
        for one in (source, open_source([path], bands=bands, nodata_by=rule)):
            np.testing.assert_array_equal(
                where_measured(one, box, one.read(box)), expected[:, 3:25, 4:39]
            )
    glance = open_source(path).glance(box, 3)
    coarse = np.stack([*[(glance[:3] > 0).any(axis=0)] * 3, glance[3] > 0])[chosen]
    source = open_source(path, bands=bands)
    np.testing.assert_array_equal(where_measured(source, box, source.glance(box, 3), 3), coarse)
    same, shared = (
        open_source(path, bands=bands, nodata=0),
        np.stack([colour, colour, colour, own[3]])[chosen],
    )
    np.testing.assert_array_equal(where_measured(same, box, same.read(box)), shared[:, 3:25, 4:39])


def test_nodata_by_is_one_of_two_words(tmp_path):
    """Another word is refused before anything is read."""
    path = tiff(tmp_path / "a.tif", scene(2, 8))
    for image in (path, [path], scene(2, 8)):
        with pytest.raises(JobError, match="nodata_by: 'bnad'; allowed: band or pixel"):
            open_source(
                image,
                nodata_by="bnad",
                **({"axes": "cyx"} if isinstance(image, np.ndarray) else {}),
            )


@settings(max_examples=30)
@given(st.data())
def test_a_mosaic_fills_each_band_from_the_first_file_that_measured_it(tmp_path_factory, data):
    """Pixel by pixel and band by band, a mosaic has the value of the first file that has one, and
    is not measured where none has.
    """
    folder = tmp_path_factory.mktemp("mosaic")
    rng, size = np.random.default_rng(data.draw(st.integers(0, 99))), (20, 24)
    expected, known, paths = np.zeros((2, *size), np.int16), np.zeros((2, *size), bool), []
    for number in range(3):
        image = rng.integers(0, 3, (2, 12, 15)).astype(np.int16)
        row, column = data.draw(st.integers(0, 8)), data.draw(st.integers(0, 9))
        if number == 0:
            row = column = 0
        if number == 1:
            row, column = 8, 9
        place = rasterio.Affine(10, 0, 5e5 + 10 * column, 0, -20, 5e6 - 20 * row)
        paths.append(tiff(folder / f"{number}.tif", image, nodata=0, transform=place))
        mine = (slice(None), slice(row, row + 12), slice(column, column + 15))
        new = ~known[mine] & (image > 0)
        expected[mine] = np.where(new, image, expected[mine])
        known[mine] |= image > 0
    mosaic, box = open_source(paths), Box((2, 1), (19, 22))
    np.testing.assert_array_equal(mosaic.read(box), expected[(slice(None), *box.slices)])
    np.testing.assert_array_equal(
        where_measured(mosaic, box, mosaic.read(box)), known[(slice(None), *box.slices)]
    )


def test_steps_keep_bands_apart(tmp_path):
    """A step that works band by band gives of one band the same whatever was measured of another;
    one of two bands, where both were.
    """
    image = scene(3)
    image[1, :20], image[2, :, :30] = np.nan, np.nan
    steps = [
        {"kind": "smooth", "sigma": 1},
        {"kind": "denoise", "radius": 1},
        {"kind": "background", "radius": 9},
        {"kind": "stretch"},
    ]
    method = {"kind": "threshold", "value": 0.3}
    whole = run(array(image), method, tmp_path / "whole", steps=steps)
    alone = run(array(image[:1]), method, tmp_path / "alone", steps=steps)
    np.testing.assert_array_equal(whole.labels.values, alone.labels.values)
    assert whole.labels.values[:20].any()
    added = [*steps[:1], {"kind": "index", "bands": [3, 2], "append": True}]
    result = run(
        array(image),
        {"kind": "threshold", "band": 4, "value": -9.0},
        tmp_path / "index",
        steps=added,
    )
    assert (result.labels.values > 0).tolist() == (
        np.isfinite(image[1]) & np.isfinite(image[2])
    ).tolist()
    first = run(
        array(image),
        {"kind": "threshold", "band": 1, "value": -9.0},
        tmp_path / "first",
        steps=added,
    )
    assert (first.labels.values > 0).all()


def test_a_function_reads_all_bands_unless_it_says_otherwise(tmp_path):
    """A function draws nothing where any band is missing; with ``reads`` only the bands count that
    it names.
    """

    def bright(block):
        return ndimage.label(np.nan_to_num(block[0]) > 100)[0]

    image = scene(2)
    image[1, :30] = np.nan
    assert not run(array(image), bright, tmp_path / "all").labels.values[:30].any()
    bright.reads = lambda _number: [0]
    found = run(array(image), bright, tmp_path / "one").labels.values
    np.testing.assert_array_equal(found > 0, image[0] > 100)


def test_a_tile_without_what_any_method_reads_is_empty(tmp_path):
    """A tile is empty, and costs no task, where nothing was measured of what its methods read,
    whatever there is in other bands.
    """
    image = scene(2, 64)
    image[0, :32] = np.nan
    calls = []

    def counted(block):
        calls.append(block.shape)
        return np.zeros(block.shape[1:], np.int32)

    counted.reads = lambda _number: [0]
    result = run(array(image), counted, tmp_path / "out", halo=0)
    assert result.record["routes"]["counted"]["tiles"] == len(calls) == 2
    assert result.record["unmeasured"] == {
        "looked_at": 64 * 64,
        "bands": {"1": {"pixels": 2048, "share": 0.5, "why": {"NaN": 2048}}},
    }


@settings(max_examples=20)
@given(st.data())
def test_the_record_counts_what_was_not_measured(tmp_path_factory, data):
    """In any tiling, the record's counts by band and by reason are those of the whole image."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    image = rng.random((2, 37, 45)).astype(np.float32)
    holes = rng.random(image.shape) < 0.2
    image[holes & (rng.random(image.shape) < 0.5)] = np.nan
    image[holes & np.isfinite(image)] = -1
    image[:, : data.draw(st.integers(0, 37)), :20] = -1
    lazy = da.from_array(image, chunks=(2, 16, 16))
    result = run(
        {"path": lazy, "axes": "cyx", "nodata": -1},
        {"kind": "threshold", "value": 0.5},
        folder / "out",
        tile=data.draw(st.integers(6, 50)),
    )
    told = result.record["unmeasured"]
    assert told["looked_at"] == 37 * 45
    for band in range(2):
        counts = {"NaN": int(np.isnan(image[band]).sum()), "nodata": int((image[band] == -1).sum())}
        assert told["bands"][str(band + 1)]["why"] == {why: n for why, n in counts.items() if n}


def test_the_command_says_what_was_not_measured(tmp_path):
    """`segment` ends with a line of it where it is more than a thousandth; `plan` counts it
    beforehand.
    """
    image = np.stack([blobs(64), blobs(64)])
    image[0, :8] = 255
    tiff(tmp_path / "a.tif", image, nodata=255)
    command = [
        "segment",
        str(tmp_path / "a.tif"),
        str(tmp_path / "out"),
        "--with",
        "threshold",
        "--workers",
        "0",
    ]
    assert "not measured: 12.5 % (nodata) of band 1" in CliRunner().invoke(app, command).output
    (tmp_path / "job.yaml").write_text(
        f"source: {tmp_path}/a.tif\nsegmenters: {{t: threshold}}\noutput: {{path: "
        f"{tmp_path}/other}}\n"
    )
    planned = CliRunner().invoke(
        app, ["plan", str(tmp_path / "job.yaml"), "--json", "--workers", "0"]
    )
    assert json.loads(planned.output)["unmeasured"]["bands"] == {
        "1": {"pixels": 512, "share": 0.125, "why": {"nodata": 512}}
    }
