"""Where images lie that say it otherwise than by a transform of their own: levels, world files,
control points that no transform fits.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import SourceError
from pipeline.sources import open_source
from tests.sources.files import tiff, whole

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SHAPE = (101, 203)
PIXELS = np.random.default_rng(0).integers(0, 200, (1, *SHAPE), np.uint8)
PLAIN, TURNED = rasterio.Affine(10, 0, 5e5, 0, -20, 5e6), rasterio.Affine(8, 6, 5e5, 6, -8, 5e6)
UTM = rasterio.CRS.from_epsg(32633)
RPCS = RPC(
    height_off=300.0,
    height_scale=500.0,
    lat_off=47.1,
    lat_scale=0.1,
    long_off=15.2,
    long_scale=0.2,
    line_off=50.0,
    line_scale=50.0,
    samp_off=100.0,
    samp_scale=100.0,
    line_num_coeff=[0.01, 0.0, 1.0, *[0.0] * 17],
    line_den_coeff=[1.0, *[0.0] * 19],
    samp_num_coeff=[0.02, 1.0, *[0.0] * 18],
    samp_den_coeff=[1.0, *[0.0] * 19],
    err_bias=None,
    err_rand=None,
)


def points(transform: rasterio.Affine, off: float = 0) -> list[GroundControlPoint]:
    corners = [(0, 0), (0, SHAPE[1]), (SHAPE[0], 0), SHAPE, (50, 100)]
    return [
        GroundControlPoint(r, c, *(transform @ (c + off * (k == 4), r)), 12.5)
        for k, (r, c) in enumerate(corners)
    ]


def made(path: Path, what: str, *, external: bool = False) -> Path:
    """A pyramid of three levels of an image that is placed in some way."""
    own = (
        {"transform": PLAIN}
        if what == "transform"
        else {"transform": TURNED}
        if what == "turned"
        else {"transform": None}
    )
    crs = UTM if what in ("transform", "turned", "crs alone") else None
    tiff(path, PIXELS, crs=crs, tiled=True, blockxsize=16, blockysize=16, **own)
    with rasterio.open(path, "r+") as file:
        if what in ("points", "points, turned"):
            file.gcps = points(PLAIN if what == "points" else TURNED), UTM
        if what == "points that fit nothing":
            file.gcps = points(PLAIN, off=9), UTM
        if what == "a camera's model":
            file.rpcs = RPCS
    with rasterio.Env(TIFF_USE_OVR=external), rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    return path


EXPECTED = {
    "transform": PLAIN,
    "turned": TURNED,
    "points": PLAIN,
    "points, turned": TURNED,
    "nothing": None,
    "crs alone": None,
    "points that fit nothing": None,
    "a camera's model": None,
}


@pytest.mark.parametrize("external", [False, True], ids=["inside", "ovr"])
@pytest.mark.parametrize("what", EXPECTED)
def test_every_level_lies_where_the_image_lies(what, external, tmp_path):
    """At each level corners are where those of the whole image are, and pixels are larger by as
    much as there are fewer of them; an image that lies nowhere lies nowhere at any level.
    """
    path = made(tmp_path / "a.tif", what, external=external)
    for level in range(3):
        source = open_source(path, level=level)
        with (
            rasterio.open(path)
            if not level
            else rasterio.open(path, overview_level=level - 1) as file
        ):
            np.testing.assert_array_equal(whole(source), file.read())
        frame, transform = source.frame, EXPECTED[what]
        if transform is None:
            assert (frame.transform, frame.crs, frame.pixel_size, frame.unit) == (
                None,
                None,
                (1.0, 1.0),
                "pixel",
            )
            continue
        rows, columns = frame.shape
        for row, column in (
            (0, 0),
            (rows, 0),
            (0, columns),
            (rows, columns),
            (rows / 2, columns / 4),
        ):
            expected = transform @ (column / columns * SHAPE[1], row / rows * SHAPE[0])
            np.testing.assert_allclose(frame.place(row, column), expected, rtol=1e-9)
        sides = [
            np.hypot(transform.b, transform.e) * SHAPE[0] / rows,
            np.hypot(transform.a, transform.d) * SHAPE[1] / columns,
        ]
        np.testing.assert_allclose(frame.pixel_size, sides, rtol=1e-6)
        assert rasterio.CRS.from_wkt(frame.crs) == UTM


def test_a_level_of_a_real_scene_of_control_points(shared, tmp_path):
    """A level of a radar scene that control points place has no transform, and its labels have its
    points where GDAL has them.
    """
    path = shared / "satellite" / "riotiler_cog_gcps.tif"
    source = open_source(path, level=3)
    assert source.frame.transform is None
    result = pipeline.segment(
        source,
        pipeline.Threshold(value=500),
        tmp_path / "out",
        labels=["zarr", "cog"],
        engine=pipeline.local(),
    )
    with (
        rasterio.open(path, overview_level=2) as file,
        rasterio.open(f"{result.path}/labels.tif") as labels,
    ):
        assert labels.shape == file.shape
        (mine, crs), (theirs, known) = labels.gcps, file.gcps
        assert crs == known
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(
                (one.row, one.col, one.x, one.y, one.z),
                (other.row, other.col, other.x, other.y, other.z),
            )


@pytest.mark.parametrize("what", ["points that fit nothing", "a camera's model"])
def test_what_no_transform_says_is_in_the_labels(what, tmp_path):
    """Control points that no transform fits, and a camera's model, are those of the image in
    labels.tif, and `info` says of them.
    """
    path = made(tmp_path / "a.tif", what)
    for level in (0, 1):
        job = {"path": str(path), "level": level}
        result = pipeline.run(
            pipeline.Job(
                source=job,
                segmenters={"it": pipeline.Threshold(value=90)},
                output={"path": str(tmp_path / f"{level}"), "labels": ["cog"]},
            ),
            pipeline.local(),
        )
        with (
            rasterio.open(path)
            if not level
            else rasterio.open(path, overview_level=level - 1) as file,
            rasterio.open(f"{result.path}/labels.tif") as labels,
        ):
            assert labels.transform.is_identity
            assert (labels.gcps[1], len(labels.gcps[0])) == (file.gcps[1], len(file.gcps[0]))
            for one, other in zip(labels.gcps[0], file.gcps[0], strict=True):
                np.testing.assert_allclose(
                    (one.row, one.col, one.x, one.y, one.z),
                    (other.row, other.col, other.x, other.y, other.z),
                )
            assert (labels.rpcs is None) == (file.rpcs is None)
            if file.rpcs:
                for name, value in file.rpcs.to_dict().items():
                    np.testing.assert_allclose(
                        np.array(getattr(labels.rpcs, name), float),
                        np.array(value, float),
                        rtol=1e-12,
                    )
    told = CliRunner().invoke(app, ["info", str(path)]).output
    assert ("control_points: 5" in told, "rpc:" in told) == (
        what != "a camera's model",
        what == "a camera's model",
    )


NAMES = [
    ("a.png", "a.pgw"),
    ("a.png", "a.pngw"),
    ("a.png", "a.wld"),
    ("a.jpg", "a.jgw"),
    ("a.jpeg", "a.jgw"),
    ("a.jpg", "a.wld"),
]


def picture(path: Path) -> Path:
    Image.fromarray(PIXELS[0]).save(path)
    return path


def world(path: Path, transform: rasterio.Affine) -> Path:
    """Write a world file: its place is the middle of the first pixel."""
    a, b, _, d, e, _ = tuple(transform)[:6]
    path.write_text(
        "\n".join(f"{value!r}" for value in (a, d, b, e, *(transform @ (0.5, 0.5)))) + "\n"
    )
    return path


@pytest.mark.parametrize("transform", [PLAIN, TURNED], ids=["north up", "turned"])
@pytest.mark.parametrize(("name", "beside"), NAMES)
def test_world_files(name, beside, transform, tmp_path):
    """A picture with a world file lies where rasterio says; the CRS is that of a .prj beside it;
    both belong to the image.
    """
    path = picture(tmp_path / name)
    bare = open_source(path)
    assert (bare.frame.transform, bare.frame.crs) == (None, None)
    before = bare.fingerprint()
    world(tmp_path / beside, transform)
    source = open_source(path)
    with rasterio.open(path) as file:
        np.testing.assert_allclose(source.frame.transform, tuple(file.transform)[:6])
    np.testing.assert_allclose(source.frame.transform, tuple(transform)[:6])
    assert (source.frame.crs, source.frame.unit) == (None, "unknown")
    placed = source.fingerprint()
    (tmp_path / "a.prj").write_text(pyproj.CRS.from_epsg(32633).to_wkt("WKT1_ESRI"))
    source = open_source(path)
    assert pyproj.CRS.from_wkt(source.frame.crs).to_epsg(min_confidence=70) == 32633
    assert source.frame.unit == "metre"
    assert len({str(each) for each in (before, placed, source.fingerprint())}) == 3
    np.testing.assert_array_equal(whole(source)[0], np.asarray(Image.open(path)))


def test_auxiliary_metadata_of_a_picture(tmp_path):
    """Place and CRS of a PNG may also lie in .aux.xml, which wins over a .prj as the more
    specific.
    """
    path = picture(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>500000, 10, 0, 5000000, 0, "
        "-20</GeoTransform></PAMDataset>"
    )
    (tmp_path / "a.prj").write_text(pyproj.CRS.from_epsg(32601).to_wkt("WKT1_ESRI"))
    frame = open_source(path).frame
    assert frame.transform == tuple(PLAIN)[:6]
    assert rasterio.CRS.from_wkt(frame.crs) == UTM


def test_world_file_of_a_tiff(tmp_path):
    """A TIFF without a place lies where its world file says, in the CRS of the .prj; one with a
    place of its own lies there.
    """
    path = tiff(tmp_path / "a.tif", PIXELS, crs=None, transform=None)
    world(tmp_path / "a.tfw", TURNED)
    (tmp_path / "a.prj").write_text(UTM.to_wkt())
    frame = open_source(path).frame
    np.testing.assert_allclose(frame.transform, tuple(TURNED)[:6])
    assert rasterio.CRS.from_wkt(frame.crs) == UTM
    tiff(path, PIXELS, crs="EPSG:32601", transform=PLAIN)
    frame = open_source(path).frame
    assert (frame.transform, rasterio.CRS.from_wkt(frame.crs).to_epsg()) == (
        tuple(PLAIN)[:6],
        32601,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"nothing", r"a\.prj names no coordinate reference system: .*; mend it, or take it away"),
        (b"\xff\xfe\0", r"a\.prj names no coordinate reference system"),
        (
            rasterio.CRS.from_epsg(4326).to_wkt().encode(),
            r"a\.prj names degrees, and .*a\.png lies at 500000, .*; mend one of the two",
        ),
    ],
    ids=["no WKT", "no text", "degrees"],
)
def test_a_system_that_cannot_be(text, message, tmp_path):
    """A .prj that cannot be understood, or names degrees where the image lies at metres, is refused
    by name.
    """
    path = picture(tmp_path / "a.png")
    world(tmp_path / "a.pgw", PLAIN)
    (tmp_path / "a.prj").write_bytes(text)
    with pytest.raises(SourceError, match=message):
        open_source(path)


def test_labels_of_a_placed_picture_lie_there(tmp_path):
    """Labels of a picture with a world file lie where the picture lies, and have areas on the
    ground.
    """
    path = picture(tmp_path / "a.png")
    world(tmp_path / "a.pgw", PLAIN)
    (tmp_path / "a.prj").write_text(UTM.to_wkt())
    result = pipeline.segment(
        path,
        pipeline.Threshold(value=90),
        tmp_path / "out",
        labels=["zarr", "cog"],
        engine=pipeline.local(),
    )
    with rasterio.open(f"{result.path}/labels.tif") as file:
        assert (file.transform, file.crs) == (PLAIN, UTM)
    assert "area_m2" in result.objects.columns


def test_no_warning_of_a_place_that_is_not_there(tmp_path):
    """A level of an image without a place is opened without a warning."""
    path = made(tmp_path / "a.tif", "nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotGeoreferencedWarning)
        open_source(path, level=1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_what_a_process_holds_of_a_picture(mode, tmp_path):
    """A picture says how many bytes a process holds that reads any of it: its pixels, and its alpha
    where it has one; so does `info`.
    """
    values = np.random.default_rng(0).integers(0, 255, (300, 700, len(mode)), np.uint8)
    Image.fromarray(values.squeeze(), mode).save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    pixels, measured = source._decoded
    assert (
        source.held == pixels.nbytes + (measured.nbytes if mode == "RGBA" else 0) == values.nbytes
    )
    assert re.search(
        "decoded: .?whole", CliRunner().invoke(app, ["info", str(tmp_path / "a.png")]).output
    )
