"""Kinds of files that are not read: the message says what each is, and what reads it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray
from PIL import Image
from rasterio.shutil import copy

from pipeline.errors import JobError, SourceError
from pipeline.sources import open_source
from pipeline.sources.unsupported import KINDS, NAMES
from tests.sources.files import tiff, whole

PIXELS = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.tif", b"II*\0")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("a.tif"), io.BytesIO())


def numpy_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, PIXELS)


def by_gdal(path: Path, driver: str) -> None:
    tiff(path.with_name("source.tif"), PIXELS)
    copy(path.with_name("source.tif"), path, driver=driver)


def database(path: Path) -> None:
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE a (b)")
    made.close()


MADE = {
    "netcdf 3": (
        lambda p: xarray.Dataset({"t": (("y", "x"), PIXELS[0])}).to_netcdf(p, engine="scipy"),
        "NetCDF, .*xarray.open_dataset",
    ),
    "zip": (zipped, "a zip archive, .*unpack it"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x")), "compressed, .*unpack it"),
    "bzip2": (lambda p: p.write_bytes(bz2.compress(b"x")), "compressed, .*unpack it"),
    "xz": (lambda p: p.write_bytes(lzma.compress(b"x")), "compressed, .*unpack it"),
    "tar": (tarred, "a tar archive, .*unpack it"),
    "numpy": (numpy_array, "a NumPy array, .*numpy.load"),
    "hdf5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5, .*h5py"),
    "hdf4": (lambda p: p.write_bytes(b"\x0e\x03\x13\x01" + bytes(99)), "HDF4, .*gdal_translate"),
    "grib": (lambda p: p.write_bytes(b"GRIB" + bytes(99)), "GRIB, .*cfgrib"),
    "czi": (lambda p: p.write_bytes(b"ZISRAWFILE" + bytes(99)), "Zeiss CZI, .*bioformats2raw"),
    "nd2": (
        lambda p: p.write_bytes(b"\xda\xce\xbe\x0a" + bytes(99)),
        "Nikon ND2, .*bioformats2raw",
    ),
    "envi": (lambda p: by_gdal(p, "ENVI"), "ENVI, .*gdal_translate"),
    "gif": (lambda p: Image.fromarray(PIXELS[0]).save(p, format="GIF"), "GIF, .*gdal_translate"),
    "bmp": (lambda p: Image.fromarray(PIXELS[0]).save(p, format="BMP"), "BMP, "),
    "webp": (lambda p: Image.fromarray(PIXELS[0]).save(p, format="WEBP"), "WebP, "),
    "pnm": (lambda p: Image.fromarray(PIXELS[0]).save(p, format="PPM"), "PNM, "),
    "pdf": (lambda p: Image.fromarray(PIXELS[0]).save(p, format="PDF"), "PDF, "),
    "sqlite": (database, "a GeoPackage or SQLite, "),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("called", ["a", "a.bin", "a.tif", "a.img"])
def test_what_a_file_is_by_its_first_bytes(name, called, tmp_path):
    """Whatever a file is called, the message says what it is, and what reads it."""
    make, message = MADE[name]
    make(tmp_path / called)
    with pytest.raises((JobError, SourceError), match=rf"{called} is {message}.*allowed: "):
        open_source(tmp_path / called)


def test_what_a_file_is_by_its_name(tmp_path):
    """An ending tells what first bytes do not; also at an address, where nothing is asked
    for it.
    """
    for ending, kind in NAMES.items():
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"something")
        for where in (str(path), f"https://host/a{ending}"):
            with pytest.raises(
                JobError, match=rf"kind: .*a\{ending} is {kind}, which is not read: "
            ):
                open_source(where)
    assert {*NAMES.values(), "ENVI", "Sentinel-2 SAFE", "Sentinel-1 SAFE", "a SAFE folder"} == set(
        KINDS
    )


def test_a_name_that_says_more(tmp_path):
    """NetCDF 4 is HDF5, and a NumPy archive a zip: the name says which."""
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    np.savez(tmp_path / "a.npz", a=PIXELS)
    for name, message in (
        ("a.nc", "NetCDF, "),
        ("a.npz", r"NumPy arrays, .*numpy\.load\(path\)\[its name\]"),
    ):
        with pytest.raises(JobError, match=message):
            open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("folder", "inside", "message"),
    [
        ("S2A_MSIL2A_20200101.SAFE", "MTD_MSIL2A.xml", "Sentinel-2 SAFE, .*IMG_DATA"),
        ("unpacked", "MTD_MSIL1C.xml", "Sentinel-2 SAFE, "),
        ("S1A_IW_GRDH.SAFE", "measurement/a.tiff", "Sentinel-1 SAFE, .*measurement"),
        ("S3A_OL.SAFE", "manifest.safe", "a SAFE folder, "),
        ("folder", "a.txt", "is a folder, and no Zarr"),
    ],
)
def test_folders(folder, inside, message, tmp_path):
    """A folder as satellites' archives give it out is told by its name or what is in it."""
    (tmp_path / folder / inside).parent.mkdir(parents=True)
    (tmp_path / folder / inside).write_text("x")
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / folder)


def test_an_xarray_object_is_an_image(tmp_path):
    """What the message says works: a variable of a NetCDF file that xarray opens is an image of its
    values.
    """
    xarray.Dataset({"t": (("y", "x"), PIXELS[0])}).to_netcdf(tmp_path / "a.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "a.nc", engine="scipy", chunks={}) as opened:
        np.testing.assert_array_equal(whole(open_source(opened["t"])), PIXELS)
