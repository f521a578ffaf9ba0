"""What a run says while it goes on, and the result that it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.errors import OutputError
from pipeline.execution import timings
from pipeline.image.frame import Frame
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
    """Its name."""
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

    def after(self, value: Segmented | None, name: str, error: str | None) -> Event:
        """The event that follows when one more tile is done."""
        step = replace(self, done=self.done + 1, at=time.monotonic(), fault="")
        if error is not None or value is None:
            return replace(step, failed=self.failed + 1, fault=f"{name}: {error}")
        return replace(
            step, objects=self.objects + value["labels"], pixels=self.pixels + value["pixels"]
        )


Watch: TypeAlias = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Result:
    """What lies in the output folder of a complete run."""

    path: str
    """The folder."""

    @cached_property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` says: the job, the plan, the number of objects, their certificates, the
        fingerprint of the image.
        """
        found = read_at(self.path) if remote(self.path) else read_record(Path(self.path))
        if found is None:
            before = "" if remote(self.path) else products.kept(Path(self.path))
            raise OutputError(f"{self.path} holds no complete result: there is no {RECORD}{before}")
        return found

    def _read(self, name: str) -> bytes | None:
        """A file of the folder; None where there is none."""
        if remote(self.path):
            return read(self.path, name)
        return Path(self.path, name).read_bytes() if Path(self.path, name).exists() else None

    @cached_property
    def labels(self) -> xr.DataArray:
        """The labels, lazily: dims (y, x) or (z, y, x), coordinates of pixel centres, and
        ``spatial_ref`` where the image has a CRS.

        OutputError where objects were not wanted.
        """
        return self._raster("labels", "object id, 0 = background")

    @cached_property
    def classes(self) -> xr.DataArray:
        """The class of every pixel, likewise; the attributes have ``_FillValue``, the value of what
        was not measured, and the legend.

        OutputError where classes were not wanted.
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
        """The table of objects, one row each, by ascending id."""
        import pyarrow.parquet as pq

        found = self._read("objects.parquet")
        if found is None:
            raise OutputError(
                f"{self.path} holds no objects.parquet: its run is not complete, or it was removed"
            )
        table: pd.DataFrame = pq.read_table(BytesIO(found)).to_pandas()
        return table

    def _raster(self, name: str, meaning: str) -> xr.DataArray:
        import dask.array as da
        import xarray as xr

        frame = self._frame()
        if not there(self.path, f"{name}.zarr"):
            wanted = self.record.get("results")
            why = f"output.results was {', '.join(wanted)}" if wanted else "its run is not complete"
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
            place = " ".join(map(str, _geotransform(frame)))
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

    def lines(self) -> list[str]:
        """The result in a few lines of text."""
        counts = self.record["certificates"]
        share = ", ".join(f"{number:,} {name}" for name, number in counts.items())
        what = "objects" if "instance" in self.record["results"] else "classes"
        return [
            (
                f"{self.record['objects']:,} {what} in {' x '.join(map(str, self._frame().shape))} "
                f"pixels: {share}"
            ),
            *unmeasured.lines(self.record.get("unmeasured", {})),
            *timings.lines(self.record),
            *(f"  {name:16} {what}" for name, what in self.files().items()),
        ]

    def missing(self) -> str:
        """The tiles that could not be read, and are not valid in the result; empty where it is
        complete.
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

    def files(self) -> dict[str, str]:
        """What was made, and what opens it: of what lies there, that which the record lists."""
        known = {
            "labels.zarr": "OME-Zarr with pyramid: napari, xarray, zarr",
            "labels.tif": "cloud-optimised GeoTIFF: QGIS, GDAL, rasterio",
            "labels.ome.tif": "tiled OME-TIFF with pyramid: QuPath, Fiji, napari, tifffile",
            "classes.zarr": "the class of every pixel, OME-Zarr with pyramid: napari, xarray, zarr",
            "classes.tif": "the same as a cloud-optimised GeoTIFF with colours and names: QGIS, "
            "GDAL, rasterio",
            "classes.ome.tif": "the same as a tiled OME-TIFF with colours and pyramid: QuPath, "
            "Fiji, napari, tifffile",
            "panoptic.png": "COCO's panoptic PNG: the colour of a pixel is the number of its "
            "segment",
            "panoptic.json": "and its JSON: the class, area and box of every segment, which are "
            "things or stuff",
            "objects.parquet": "one row per object: pandas, geopandas, DuckDB",
            "lines.gpkg": "lines along curves: QGIS, GDAL, geopandas",
            "overview.png": "a picture: each object, or class, has its own colour",
            "run.json": "the record of the run: job, certificates, fingerprint",
        }
        known |= (
            {nested: "the same in the image itself: napari, ome-zarr-py"}
            if (nested := self.record.get("nested"))
            else {}
        )
        listed = self.record.get("products", known)
        return {
            name: what
            for name, what in known.items()
            if (name in listed or name in (RECORD, nested)) and there(self.path, name)
        }

    def _repr_html_(self) -> str:
        """The result as Jupyter shows it: counts, files, a picture."""
        import base64

        from pipeline.image.legend import entry
        from pipeline.sinks.picture import colours, painted, to_png
        from pipeline.sinks.pyramid import Pyramid
        from pipeline.stages.commit import thumbnail

        frame, record = self._frame(), self.record
        shown = self.labels if "instance" in record["results"] else self.classes
        pyramid = Pyramid(
            joined(self.path, f"{shown.name}.zarr"),
            frame,
            tuple(record["plan"]["tiles"]["chunk"]),
            str(shown.dtype),
            version=record["output"]["ome_zarr"],
        )
        small = thumbnail(pyramid, 512)[0]
        known = {
            int(number): entry(int(number), what).colour
            for number, what in record["legend"].items()
        }
        drawn = colours(small) if "instance" in record["results"] else painted(small, known)
        picture = base64.b64encode(to_png(drawn)).decode()
        rows = {
            "objects": f"{record['objects']:,}",
            **{name: f"{n:,}" for name, n in record["certificates"].items()},
        }
        rows |= {
            "image": f"{' × '.join(map(str, frame.shape))}, {frame.dtype}",
            "folder": self.path,
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
            for name, value in rows.items()
        )
        return (
            f"<div style='display:flex;gap:1em'><img alt='{shown.name}' "
            f"src='data:image/png;base64,{picture}'/><table>{cells}</table></div>"
        )


def _coordinates(frame: Frame, dims: tuple[str, ...]) -> dict[str, Any]:
    """Coordinates of pixel centres; none along rows and columns of a rotated image."""
    import numpy as np

    if frame.transform is None and frame.translation:
        spans = zip(dims, frame.shape, frame.translation, frame.pixel_size, strict=True)
        return {dim: start + size * np.arange(n) for dim, n, start, size in spans}
    a, b, c, d, e, f = frame.transform or (
        frame.pixel_size[-1],
        0.0,
        0.0,
        0.0,
        frame.pixel_size[-2],
        0.0,
    )
    if b or d:
        return {}
    steps = {"x": (a, c), "y": (e, f), "z": (frame.pixel_size[0], 0.0)}
    return {
        dim: steps[dim][1] + steps[dim][0] * (np.arange(n) + 0.5)
        for dim, n in zip(dims, frame.shape, strict=True)
    }


def _geotransform(frame: Frame) -> tuple[float, ...]:
    """In GDAL's order."""
    a, b, c, d, e, f = frame.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    return (c, a, b, f, d, e)


def as_json(event: Event) -> str:
    """An event as one line of JSON."""
    return json.dumps({key: value for key, value in asdict(event).items() if key != "at"})
