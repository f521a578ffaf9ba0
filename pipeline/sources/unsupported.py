"""Recognize file formats that are not supported, by first bytes or name, and say what can read or
convert them.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pipeline.storage.locations import remote

XARRAY = (
    "in Python an xarray object is an image: xarray.open_dataset(path, chunks={})[its variable]"
)
TRANSLATE = "gdal_translate makes a GeoTIFF of it"
BIOFORMATS = "bioformats2raw makes an OME-Zarr of it, which is read"
SLIDES = (
    "in Python an array is an image, as of OpenSlide; bioformats2raw makes an OME-Zarr of "
    "it, which is read"
)
KINDS = {
    "NetCDF": f"{XARRAY}; or {TRANSLATE}: gdal_translate NETCDF:file:variable",
    "HDF5": f"{XARRAY}, or dask.array.from_array of h5py's; or {TRANSLATE}: gdal_translate "
    f"HDF5:file://dataset",
    "HDF4": f"{TRANSLATE}, with a GDAL that has HDF4",
    "GRIB": f"{XARRAY}, with engine='cfgrib'; or {TRANSLATE}",
    "ENVI": f"{TRANSLATE}, of the file beside its .hdr",
    "Sentinel-2 SAFE": "its bands are JPEG 2000, which is read: "
    "GRANULE/*/IMG_DATA/**/*_B04*.jp2; several together: gdalbuildvrt -separate",
    "Sentinel-1 SAFE": "its images are TIFFs, which are read: measurement/*.tiff",
    "a SAFE folder": "the images in it are read, each by its own path",
    "a zip archive": "unpack it, and name what is in it",
    "a zipped Zarr": "unpack it, and name the folder",
    "compressed": "unpack it, and name what is in it",
    "a tar archive": "unpack it, and name what is in it",
    "a NumPy array": "in Python an array is an image: numpy.load(path, mmap_mode='r')",
    "NumPy arrays": "in Python an array is an image: numpy.load(path)[its name]",
    "Zeiss CZI": BIOFORMATS,
    "Nikon ND2": BIOFORMATS,
    "Leica LIF": BIOFORMATS,
    "Imaris": BIOFORMATS,
    "Olympus": BIOFORMATS,
    "MIRAX": SLIDES,
    "Olympus VSI": SLIDES,
    "FITS": "in Python an array is an image: astropy.io.fits.getdata(path)",
    "GIF": TRANSLATE,
    "BMP": TRANSLATE,
    "WebP": TRANSLATE,
    "PNM": TRANSLATE,
    "OpenEXR": TRANSLATE,
    "a grid of ESRI's": TRANSLATE,
    "ECW": f"{TRANSLATE}, with a GDAL that has its driver",
    "MrSID": f"{TRANSLATE}, with a GDAL that has its driver",
    "JPEG XL": "djxl makes a PNG of it",
    "HEIF or AVIF": "ImageMagick makes a PNG of it",
    "PDF": TRANSLATE,
    "a GeoPackage or SQLite": f"{TRANSLATE}, if it holds a raster",
}
"""What to do with a file, by its format."""
NAMES = {
    ".nc": "NetCDF",
    ".nc4": "NetCDF",
    ".cdf": "NetCDF",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".he5": "HDF5",
    ".hdf": "HDF4",
    ".grib": "GRIB",
    ".grb": "GRIB",
    ".grib2": "GRIB",
    ".grb2": "GRIB",
    ".zarr.zip": "a zipped Zarr",
    ".zip": "a zip archive",
    ".gz": "compressed",
    ".bz2": "compressed",
    ".xz": "compressed",
    ".zst": "compressed",
    ".tar": "a tar archive",
    ".tgz": "a tar archive",
    ".npy": "a NumPy array",
    ".npz": "NumPy arrays",
    ".czi": "Zeiss CZI",
    ".nd2": "Nikon ND2",
    ".lif": "Leica LIF",
    ".ims": "Imaris",
    ".oir": "Olympus",
    ".oib": "Olympus",
    ".oif": "Olympus",
    ".mrxs": "MIRAX",
    ".vsi": "Olympus VSI",
    ".fits": "FITS",
    ".fit": "FITS",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WebP",
    ".exr": "OpenEXR",
    ".ecw": "ECW",
    ".sid": "MrSID",
    ".jxl": "JPEG XL",
    ".heic": "HEIF or AVIF",
    ".heif": "HEIF or AVIF",
    ".avif": "HEIF or AVIF",
    ".pdf": "PDF",
    ".gpkg": "a GeoPackage or SQLite",
    ".asc": "a grid of ESRI's",
    ".ppm": "PNM",
    ".pgm": "PNM",
}
"""The format by the end of the name."""
BYTES = (
    (0, b"CDF\x01", "NetCDF"),
    (0, b"CDF\x02", "NetCDF"),
    (0, b"CDF\x05", "NetCDF"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x0e\x03\x13\x01", "HDF4"),
    (0, b"GRIB", "GRIB"),
    (0, b"ENVI", "ENVI"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "compressed"),
    (0, b"BZh", "compressed"),
    (0, b"\xfd7zXZ", "compressed"),
    (0, b"\x28\xb5\x2f\xfd", "compressed"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"ZISRAWFILE", "Zeiss CZI"),
    (0, b"\xda\xce\xbe\x0a", "Nikon ND2"),
    (0, b"\xd0\xcf\x11\xe0", "Olympus"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"msid", "MrSID"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (4, b"ftyphei", "HEIF or AVIF"),
    (4, b"ftypavif", "HEIF or AVIF"),
    (4, b"ftypmif1", "HEIF or AVIF"),
    (0, b"%PDF", "PDF"),
    (0, b"SQLite format 3", "a GeoPackage or SQLite"),
    (0, b"P5\n", "PNM"),
    (0, b"P6\n", "PNM"),
)
"""Offset in the file, the bytes there, and the format that they mean."""
MORE_SAID_BY_NAME = {"NetCDF", "NumPy arrays", "a zipped Zarr", "Imaris"}
"""Formats that are stored inside a more general one: the name says more than the first bytes."""
HEAD = 300


def told(path: str) -> str | None:
    """The format of a file or folder that is not supported, and what to do with it; None if it is
    not recognized.

    >>> told("https://host/t2m.nc").partition(":")[0]
    'NetCDF, which is not read'
    """
    found = _folder(Path(path)) if not remote(path) and Path(path).is_dir() else _file(path)
    return None if found is None else f"{found}, which is not read: {KINDS[found]}"


def _folder(path: Path) -> str | None:
    if next(path.glob("MTD_MSI*.xml"), None) or path.name.upper().startswith(
        ("S2A_", "S2B_", "S2C_", "S2D_")
    ):
        return "Sentinel-2 SAFE"
    if path.suffix.upper() == ".SAFE" or (path / "manifest.safe").exists():
        return "Sentinel-1 SAFE" if (path / "measurement").is_dir() else "a SAFE folder"
    return None


def _file(path: str) -> str | None:
    name = Path(urlsplit(path).path if remote(path) else path).name.lower()
    by_name = next(
        (NAMES[ending] for ending in sorted(NAMES, key=len, reverse=True) if name.endswith(ending)),
        None,
    )
    if remote(path):
        return by_name
    with Path(path).open("rb") as file:
        head = file.read(HEAD)
    by_bytes = next((kind for at, mark, kind in BYTES if head[at:].startswith(mark)), None)
    if by_bytes is None and _header(Path(path)):
        return "ENVI"
    return by_name if by_bytes is None or by_name in MORE_SAID_BY_NAME else by_bytes


def _header(path: Path) -> bool:
    """Whether an ENVI header lies beside a file: its name has .hdr instead of the file's ending, or
    after it.
    """
    for name in (path.with_suffix(".hdr"), Path(f"{path}.hdr"), path.with_suffix(".HDR")):
        if name.is_file() and name != path:
            with name.open("rb") as file:
                return file.read(4) == b"ENVI"
    return False
