"""Files that lie, that are damaged, or that lead elsewhere, end with one clear error, in bounded
memory.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.shutil import copy

from pipeline.errors import JobError, SourceError, TilewiseError
from pipeline.sources import open_source
from tests.sources.files import PLACE, declared, tiff, whole

PIXELS = np.random.default_rng(0).integers(0, 200, (1, 64, 64), np.uint8)
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, SAMPLES, ROWS, COUNTS = (
    256,
    257,
    258,
    259,
    262,
    273,
    277,
    278,
    279,
)
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
PLAIN = {
    WIDTH: 64,
    HEIGHT: 64,
    BITS: 8,
    COMPRESSION: 1,
    PHOTOMETRIC: 1,
    OFFSETS: 8,
    SAMPLES: 1,
    ROWS: 64,
    COUNTS: 4096,
}
TILED = {TILE_WIDTH: 256, TILE_HEIGHT: 256, TILE_OFFSETS: (8, 8), TILE_COUNTS: (9, 9)}
STRIPS = (OFFSETS, ROWS, COUNTS)


def tiled(**size: int) -> dict[int, object]:
    return (
        {k: v for k, v in PLAIN.items() if k not in STRIPS}
        | TILED
        | {WIDTH: size["width"], HEIGHT: size["height"]}
    )


LIES = {
    "2^31 pixels a side": (
        PLAIN | {WIDTH: 1 << 31, HEIGHT: 1 << 31},
        r"a\.tif cannot be opened|a\.tif declares",
    ),
    "2^31 - 1 pixels a side": (
        PLAIN | {WIDTH: 2**31 - 1, HEIGHT: 2**31 - 1},
        r"a\.tif (cannot be opened|declares)",
    ),
    "in tiles": (tiled(width=2**31 - 1, height=2**31 - 1), r"a\.tif (cannot be opened|declares)"),
    "a million pixels a side, in tiles": (
        tiled(width=1 << 20, height=1 << 20),
        r"1048576 x 1048576 pixels in 16777216 blocks",
    ),
    "one strip of 2^40 bytes": (
        PLAIN | {WIDTH: 1 << 20, HEIGHT: 1 << 20, ROWS: 1 << 20, COMPRESSION: 8},
        (
            r"1048576 x 1048576 pixels in blocks of 1048576 x 1048576, 1.02e\+03 GiB each; "
            r"allowed: "
            r"up to 1 GiB|declares"
        ),
    ),
    "65535 bands": (
        PLAIN | {SAMPLES: 65535, BITS: (8,) * 65535},
        r"a\.tif declares 65535 bands; allowed: up to 4096",
    ),
    "no pixels": (PLAIN | {WIDTH: 0, HEIGHT: 0}, r"a\.tif cannot be opened"),
    "nothing at all": ({WIDTH: 64}, r"a\.tif cannot be opened"),
}


@pytest.mark.parametrize("name", LIES)
def test_lying_tiff(name, tmp_path):
    """What a TIFF declares and cannot hold is refused by name, within 1 GiB of memory and 20
    seconds.
    """
    tags, message = LIES[name]
    path = declared(tmp_path / "a.tif", tags)
    with pytest.raises(SourceError, match=message):
        whole(open_source(path))
    code = (
        "import resource, sys; from pipeline.errors import SourceError; from pipeline.sources "
        "import open_source\n"
        "import rasterio; resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))\n"
        "from pipeline.image.grid import Box\n"
        "try:\n    source = open_source(sys.argv[1]); source.read(Box.whole(source.frame.shape))\n"
        "except SourceError as error:\n    print(error)\n"
    ).replace("MOST", str(address_space() + (1 << 30)))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert "a.tif" in done.stdout


def address_space() -> int:
    """Bytes of address space that a process takes with the libraries loaded."""
    code = (
        "import rasterio, numpy, pipeline.sources.raster; "
        "print(open('/proc/self/statm').read().split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) * resource.getpagesize()


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex(dtype, tmp_path):
    """Complex pixels are refused, with what is allowed."""
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=4, width=4, dtype=dtype, **PLACE):
        pass
    with pytest.raises(SourceError, match=r"a\.tif holds complex\d+; allowed: integers and floats"):
        open_source(path)


def test_other_drivers(tmp_path):
    """A file that only another driver of GDAL's would read is refused, with the kinds that are
    read.
    """
    with rasterio.open(
        tmp_path / "a.bil", "w", driver="EHdr", count=1, height=64, width=64, dtype="uint8", **PLACE
    ) as file:
        file.write(PIXELS)
    with pytest.raises(
        SourceError,
        match=r"a\.bil is no image that is read: .*allowed: TIFF, PNG, JPEG, JPEG 2000, Erdas "
        r"Imagine, VRT",
    ):
        open_source(tmp_path / "a.bil", kind="raster")
    (tmp_path / "b.tif").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(
        SourceError, match=r"b\.tif is HDF5, which is not read: .*allowed: TIFF, PNG"
    ):
        open_source(tmp_path / "b.tif", kind="raster")


@pytest.mark.parametrize(("ending", "driver"), [("img", "HFA"), ("jp2", "JP2OpenJPEG")])
def test_other_kinds(ending, driver, tmp_path):
    """Erdas Imagine and lossless JPEG 2000 are read as they were written, with their place."""
    path = tmp_path / f"a.{ending}"
    options = {"QUALITY": "100", "REVERSIBLE": "YES"} if ending == "jp2" else {}
    with rasterio.open(tiff(tmp_path / "a.tif", PIXELS)) as file:
        copy(file, path, driver=driver, **options)
    source = open_source(path)
    np.testing.assert_array_equal(whole(source), PIXELS)
    np.testing.assert_allclose(source.frame.transform, PLACE["transform"][:6])


def mutations(data: bytes, number: int) -> list[bytes]:
    """Seeded: bytes changed, one or many, mostly near the head where a TIFF's directory lies; and
    the file cut short.
    """
    draw, found = np.random.default_rng(len(data)), []
    for k in range(number):
        changed = bytearray(data)
        if k % 5 == 0:
            changed = changed[: int(draw.integers(0, len(data)))]
        else:
            for _ in range(int(draw.choice([1, 1, 3, 20]))):
                at = int(draw.integers(0, len(data) if k % 2 else min(700, len(data))))
                changed[at] = (
                    int(draw.integers(0, 256))
                    if k % 3
                    else changed[at] ^ (1 << int(draw.integers(0, 8)))
                )
        found.append(bytes(changed))
    return found


@pytest.mark.parametrize("kind", ["strips", "deflate", "masked overviews", "jpeg", "big", "lzw16"])
def test_mutated_files(kind, tmp_path):
    """A damaged TIFF gives pixels or an error that names it; nothing else is raised."""
    path, pixels = tmp_path / "a.tif", np.repeat(PIXELS, 3, axis=0)
    tile = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    options: dict[str, object] = {
        "strips": {},
        "deflate": {"compress": "deflate", "nodata": 3, **tile},
        "masked overviews": {"compress": "deflate", **tile},
        "jpeg": {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel", **tile},
        "big": {"BIGTIFF": "YES", **tile},
        "lzw16": {"compress": "lzw", "predictor": 2},
    }[kind]
    tiff(path, pixels.astype(np.uint16) if kind == "lzw16" else pixels, **options)
    if kind == "masked overviews":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(PIXELS[0] > 50)
            file.build_overviews([2, 4], Resampling.nearest)
    data, messages = path.read_bytes(), []
    for changed in mutations(data, 100):
        path.write_bytes(changed)
        try:
            source = open_source(path)
            whole(source)
            source.fingerprint()
        except TilewiseError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all("a.tif" in message for message in messages)


def vrt(path: Path, inside: str, attributes: str = "") -> Path:
    path.write_text(
        f'<VRTDataset rasterXSize="64" '
        f'rasterYSize="64"><SRS>EPSG:32633</SRS><GeoTransform>500000, 10, 0, 5000000, 0, '
        f"-20</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1"{attributes}>{inside}</VRTRasterBand></VRTDataset>'
    )
    return path


def simple(name: str, relative: int = 1) -> str:
    return (
        f"<SimpleSource><SourceFilename "
        f'relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
    )


def test_vrt(tmp_path):
    """A VRT of local files in its folder is read as rasterio reads it; its fingerprint changes with
    any of its files.
    """
    (tmp_path / "tiles").mkdir()
    tiff(tmp_path / "tiles" / "a.tif", PIXELS)
    path = vrt(tmp_path / "a.vrt", simple("tiles/a.tif"))
    source = open_source(path)
    np.testing.assert_array_equal(whole(source), PIXELS)
    before = source.fingerprint()
    tiff(tmp_path / "tiles" / "a.tif", PIXELS + 1)
    assert open_source(path).fingerprint() != before


def test_vrt_of_another_folder(tmp_path):
    """A VRT whose files lie elsewhere is refused, unless a root is named that holds both."""
    (tmp_path / "vrt").mkdir()
    (tmp_path / "tiles").mkdir()
    tiff(tmp_path / "tiles" / "a.tif", PIXELS)
    for name, relative in (("../tiles/a.tif", 1), (str(tmp_path / "tiles" / "a.tif"), 0)):
        path = vrt(tmp_path / "vrt" / "a.vrt", simple(name, relative))
        with pytest.raises(
            SourceError,
            match=r"a\.vrt refers to .*a\.tif, which lies outside .*vrt; name a folder that "
            r"holds both: root",
        ):
            open_source(path)
        np.testing.assert_array_equal(whole(open_source(path, root=str(tmp_path))), PIXELS)


REFUSED = {
    "address": (
        simple("http://127.0.0.1:9/a.tif", 0),
        "refers to http://127.0.0.1:9/a.tif, which is not local",
    ),
    "virtual file system": (simple("/vsicurl/http://127.0.0.1:9/a.tif", 0), "which is not local"),
    "absolute path": (simple("/etc/passwd", 0), "refers to /etc/passwd, which lies outside"),
    "link": (simple("link.tif"), "refers to link.tif, which lies outside"),
    "not there": (simple("b.tif"), "refers to b.tif, and there is no such file"),
    "other driver": (simple("text.tif"), r"text\.tif is no image that is read"),
    "driver's own name": (simple('NETCDF:"a.tif":x'), "there is no such file"),
    "filter": (
        simple("a.tif").replace("SimpleSource", "KernelFilteredSource"),
        "KernelFilteredSource is not allowed in a VRT",
    ),
    "unfinished": ("<SimpleSource>", r"a\.vrt is no VRT"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_vrt(name, tmp_path):
    """A VRT that refers to what is no local image file in its folder is refused before GDAL sees
    it.
    """
    inside, message = REFUSED[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    tiff(folder / "a.tif", PIXELS)
    (folder / "link.tif").symlink_to(tiff(tmp_path / "outside.tif", PIXELS))
    (folder / "text.tif").write_text("hello")
    with pytest.raises(SourceError, match=message):
        open_source(vrt(folder / "a.vrt", inside))


def test_vrt_that_runs_code(tmp_path):
    """Derived bands, warped and pansharpened sets, and entities are refused."""
    tiff(tmp_path / "a.tif", PIXELS)
    derived = vrt(
        tmp_path / "a.vrt",
        f"<PixelFunctionType>x</PixelFunctionType>{simple('a.tif')}",
        ' subClass="VRTDerivedRasterBand"',
    )
    with pytest.raises(
        SourceError, match="VRTRasterBand of VRTDerivedRasterBand is not allowed in a VRT"
    ):
        open_source(derived)
    (tmp_path / "b.vrt").write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64" subClass="VRTWarpedDataset"/>'
    )
    with pytest.raises(SourceError, match="VRTDataset of VRTWarpedDataset is not allowed in a VRT"):
        open_source(tmp_path / "b.vrt")
    (tmp_path / "c.vrt").write_text(
        '<!DOCTYPE x [<!ENTITY a "b">]><VRTDataset rasterXSize="64" '
        'rasterYSize="64">&a;</VRTDataset>'
    )
    with pytest.raises(SourceError, match=r"c\.vrt declares a document type"):
        open_source(tmp_path / "c.vrt")


def test_file_beside_that_leads_elsewhere(tmp_path):
    """Overviews that a file's metadata put into another folder are refused."""
    (tmp_path / "folder").mkdir()
    path = tiff(tmp_path / "folder" / "a.tif", PIXELS)
    tiff(tmp_path / "elsewhere.tif", PIXELS[:, ::2, ::2])
    (tmp_path / "folder" / "a.tif.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI '
        f'key="OVERVIEW_FILE">{tmp_path / "elsewhere.tif"}</MDI></Metadata></PAMDataset>'
    )
    with pytest.raises(SourceError, match=r"a\.tif refers to .*elsewhere\.tif, which lies outside"):
        open_source(path)


def test_unreadable_file(tmp_path):
    """A file that may not be read is refused by name."""
    path = tiff(tmp_path / "a.tif", PIXELS)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(SourceError, match=r"a\.tif cannot be opened: Permission denied"):
        open_source(path)


def test_level_and_band_that_are_not_there(tmp_path):
    """A level or band that a file has not is refused with those it has."""
    path = tiff(tmp_path / "a.tif", PIXELS)
    with pytest.raises(
        JobError, match=r"level: 1; .*has no overviews; allowed: 0, full resolution$"
    ):
        open_source(path, level=1)
    with pytest.raises(JobError, match="bands: 7; allowed: 1 to 1"):
        open_source(path, bands=[7])


def test_malformed_real_files(shared):
    """Every file of a collection of broken ones gives pixels or an error that names it."""
    for path in sorted((shared / "malformed").iterdir()):
        if path.name == "tiff_wrong_bits_per_sample.tiff":
            assert whole(open_source(path)).shape == (3, 53, 52)
            continue
        with pytest.raises(SourceError, match=re.escape(path.name)):
            whole(open_source(path, kind="geotiff"))


@pytest.mark.parametrize(
    ("ending", "library", "extra"), [("nii", "nibabel", "volumes"), ("dcm", "wsidicom", "dicom")]
)
def test_extra_that_is_not_installed(ending, library, extra, tmp_path, monkeypatch):
    """Where the library of a kind of file is not installed, the error says with which command it
    is.
    """
    (tmp_path / f"a.{ending}").write_bytes(bytes(400))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(JobError, match=rf"needs {library}: pip install 'tilewise\[{extra}\]'"):
        open_source(tmp_path / f"a.{ending}")
