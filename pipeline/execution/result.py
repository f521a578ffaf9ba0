"""What a run says while it goes on, and the result that it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from html import escape
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.errors import OutputError
from pipeline.execution import timings
from pipeline.image.frame import Frame
from pipeline.image.transform import IDENTITY, of_size, to_gdal
from pipeline.sources import unmeasured
from pipeline.stages import products
from pipeline.stages.segment import Segmented
from pipeline.storage.locations import joined, read, remote, there, zarr_store
from pipeline.storage.run_record import RECORD, read_at, read_record

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, slots=True)
class Event:
    """How far a stage has come."""

    stage: str
    """The name of the stage."""
    done: int
    """Pieces of work done, failed ones included."""
    total: int
    failed: int = 0
    empty: int = 0
    """Tiles that need no work: they have no valid pixel, or a rule leaves them out."""
    objects: int = 0
    """Labels drawn so far; an object that meets a seam counts once for each of its tiles."""
    pixels: int = 0
    """Pixels segmented in this run."""
    fault: str = ""
    """What failed last, if this event tells of a failure."""
    at: float = field(default_factory=time.monotonic, compare=False)

    def after(
        self, value: Segmented | None, name: str, error: str | None
    ) -> Event:  # numpydoc ignore=PR01,RT01
        """Give the event that follows when one more tile is done."""
        step = replace(self, done=self.done + 1, at=time.monotonic(), fault="")
        if error is not None or value is None:
            return replace(step, failed=self.failed + 1, fault=f"{name}: {error}")
        return replace(
            step, objects=self.objects + value["labels"], pixels=self.pixels + value["pixels"]
        )


Watch: TypeAlias = Callable[[Event], None]


def silent(_event: Event) -> None:  # numpydoc ignore=PR01
    """Ignore an event: the `Watch` of a run that reports no progress."""


OPENED_BY = {
    "labels.zarr": "OME-Zarr with pyramid: napari, xarray, zarr",
    "labels.tif": "cloud-optimised GeoTIFF: QGIS, GDAL, rasterio",
    "labels.ome.tif": "tiled OME-TIFF with pyramid: QuPath, Fiji, napari, tifffile",
    "classes.zarr": "the class of every pixel, OME-Zarr with pyramid: napari, xarray, zarr",
    "classes.tif": "the same as a cloud-optimised GeoTIFF with colours and names: QGIS, GDAL, "
    "rasterio",
    "classes.ome.tif": "the same as a tiled OME-TIFF with colours and pyramid: QuPath, Fiji, "
    "napari, tifffile",
    "panoptic.png": "COCO's panoptic PNG: the colour of a pixel is the number of its segment",
    "panoptic.json": "and its JSON: the class, area and box of every segment, which are things or "
    "stuff",
    "objects.parquet": "one row per object: pandas, geopandas, DuckDB",
    "lines.gpkg": "lines along curves: QGIS, GDAL, geopandas",
    "overview.png": "a picture: each object, or class, has its own colour",
    RECORD: "the record of the run: job, certificates, fingerprint",
}
"""What each product is, and which programs open it."""
NESTED = "the same in the image itself: napari, ome-zarr-py"
THUMBNAIL = 512
"""Rows and columns of the picture in a notebook, at most."""


@dataclass(frozen=True, repr=False)
class Result:
    """The output folder of a run: labels, classes, table of objects and record, read when asked.

    `run` and `segment` return it, and `open_result` opens one that was made before. ``path`` is the
    folder, or its address (``s3://…``).

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pipeline
    >>> image = np.array([[9, 9, 0, 9], [9, 0, 0, 9]], np.uint8)
    >>> bright = pipeline.Threshold(value=5)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     result = pipeline.segment(image, bright, out, engine=pipeline.local())
    ...     result.labels.values
    ...     result.complete, result.certificates
    array([[1, 1, 0, 2],
           [1, 0, 0, 2]], dtype=uint32)
    (True, {'proved': 2, 'agreed': 0, 'disputed': 0})
    """

    path: str
    """The folder, or its address (``s3://…``)."""

    @cached_property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` says of the run.

        Returns
        -------
        dict
            By name: the job, the plan, the number of objects, their certificates and more.

        Raises
        ------
        OutputError
            The folder holds no record, or a damaged one.
        """
        found = read_at(self.path) if remote(self.path) else read_record(Path(self.path))
        if found is None:
            raise OutputError(
                f"{self.path} holds no complete result: there is no {RECORD}{self._instead()}"
            )
        return found

    @property
    def complete(self) -> bool:
        """Whether every tile has its labels.

        Returns
        -------
        bool
            False if some tiles failed or could not be read; `missing` names them.

        Raises
        ------
        OutputError
            The folder holds no record, or a damaged one.
        """
        return bool(self.record["complete"])

    @property
    def certificates(self) -> dict[str, int]:
        """The number of objects by certificate.

        Returns
        -------
        dict
            From ``proved``, ``agreed`` and ``disputed`` to a number of objects, 0 or more.

        Raises
        ------
        OutputError
            Nothing was published, since the run is not complete.
        """
        counts = self.record.get("certificates")
        if counts is None:
            raise OutputError(f"{self.path} holds no certificates: {self._unfinished()}")
        return dict(counts)

    @property
    def files(self) -> dict[str, str]:
        """The products that the record lists and that exist.

        Returns
        -------
        dict
            From the name of a product, such as ``labels.zarr`` or ``run.json``, to its path or
            address. Labels in the image itself (``into_source``) have their path as name.

        Raises
        ------
        OutputError
            The folder holds no record, or a damaged one.
        """
        known = dict(OPENED_BY)
        nested = self.record.get("nested")
        if nested:
            known[nested] = NESTED
        listed = self.record.get("products", known)
        return {
            name: name if name == nested else joined(self.path, name)
            for name in known
            if (name in listed or name in (RECORD, nested)) and there(self.path, name)
        }

    @cached_property
    def labels(self) -> xr.DataArray:
        """The object of every pixel, 0 for background: a lazy array of uint32 or uint64.

        Returns
        -------
        xarray.DataArray
            (y, x) or (z, y, x), at pixel centres; with ``spatial_ref`` where the image has a CRS.

        Raises
        ------
        OutputError
            Objects were not asked for, or nothing was published since the run is not complete.
        """
        return self._raster("labels", "object id, 0 = background")

    @cached_property
    def classes(self) -> xr.DataArray:
        """The class of every pixel, 0 for background: a lazy array with the dims of `labels`.

        Returns
        -------
        xarray.DataArray
            Uint8 or uint16. The attributes hold ``_FillValue``, the value of pixels that were not
            measured, and the ``legend``.

        Raises
        ------
        OutputError
            Classes were not asked for, or nothing was published since the run is not complete.
        """
        import numpy as np

        array = self._raster("classes", "class, 0 = background")
        array.attrs |= {
            "_FillValue": int(np.iinfo(array.dtype).max),
            "legend": self.record["legend"],
        }
        return array

    @cached_property
    def objects(self) -> pd.DataFrame:
        """The table of objects.

        Returns
        -------
        pandas.DataFrame
            One row for each object, by ascending id.

        Raises
        ------
        OutputError
            The folder holds no table.
        """
        import pyarrow.parquet as pq

        found = self._read("objects.parquet")
        if found is None:
            raise OutputError(
                f"{self.path} holds no objects.parquet: its run is not complete, or it was removed"
            )
        table: pd.DataFrame = pq.read_table(BytesIO(found)).to_pandas()
        return table

    def missing(self) -> str:
        """Say which tiles could not be read and are not valid in the result.

        Returns
        -------
        str
            One sentence; empty where the result is complete.
        """
        lost = self.record["missing"]
        if not lost:
            return ""
        named = "; ".join(f"tile {tuple(one['tile'])}: {one['error']}" for one in lost[:3])
        more = f"; and {len(lost) - 3} more, all in run.json" if len(lost) > 3 else ""
        what = (
            "1 tile could not be read and is"
            if len(lost) == 1
            else f"{len(lost)} tiles could not be read and are"
        )
        return (
            f"{what} not valid in the result: {named.removesuffix('.')}{more}. The same "
            f"command tries again."
        )

    def lines(self) -> list[str]:
        """Describe the result in a few lines of text, as the command line prints them.

        Returns
        -------
        list of str
            Objects by certificate, what was not measured, seconds, and files.
        """
        return [
            self._counted(),
            *unmeasured.lines(self.record.get("unmeasured", {})),
            *timings.lines(self.record),
            *(f"  {name:16} {OPENED_BY.get(name, NESTED)}" for name in self.files),
        ]

    def _counted(self) -> str:
        """Objects by certificate, in one line."""
        share = ", ".join(f"{number:,} {name}" for name, number in self.certificates.items())
        what = "objects" if "instance" in self.record["results"] else "classes"
        shape = " x ".join(map(str, self._frame().shape))
        return f"{self.record['objects']:,} {what} in {shape} pixels: {share}"

    def _state(self) -> str:
        """Whether there is a result and what it holds, in one line. It does not raise."""
        try:
            if not self._published:
                return self._unfinished()
            return self._counted() if self.complete else f"NOT complete; {self._counted()}"
        except OutputError as error:
            return f"no result: {error}"

    @property
    def _published(self) -> bool:
        return "certificates" in self.record

    def _unfinished(self) -> str:
        """Why nothing is published."""
        number = len(self.record["missing"])
        tiles = "1 tile is" if number == 1 else f"{number} tiles are"
        return f"its run is not complete: {tiles} missing, see {RECORD}"

    def _instead(self) -> str:
        """What lies there where there is no record, and what to do."""
        if remote(self.path):
            return ""
        folder = Path(self.path)
        if not folder.exists():
            return "; there is no such folder"
        if not folder.is_dir():
            return "; it is a file, and a result is a folder"
        begun = (
            "; a run was begun there: the same command, or the same call, goes on"
            if Path(folder, products.HIDDEN).exists()
            else ""
        )
        return products.kept(folder) or begun

    def _read(self, name: str) -> bytes | None:
        """A file of the folder; None where there is no such file."""
        if remote(self.path):
            return read(self.path, name)
        file = Path(self.path, name)
        return file.read_bytes() if file.exists() else None

    def _raster(self, name: str, meaning: str) -> xr.DataArray:
        import dask.array as da
        import xarray as xr

        frame = self._frame()
        if not there(self.path, f"{name}.zarr"):
            wanted = self.record.get("results")
            why = f"output.results was {', '.join(wanted)}" if wanted else self._unfinished()
            raise OutputError(f"{self.path} holds no {name}: {why}")
        lazy = da.from_zarr(zarr_store(joined(self.path, f"{name}.zarr/0")))  # type: ignore[no-untyped-call]
        dims = ("z", "y", "x")[-frame.ndim :]
        array = xr.DataArray(
            lazy,
            dims=dims,
            coords=_coordinates(frame, dims),
            name=name,
            attrs={"long_name": meaning},
        )
        if frame.crs:
            place = " ".join(map(str, to_gdal(frame.transform or IDENTITY)))
            array = array.assign_coords(
                spatial_ref=xr.Variable(
                    (), 0, {"crs_wkt": frame.crs, "spatial_ref": frame.crs, "GeoTransform": place}
                )
            )
            array.attrs["grid_mapping"] = "spatial_ref"
        return array

    def _frame(self) -> Frame:
        facts = self.record["plan"]["frame"]
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()
        }
        return Frame(**known)

    def __repr__(self) -> str:
        return f"<Result {self.path}: {self._state()}>"

    def _repr_html_(self) -> str:
        """The result as Jupyter shows it: counts, folder, a picture."""
        try:
            shown = self._published
        except OutputError:
            shown = False
        if not shown:
            return f"<p>{escape(repr(self))}</p>"
        rows = {
            "objects": f"{self.record['objects']:,}",
            **{name: f"{number:,}" for name, number in self.certificates.items()},
            "complete": "yes" if self.complete else f"NO: {self.missing()}",
            "image": f"{' × '.join(map(str, self._frame().shape))}, {self._frame().dtype}",
            "folder": self.path,
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<div style='display:flex;gap:1em'>{self._picture()}<table>{cells}</table></div>"

    def _picture(self) -> str:
        """A small picture of the labels, or of the classes, as an HTML image."""
        import base64

        from pipeline.image.legend import entry
        from pipeline.sinks.picture import colours, painted, to_png
        from pipeline.sinks.pyramid import Pyramid
        from pipeline.stages.commit import thumbnail

        record = self.record
        shown = self.labels if "instance" in record["results"] else self.classes
        pyramid = Pyramid(
            joined(self.path, f"{shown.name}.zarr"),
            self._frame(),
            tuple(record["plan"]["tiles"]["chunk"]),
            str(shown.dtype),
            version=record["output"]["ome_zarr"],
        )
        small = thumbnail(pyramid, THUMBNAIL)[0]
        known = {
            int(number): entry(int(number), what).colour
            for number, what in record["legend"].items()
        }
        drawn = colours(small) if "instance" in record["results"] else painted(small, known)
        picture = base64.b64encode(to_png(drawn)).decode()
        return f"<img alt='{shown.name}' src='data:image/png;base64,{picture}'/>"


def open_result(path: str | PathLike[str]) -> Result:
    """Open the result that a run left in a folder.

    Parameters
    ----------
    path
        The folder, or its address (``s3://…``).

    Returns
    -------
    Result
        Also where the run is not complete: then `Result.complete` is False, and arrays that were
        not published raise an OutputError that says so.

    Raises
    ------
    OutputError
        The folder holds no result, or its record is damaged.

    Examples
    --------
    >>> open_result("nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pipeline.errors.OutputError: nowhere holds no complete result: ...; there is no such folder
    """
    found = Result(fspath(path))
    _ = found.record
    return found


def _coordinates(frame: Frame, dims: tuple[str, ...]) -> dict[str, Any]:
    """Coordinates of pixel centres; none along rows and columns of a rotated image."""
    import numpy as np

    if frame.transform is None and frame.translation:
        spans = zip(dims, frame.shape, frame.translation, frame.pixel_size, strict=True)
        return {dim: start + size * np.arange(n) for dim, n, start, size in spans}
    a, b, c, d, e, f = frame.transform or of_size(*frame.pixel_size[-2:])
    if b or d:
        return {}
    steps = {"x": (a, c), "y": (e, f), "z": (frame.pixel_size[0], 0.0)}
    return {
        dim: steps[dim][1] + steps[dim][0] * (np.arange(n) + 0.5)
        for dim, n in zip(dims, frame.shape, strict=True)
    }


def as_json(event: Event) -> str:  # numpydoc ignore=PR01,RT01
    """Write an event as one line of JSON, without its time."""
    return json.dumps({key: value for key, value in asdict(event).items() if key != "at"})
