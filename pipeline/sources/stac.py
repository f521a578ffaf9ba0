"""The assets of a STAC item, read as the bands of one image.

References
----------
SpatioTemporal Asset Catalog, https://stacspec.org.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError
from pipeline.frame import Frame
from pipeline.grid import Box
from pipeline.sources import where_measured
from pipeline.sources.axes import choose_bands, together
from pipeline.sources.checksum import of_file
from pipeline.sources.raster import Raster
from pipeline.sources.references import followed

LARGEST = 16 << 20
"""Bytes of an item."""
ENDINGS = (".tif", ".tiff", ".jp2")


@dataclass(frozen=True)
class Item:
    """A STAC item whose assets are local rasters of one band on one grid. A band has its asset's name."""

    path: str
    """The item's JSON."""

    bands: tuple[int | str, ...] | None = None
    """Assets to read, by name or by number from 1, in any order; None: all that are rasters."""

    level: int = 0
    """0: full resolution; k: the k-th overview of each."""

    nodata: float | None = None
    """The value that means "not measured", in place of the files' own."""

    nodata_by: str | None = None
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all bands, where all bands have nodata.
    None: by band."""

    scaled: bool = False
    """Whether values are multiplied by each file's scale and its offset added."""

    root: str | None = None
    """The folder in which the assets lie; None: the item's own."""

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError names two assets that are on different grids."""
        frames = {name: part.frame for name, part in zip(self._assets, self._parts, strict=True)}
        name, first = next(iter(frames.items()))
        for other, frame in frames.items():
            if (number := len(frame.bands)) > 1:
                raise SourceError(f"{self.path}: the asset {other} has {number} bands; read its file alone, or choose others: bands")
            for what in ("shape", "transform", "crs", "dtype"):
                if (one := getattr(first, what)) != (two := getattr(frame, what)):
                    raise SourceError(f"{self.path}: the assets {name} and {other} differ in {what}, {one} and {two}; choose by: bands")
        alike = len({str(frame.nodata) for frame in frames.values()}) == 1 and not any(frame.masked for frame in frames.values())
        joined = together(self.nodata_by, len(frames))
        return replace(first, bands=tuple(frames), nodata=first.nodata if alike else None, masked=not alike, together=joined)

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column)."""
        return np.concatenate([part.read(box) for part in self._parts])

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """About every ``step``-th pixel, from overviews where there are any."""
        return np.concatenate([part.glance(box, step) for part in self._parts])

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where each asset was measured in a box: (band, row, column), of the shape of a glance."""
        return np.concatenate([where_measured(part, box, part.glance(box, step), step) for part in self._parts])

    @property
    def masked_by(self) -> str:
        """What the mask stands for."""
        return "nodata or mask"

    @property
    def files(self) -> tuple[str, ...]:
        """The item's, and each asset's."""
        return (self.path, *self._assets.values())

    def fingerprint(self) -> dict[str, Any]:
        """The item's, and each asset's."""
        return {"kind": "stac", "item": of_file(Path(self.path)), "assets": [part.fingerprint() for part in self._parts]}

    @functools.cached_property
    def _assets(self) -> dict[str, str]:
        """The file of each asset that is read."""
        given = _item(self.path)
        folder = Path(self.root or Path(self.path).parent).resolve()
        if self.bands is not None:
            names = [list(given)[k] for k in choose_bands(self.bands, list(given))]
        else:
            names = [name for name, asset in given.items() if _is_raster(asset)]
            if not names:
                raise SourceError(f"{self.path} has no asset that is a raster; its assets: {', '.join(given)}")
        return {name: followed(self.path, str(given[name].get("href", "")), folder, Path(self.path).parent) for name in names}

    @functools.cached_property
    def _parts(self) -> tuple[Raster, ...]:
        return tuple(Raster(path, None, self.level, self.nodata, scaled=self.scaled) for path in self._assets.values())


def _item(path: str) -> dict[str, dict[str, Any]]:
    """The assets of an item."""
    if (size := Path(path).stat().st_size) > LARGEST:
        raise SourceError(f"{path} has {size} bytes; allowed for a STAC item: {LARGEST}")
    try:
        item = json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}") from error
    assets = item.get("assets") if isinstance(item, dict) and item.get("type") == "Feature" else None
    if not isinstance(assets, dict) or not assets or not all(isinstance(asset, dict) for asset in assets.values()):
        raise JobError(f"path: {path} is no STAC item with assets")
    return assets


def _is_raster(asset: dict[str, Any]) -> bool:
    """Whether an asset is pixels to work on, as far as it says: no thumbnail, no metadata."""
    kind, roles = str(asset.get("type", "")), asset.get("roles") or ["data"]
    raster = kind.startswith(("image/tiff", "image/jp2")) if kind else str(asset.get("href", "")).lower().endswith(ENDINGS)
    return raster and isinstance(roles, list) and not {"thumbnail", "overview", "metadata"} & {str(role) for role in roles}
