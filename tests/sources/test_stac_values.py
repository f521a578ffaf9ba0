"""What a STAC item says of its assets' values and where they lie: nodata, scale and offset of
either version, URIs.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.errors import JobError, SourceError
from pipeline.image.grid import Box
from pipeline.sources import open_source, where_measured
from tests.sources.files import tiff, whole

PIXELS = np.random.default_rng(0).integers(0, 9, (1, 12, 14)).astype(np.uint16)


def item(folder: Path, **assets: object) -> Path:
    path = folder / "item.json"
    path.write_text(json.dumps({"type": "Feature", "assets": assets}))
    return path


def written(
    path: Path, scale: float = 1.0, offset: float = 0.0, nodata: float | None = None
) -> Path:
    tiff(path, PIXELS, nodata=nodata)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,), (offset,)
    return path


def measured(source) -> np.ndarray:
    box = Box.whole(source.frame.shape)
    return where_measured(source, box, source.read(box))


def said(how: str, **values: object) -> dict[str, object]:
    """An asset that says this of its values in one of the ways that there are."""
    new = {
        {"scale": "raster:scale", "offset": "raster:offset"}.get(key, key): value
        for key, value in values.items()
    }
    return {"href": "./a.tif"} | {
        "1.0": {"raster:bands": [values]},
        "1.1": {"bands": [{"name": "B04", **new}]},
        "1.1 of the asset": new,
        "1.1 of band and asset": {**dict.fromkeys(new, 77), "bands": [new]},
        "both": {"raster:bands": [dict.fromkeys(values, 77)], "bands": [new]},
    }[how]


HOWS = ["1.0", "1.1", "1.1 of the asset", "1.1 of band and asset", "both"]


@pytest.mark.parametrize("how", HOWS)
def test_an_items_scale_offset_and_nodata(how, tmp_path):
    """Of a file that says nothing of its values, the item's nodata, scale and offset hold, in
    whichever version it says them.
    """
    written(tmp_path / "a.tif")
    path = item(tmp_path, a=said(how, scale=0.0001, offset=-0.1, nodata=3))
    np.testing.assert_array_equal(whole(open_source(path)), PIXELS)
    np.testing.assert_array_equal(measured(open_source(path)), PIXELS != 3)
    expected = np.where(PIXELS == 3, np.nan, PIXELS * np.float32(0.0001) + np.float32(-0.1))
    np.testing.assert_allclose(whole(open_source(path, scaled=True)), expected, rtol=1e-6)
    np.testing.assert_array_equal(measured(open_source(path, nodata=5)), PIXELS != 5)


@given(**dict.fromkeys(("own", "theirs", "asked"), st.one_of(st.none(), st.integers(0, 9))))
def test_whose_nodata(own, theirs, asked, tmp_path_factory):
    """The option's nodata holds before all, then what file and item agree on or one says alone;
    where they differ it is asked.
    """
    folder = tmp_path_factory.mktemp("stac")
    written(folder / "a.tif", nodata=own)
    path = item(folder, a=said("1.0", **({} if theirs is None else {"nodata": theirs})))
    options = {} if asked is None else {"nodata": asked}
    if asked is None and None not in (own, theirs) and own != theirs:
        with pytest.raises(
            JobError,
            match=rf"nodata: {own} in .*a\.tif, and {theirs} in the item; which one is it\? say "
            rf"so by: nodata",
        ):
            open_source(path, **options)
        return
    holds = next((one for one in (asked, own, theirs) if one is not None), -1)
    np.testing.assert_array_equal(measured(open_source(path, **options)), holds != PIXELS)


def test_words_for_numbers_that_json_has_not(tmp_path):
    """nan stands for NaN, and a nodata rounded in item or file is one and the same."""
    values = np.array([[[np.nan, 1.0], [np.finfo("f4").min, 2.0]]], np.float32)
    tiff(tmp_path / "a.tif", values, nodata=float(np.finfo("f4").min))
    for nodata in (-3.4e38, -3.40282e38, "-inf"):
        source = open_source(item(tmp_path, a=said("1.0", nodata=nodata)))
        assert measured(source)[0].tolist() == [[False, True], [False, True]]
    tiff(tmp_path / "a.tif", values, nodata=float("nan"))
    assert measured(open_source(item(tmp_path, a=said("1.1", nodata="nan"))))[0].tolist() == [
        [False, True],
        [True, True],
    ]


def test_whose_scale(tmp_path):
    """Where file and item say the same, or one says nothing, that holds; where they differ it is
    asked, and either may be chosen.
    """
    written(tmp_path / "a.tif", scale=0.5, offset=-3)
    for values in ({}, {"scale": 0.5, "offset": -3}, {"nodata": 200}):
        source = open_source(item(tmp_path, a=said("1.0", **values)), scaled=True)
        np.testing.assert_allclose(whole(source), PIXELS * 0.5 - 3)
    path = item(tmp_path, a=said("1.1", scale=0.25))
    with pytest.raises(
        JobError,
        match=r"scaled: .*a\.tif has scale 0\.5 and offset -3, and the item says 0\.25 and 0 of "
        r"a; which hold\?",
    ):
        open_source(path, scaled=True)
    np.testing.assert_allclose(whole(open_source(path, scaled="file")), PIXELS * 0.5 - 3)
    np.testing.assert_allclose(whole(open_source(path, scaled="item")), PIXELS * 0.25)
    np.testing.assert_array_equal(whole(open_source(path)), PIXELS)
    with pytest.raises(
        JobError, match="scaled: 'maybe'; allowed: true or false or 'file' or 'item'"
    ):
        open_source(path, scaled="maybe")


def test_nothing_to_scale(tmp_path):
    """`scaled: true` is refused where nothing says how, of a file, a mosaic and an item; of an item
    one band that says it is enough.
    """
    written(tmp_path / "a.tif"), written(tmp_path / "b.tif")
    path = item(tmp_path, a={"href": "a.tif"}, b={"href": "b.tif"})
    for image, message in (
        (
            tmp_path / "a.tif",
            r"scaled: True; .*a\.tif has neither scale nor offset; allowed: False",
        ),
        (
            [tmp_path / "a.tif", tmp_path / "b.tif"],
            r"scaled: True; .*a\.tif has neither scale nor offset",
        ),
        (
            path,
            (
                r"scaled: True; neither .*item\.json nor its files have a scale or an offset; "
                r"allowed: False"
            ),
        ),
    ):
        with pytest.raises(JobError, match=message):
            open_source(image, scaled=True)
    path = item(
        tmp_path, a={"href": "a.tif"}, b={"href": "b.tif", "raster:bands": [{"scale": 0.1}]}
    )
    np.testing.assert_allclose(
        whole(open_source(path, scaled=True)),
        np.concatenate([PIXELS, PIXELS * np.float32(0.1)]),
        rtol=1e-6,
    )


NAMES = ["a b.tif", "100%.tif", "ü.tif", "a%20b.tif", "a#b.tif", "a?b.tif", "a+b.tif"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["relative", "absolute", "file", "host", "plain"])
def test_hrefs_are_uris(name, form, tmp_path):
    """An asset is found by a URI, relative or of the scheme file, whatever signs are encoded; and
    by its plain name where that is it.
    """
    written(tmp_path / name)
    href = {
        "relative": f"./{quote(name)}",
        "absolute": quote(str(tmp_path / name)),
        "file": (tmp_path / name).as_uri(),
        "host": f"file://localhost{quote(str(tmp_path / name))}",
        "plain": name,
    }[form]
    np.testing.assert_array_equal(
        whole(open_source(item(tmp_path, a={"href": href, "type": "image/tiff"}))), PIXELS
    )


@pytest.mark.parametrize(
    ("href", "message"),
    [
        ("file://elsewhere/a.tif", "refers to file://elsewhere/a.tif, which is not local"),
        (
            "%2Fvsicurl/http%3A//127.0.0.1%3A9/a.tif",
            "refers to /vsicurl/http://127.0.0.1:9/a.tif, which is not local",
        ),
        ("%2E%2E/a.tif", r"refers to \.\./a\.tif, which lies outside"),
        ("file:///etc/passwd", "refers to /etc/passwd, which lies outside"),
        ("s3://bucket/a.tif", "refers to s3://bucket/a.tif, which is not local"),
        ("a%00.tif", "which is no name of a file"),
        ("a" * 300 + ".tif", "which is no name of a file"),
    ],
)
def test_hrefs_that_lead_elsewhere(href, message, tmp_path):
    """What leads out of the folder is refused, however it is encoded."""
    (tmp_path / "folder").mkdir()
    written(tmp_path / "a.tif")
    with pytest.raises(SourceError, match=message):
        open_source(item(tmp_path / "folder", a={"href": href, "type": "image/tiff"}))


@pytest.mark.parametrize(
    ("asset", "message"),
    [
        (
            {"raster:bands": [{}, {}]},
            r"item\.json describes 2 bands of the asset a, whose file has one; mend the item",
        ),
        ({"bands": "B04"}, "bands of the asset a is 'B04'; allowed: a list of bands"),
        (
            {"raster:bands": [7]},
            r"raster:bands of the asset a is '\[7\]'; allowed: a list of bands",
        ),
        ({"nodata": "none"}, "nodata of the asset a is 'none'; allowed: a number, nan, inf, -inf"),
        ({"raster:scale": True}, "raster:scale of the asset a is True; allowed: a number"),
    ],
)
def test_items_that_contradict_themselves(asset, message, tmp_path):
    """What an item says of values must be of its form, and of the bands that there are."""
    written(tmp_path / "a.tif")
    with pytest.raises(SourceError, match=message):
        open_source(item(tmp_path, a={"href": "a.tif", **asset}))


def test_a_scaled_item_is_segmented_by_its_values(tmp_path):
    """A threshold in the unit of the values finds what the same threshold in stored numbers finds
    in the file.
    """
    written(tmp_path / "a.tif")
    path = item(tmp_path, a=said("1.0", scale=0.0001, offset=-0.1, nodata=0))
    known = pipeline.segment(
        tmp_path / "a.tif", pipeline.Threshold(value=4), tmp_path / "known", engine=pipeline.local()
    )
    job = {"path": str(path), "scaled": True}
    ours = pipeline.segment(
        job,
        pipeline.Threshold(value=4.5 * 0.0001 - 0.1),
        tmp_path / "ours",
        engine=pipeline.local(),
    )
    np.testing.assert_array_equal(ours.labels, known.labels)
