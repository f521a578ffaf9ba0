"""Zarr arrays and OME-Zarr images: what is read is what was written, whatever the version and
layout.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pipeline
from pipeline.errors import JobError, SourceError
from pipeline.image.grid import Box
from pipeline.sources import Source, open_source
from pipeline.sources.facts import told
from tests.faults.staging import blobs, write


def whole(source: Source) -> np.ndarray:
    return source.read(Box.whole(source.frame.shape))


LAYOUTS = {
    "v3": {"zarr_format": 3, "chunks": (2, 16, 20)},
    "v3 sharded": {"zarr_format": 3, "chunks": (1, 8, 8), "shards": (2, 32, 40)},
    "v2": {"zarr_format": 2, "chunks": (1, 30, 7)},
    "v2 in Fortran's order": {"zarr_format": 2, "chunks": (3, 16, 16), "order": "F"},
}


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", ">f4", "float64", "bool"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, dtype, tmp_path):
    """Arrays of versions 2 and 3, sharded, of any byte order, come back as they were written, in
    the machine's byte order.
    """
    pixels = np.random.default_rng(0).integers(0, 200, (3, 50, 61)).astype(dtype)
    if layout.startswith("v3") and dtype.startswith(">"):
        pixels = pixels.astype(
            pixels.dtype.newbyteorder("=")
        )  # which is how version 3 names its types
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=pixels.shape, dtype=pixels.dtype, **LAYOUTS[layout]
    )
    array[:] = pixels
    source = open_source(tmp_path / "a.zarr")
    found = whole(source)
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype.isnative
    assert source.frame.dtype == (
        "uint8" if dtype == "bool" else np.dtype(dtype).newbyteorder("=").name
    )
    assert source.frame.chunks == (LAYOUTS[layout].get("shards") or LAYOUTS[layout]["chunks"])[1:]
    assert len(pickle.dumps(source)) < 5000


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_axes_and_any_box(data, tmp_path_factory):
    """Whatever the order of the axes, a box of some channels of a time is that part of
    the array.
    """
    axes = "".join(
        data.draw(
            st.permutations(data.draw(st.sampled_from(["yx", "cyx", "zyx", "tcyx", "tczyx"])))
        )
    )
    length = {"t": 3, "c": 4, "z": 5, "y": 11, "x": 13}
    pixels = np.random.default_rng(1).integers(0, 255, [length[a] for a in axes], np.uint8)
    folder = tmp_path_factory.mktemp("any") / "a.zarr"
    zarr.create_array(
        folder, shape=pixels.shape, chunks=tuple(min(4, n) for n in pixels.shape), dtype="uint8"
    )[:] = pixels
    options = {"time": data.draw(st.integers(0, 2))} if "t" in axes else {}
    channels = (
        data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)) if "c" in axes else None
    )
    plane = data.draw(st.sampled_from(["all", 0, 3])) if "z" in axes else None
    source = open_source(folder, axes=axes, channels=channels, planes=plane, **options)
    order = [a for a in "tczyx" if a in axes]
    expected = pixels.transpose([axes.index(a) for a in order])
    expected = expected[options["time"]] if "t" in axes else expected
    expected = expected[[c - 1 for c in channels]] if channels else expected[None]
    expected = expected[:, plane] if isinstance(plane, int) else expected
    assert source.frame.shape == expected.shape[1:]
    start = tuple(data.draw(st.integers(0, n - 1)) for n in source.frame.shape)
    stop = tuple(
        data.draw(st.integers(a + 1, n)) for a, n in zip(start, source.frame.shape, strict=True)
    )
    box = Box(start, stop)
    np.testing.assert_array_equal(source.read(box), expected[(slice(None), *box.slices)])
    np.testing.assert_array_equal(
        source.glance(box, 3),
        expected[(slice(None), *box.slices)][(slice(None), *(slice(None, None, 3),) * len(start))],
    )


def ome(folder: Path, version: str) -> Path:
    """An OME-Zarr image (t, c, z, y, x) of two levels, with channels' names and pixel sizes."""
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    for level, size in enumerate((16, 8)):
        array = group.create_array(
            str(level), shape=(2, 2, 3, size, size), chunks=(1, 1, 3, 8, 8), dtype="uint16"
        )
        array[:] = np.arange(array.size).reshape(array.shape) + level
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    levels = [
        {
            "path": str(k),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1, 1, 2.0, 0.5 * 2**k, 0.25 * 2**k]}
            ],
        }
        for k in (0, 1)
    ]
    about = {
        "multiscales": [{"version": version, "axes": axes, "datasets": levels}],
        "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]},
    }
    group.attrs.update(about if version == "0.4" else {"ome": {"version": "0.5", **about}})
    return folder


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(version, tmp_path):
    """Of an OME-Zarr image any level, time, channel and plane is read, with the extent of a pixel
    in its unit.
    """
    folder = ome(tmp_path / "a.zarr", version)
    source = open_source(folder, time=1, channels=["GFP"], level=1)
    expected = zarr.open_group(folder, mode="r")["1"][1, 1]
    np.testing.assert_array_equal(whole(source), expected[None])
    frame = source.frame
    assert (frame.bands, frame.shape, frame.pixel_size, frame.unit) == (
        ("GFP",),
        (3, 8, 8),
        (2.0, 1.0, 0.5),
        "micrometer",
    )
    plane = open_source(folder, time=0, planes=2)
    np.testing.assert_array_equal(whole(plane), zarr.open_group(folder, mode="r")["0"][0, :, 2])
    assert (plane.frame.bands, plane.frame.pixel_size) == (("DAPI", "GFP"), (0.5, 0.25))


@pytest.mark.parametrize(
    ("units", "size", "unit"),
    [
        (["micrometer", "micrometer", "micrometer"], (2.0, 0.5, 0.25), "micrometer"),
        (["nanometer", "micrometer", "micrometer"], (0.002, 0.5, 0.25), "micrometer"),
        ([None, "micrometer", "micrometer"], (2.0, 0.5, 0.25), "micrometer"),
        (["cubits", "um", "nanometer"], (2.0, 500.0, 0.25), "nanometer"),
        ([None, None, None], (2.0, 0.5, 0.25), "pixel"),
    ],
)
def test_units_that_differ(units, size, unit, tmp_path):
    """Where axes have different units, the extent of a pixel is given in one of them, but along an
    axis that has none.
    """
    folder = ome(tmp_path / "a.zarr", "0.5")
    group = zarr.open_group(folder)
    about = group.attrs["ome"]
    for axis, each in zip(about["multiscales"][0]["axes"][2:], units, strict=True):
        axis.pop("unit")
        axis.update({"unit": each} if each else {})
    group.attrs["ome"] = about
    frame = open_source(folder, time=0).frame
    assert (frame.pixel_size, frame.unit) == (pytest.approx(size), unit)
    doubts = told(open_source(folder, time=0)).get("not_understood", [])
    assert len(doubts) == (unit != "pixel" and units[0] in (None, "cubits"))
    assert all(doubt.endswith("no size is taken there") and "along z" in doubt for doubt in doubts)
    assert frame.unlike == ((0,) if unit != "pixel" and units[0] in (None, "cubits") else ())
    assert open_source(folder, time=0, planes=1).frame.unit == (units[-1] or "pixel")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "time: missing; the image has 2 times; allowed: 0 to 1"),
        ({"time": 2}, "time: 2; allowed: 0 to 1"),
        (
            {"time": 0, "channels": ["RFP"]},
            "channels: 'RFP'; allowed: 1 to 2, or a name: DAPI, GFP",
        ),
        ({"time": 0, "channels": [1], "bands": [1]}, "channels and bands are both given"),
        ({"time": 0, "level": 2}, "level: 2; allowed: 0 to 1, or a path"),
        ({"time": 0, "planes": 3}, "planes: 3; allowed: all, or one plane's index from 0 to 2"),
        ({"time": 0, "axes": "yx"}, r"axes: 'yx' for the shape \(2, 2, 3, 16, 16\)"),
        ({"tiem": 0}, "tiem: a source of kind zarr has no such option; .*did you mean 'time'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit(options, message, tmp_path):
    """An option that does not fit the image is refused with what is allowed."""
    with pytest.raises(JobError, match=message):
        open_source(ome(tmp_path / "a.zarr", "0.5"), **options)


def test_real_images(shared):
    """The same nuclei in OME-Zarr 0.4 and 0.5 and as PNG are the same pixels; a real plate's image
    keeps its pixel size.
    """
    png = np.asarray(Image.open(shared / "nuclei-fluo" / "dsb2018_07fb37aa.png"))
    found = [
        whole(open_source(shared / "ome-zarr" / f"dsb2018_07fb37aa_{version}.zarr"))
        for version in ("v04", "v05")
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert any(np.array_equal(found[0][0], png[..., band]) for band in range(3))
    cardio = open_source(shared / "ome-zarr" / "fractal_cardio_dapi_v04.zarr")
    assert cardio.frame.unit == "micrometer"
    assert 0.1 < cardio.frame.pixel_size[-1] < 2


def test_own_labels_are_an_image(tmp_path):
    """What a run writes can be read as an image, and lies where the image lay."""
    image = write(tmp_path / "image.tif", blobs())
    result = pipeline.segment(
        str(image), pipeline.Threshold(value=100), tmp_path / "out", engine=pipeline.local()
    )
    source = open_source(tmp_path / "out" / "labels.zarr")
    np.testing.assert_array_equal(whole(source)[0], result.labels)
    first = open_source(image).frame
    assert source.frame.transform == first.transform
    assert rasterio.CRS.from_wkt(source.frame.crs) == rasterio.CRS.from_wkt(first.crs)


def test_what_is_no_image(tmp_path):
    """A folder that is no Zarr, a group without an image, an array of text and a broken chunk are
    refused by name.
    """
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match="folder is a folder, and no Zarr array or group"):
        open_source(tmp_path / "folder")
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    with pytest.raises(
        JobError,
        match=r"group\.zarr is a Zarr group in which no image was found; allowed: an array",
    ):
        open_source(tmp_path / "group.zarr")
    group.create_array("inside", shape=(4, 4), dtype="uint8")
    assert open_source(tmp_path / "group.zarr").frame.shape == (4, 4)
    group.create_array("more", shape=(4, 4), dtype="uint8")
    with pytest.raises(
        JobError, match=r"choose one, path: .*group\.zarr/inside; it has inside, more"
    ):
        open_source(tmp_path / "group.zarr")
    zarr.create_array(tmp_path / "complex.zarr", shape=(4, 4), dtype="complex64")
    with pytest.raises(
        SourceError, match=r"complex\.zarr holds complex64; allowed: integers and floats"
    ):
        open_source(tmp_path / "complex.zarr")
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), chunks=(4, 4), dtype="uint8")[:] = 1
    source = open_source(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "c" / "0" / "0").write_bytes(b"garbage")
    with pytest.raises(SourceError, match=r"a\.zarr: its chunk c/0/0 cannot be read"):
        whole(source)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(SourceError, match=r"a\.zarr cannot be opened as Zarr"):
        open_source(tmp_path / "a.zarr")


def test_fingerprint(tmp_path):
    """A fingerprint changes with the pixels, and with what is chosen of them, and not with the
    path.
    """
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    seen = []
    for name, value in (("a", pixels), ("b", pixels), ("c", pixels + 1)):
        zarr.create_array(tmp_path / name, shape=(8, 8), chunks=(4, 4), dtype="uint8")[:] = value
        seen.append(open_source(tmp_path / name).fingerprint())
    assert seen[0] == seen[1] != seen[2]
    assert open_source(tmp_path / "a", axes="xy").fingerprint() != seen[0]


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (7, 6)},
        {"chunks": (7, 6), "shards": (14, 12)},
        {"chunks": (7, 6), "zarr_format": 2},
    ],
)
def test_windows_of_kept_chunks(tmp_path, layout):
    """Windows that share chunks read what the array holds, also after a chunk was written anew."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (40, 33)).astype(np.uint8)
    stored = zarr.create_array(tmp_path / "a.zarr", data=image, **layout)
    source = open_source(str(tmp_path / "a.zarr"))
    for change in range(3):
        for _ in range(20):
            (a, b), (c, d) = (
                sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in image.shape
            )
            np.testing.assert_array_equal(source.read(Box((a, c), (b, d)))[0], image[a:b, c:d])
        image[8 * change : 8 * change + 3, 5:20] = change
        stored[:] = image
