"""Read the assets of a STAC item as the bands of one image.

References
----------
SpatioTemporal Asset Catalog, https://stacspec.org.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError
from pipeline.image.frame import Frame, Pins, marked
from pipeline.image.grid import Box
from pipeline.sources.axes import choose_bands
from pipeline.sources.contract import where_measured
from pipeline.sources.declared_sizes import check_text
from pipeline.sources.fingerprints import of_file
from pipeline.sources.linked_files import followed, of_uri
from pipeline.sources.nodata_rules import together
from pipeline.sources.raster import RasterFile

LARGEST = 16 << 20
"""The most bytes of an item."""
SCALE = "raster:scale"
OFFSET = "raster:offset"
WHOSE = ("file", "item")
"""The values of ``scaled`` that choose between the scale and offset of the file and those of the
item.
"""
ENDINGS = (".tif", ".tiff", ".jp2")


@dataclass(frozen=True)
class Item:
    """A STAC item. Its assets are local single-band rasters on one grid; each band has its asset's
    name.
    """

    path: str
    """The item's JSON file."""

    bands: tuple[int | str, ...] | None = None
    """Assets to read, by name or by number from 1, in any order; None: all rasters."""

    level: int = 0
    """0: full resolution; k: the k-th overview of each file."""

    nodata: float | None = None
    """The value that means "not measured", instead of the files' own."""

    nodata_by: str | None = None
    """``band``: each band is measured or missing on its own. ``pixel``: a pixel is missing, in all
    bands, if all bands have nodata. None: by band.
    """

    scaled: bool | Literal["file", "item"] = False
    """Whether values are multiplied by each band's scale and its offset is added. If file and item
    disagree, ``file`` or ``item`` chooses one.
    """

    root: str | None = None
    """The folder with the assets; None: the item's own folder."""

    @functools.cached_property
    def frame(self) -> Frame:
        """The image's frame; SourceError names two assets that are on different grids."""
        frames = {name: part.frame for name, part in zip(self._assets, self._parts, strict=True)}
        name, first = next(iter(frames.items()))
        for other, frame in frames.items():
            if (number := len(frame.bands)) > 1:
                raise SourceError(
                    f"{self.path}: the asset {other} has {number} bands; read its file alone, or "
                    f"choose others: bands"
                )
            listed = [
                len(_item(self.path)[other].get(key) or [0]) for key in ("bands", "raster:bands")
            ]
            if max(listed) > 1:
                raise SourceError(
                    f"{self.path} describes {max(listed)} bands of the asset {other}, whose file "
                    f"has one; mend the item"
                )
            for what in ("shape", "transform", "crs", "dtype"):
                if (one := getattr(first, what)) != (two := getattr(frame, what)):
                    raise SourceError(
                        f"{self.path}: the assets {name} and {other} differ in {what}, {one} and "
                        f"{two}; choose by: bands"
                    )
        if self.scaled and all(part.unscaled for part in self._parts):
            raise JobError(
                f"scaled: {self.scaled}; neither {self.path} nor its files have a scale or an "
                f"offset; allowed: False"
            )
        alike = len({str(frame.nodata) for frame in frames.values()}) == 1 and not any(
            frame.masked for frame in frames.values()
        )
        joined = together(self.nodata_by, len(frames))
        return replace(
            first,
            bands=tuple(frames),
            nodata=first.nodata if alike else None,
            masked=not alike,
            together=joined,
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column)."""
        return np.concatenate([part.read(box) for part in self._parts])

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """About every ``step``-th pixel, from overviews if there are any."""
        return np.concatenate([part.glance(box, step) for part in self._parts])

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where each asset was measured in a box: (band, row, column), with the shape of a
        glance.
        """
        return np.concatenate(
            [where_measured(part, box, part.glance(box, step), step) for part in self._parts]
        )

    @property
    def masked_by(self) -> str:
        """What the mask is derived from."""
        return "nodata or mask"

    @property
    def pins(self) -> Pins | None:
        """The control points or the camera model of an image without a transform."""
        return self._parts[0].pins

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the image besides its frame. Facts of a single asset stand under its name."""
        each = {name: part.own_facts for name, part in zip(self._assets, self._parts, strict=True)}
        return {
            **each,
            "format": "STAC item",
            "channels": list(self.frame.bands),
            "files": [f"{name}: {file}" for name, file in self._assets.items()],
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The item's file, and each asset's."""
        return (self.path, *self._assets.values())

    def fingerprint(self) -> dict[str, Any]:
        """A fingerprint of the item and of each asset."""
        return {
            "kind": "stac",
            "item": of_file(Path(self.path)),
            "assets": [part.fingerprint() for part in self._parts],
        }

    @functools.cached_property
    def _assets(self) -> dict[str, str]:
        """The file of each asset that is read, by name."""
        given = _item(self.path)
        folder = Path(self.root or Path(self.path).parent).resolve()
        if self.bands is not None:
            names = [list(given)[k] for k in choose_bands(self.bands, list(given))]
        else:
            names = [name for name, asset in given.items() if _is_raster(asset)]
            if not names:
                raise SourceError(
                    f"{self.path} has no asset that is a raster; its assets: {', '.join(given)}"
                )
        return {name: _file(self.path, str(given[name].get("href", "")), folder) for name in names}

    @functools.cached_property
    def _parts(self) -> tuple[Asset, ...]:
        if self.scaled not in (True, False, *WHOSE):
            raise JobError(f"scaled: {self.scaled!r}; allowed: True, False, {', '.join(WHOSE)}")
        given = _item(self.path)
        whose = self.scaled if self.scaled in WHOSE else None
        common: Any = {
            "level": self.level,
            "nodata": self.nodata,
            "scaled": bool(self.scaled),
            "whose": whose,
        }
        return tuple(
            Asset(path, name=name, said=_said(self.path, name, given[name]), **common)
            for name, path in self._assets.items()
        )


@dataclass(frozen=True)
class Asset(RasterFile):
    """One file of an item, with what the item says about its values."""

    name: str = ""
    """The asset's name in the item."""

    said: tuple[float | None, float | None, float | None] = (None, None, None)
    """The item's nodata, scale and offset."""

    whose: Any = None
    """Which scale and offset to use if file and item disagree."""

    def _refuse_unscaled(self) -> None:
        """Refuse nothing: some bands of an item may be classes, without a scale."""

    def _nodata_of(self, band: int) -> float | None:
        own = super()._nodata_of(band)
        said = self.said[0]
        if self.nodata is not None or said is None:
            return own
        if own is not None and not _alike(own, said, np.dtype(self._file.dtypes[band])):
            raise JobError(
                f"nodata: {own:g} in {self.path}, and {said:g} in the item; which one is it? say "
                f"so by: nodata"
            )
        return said if own is None else own

    @functools.cached_property
    def _scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        own = (self._file.scales[0], self._file.offsets[0])
        said = tuple(
            default if one is None else one
            for one, default in zip(self.said[1:], (1.0, 0.0), strict=True)
        )
        if self.said[1:] == (None, None) or self.whose == "file":
            said = own
        elif (
            own not in ((1.0, 0.0), said)
            and self.whose is None
            and not np.allclose(own, said, rtol=1e-6, atol=0)
        ):
            raise JobError(
                f"scaled: {self.path} has scale {own[0]:g} and offset {own[1]:g}, and the item "
                f"says {said[0]:g} and {said[1]:g} of "
                f"{self.name}; which hold? allowed: {', '.join(WHOSE)}"
            )
        return said[:1], said[1:]


def _item(path: str) -> dict[str, dict[str, Any]]:
    """The assets of an item, by name."""
    check_text(path, "a STAC item", LARGEST)
    try:
        item = json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}") from error
    assets = (
        item.get("assets") if isinstance(item, dict) and item.get("type") == "Feature" else None
    )
    if (
        not isinstance(assets, dict)
        or not assets
        or not all(isinstance(asset, dict) for asset in assets.values())
    ):
        raise JobError(f"path: {path} is no STAC item with assets")
    return assets


def _file(path: str, href: str, folder: Path) -> str:
    base = Path(path).parent
    return followed(path, of_uri(href, base), folder, base)


def _said(
    path: str, name: str, asset: dict[str, Any]
) -> tuple[float | None, float | None, float | None]:
    """An asset's nodata, scale and offset, by STAC 1.1 (from its band, or from the asset) or by the
    raster extension of STAC 1.0.
    """
    found = dict(asset)
    if (old := _band(path, name, asset, "raster:bands")) is not None:
        found |= {
            new: old[key]
            for key, new in (("nodata", "nodata"), ("scale", SCALE), ("offset", OFFSET))
            if key in old
        }
    found |= _band(path, name, asset, "bands") or {}
    nodata, scale, offset = (
        _number(path, name, key, found.get(key)) for key in ("nodata", SCALE, OFFSET)
    )
    return nodata, scale, offset


def _band(path: str, name: str, asset: dict[str, Any], key: str) -> dict[str, Any] | None:
    """What an asset says about its only band; None if it says nothing, or has several bands."""
    listed = asset.get(key) or []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise SourceError(
            f"{path}: {key} of the asset {name} is {str(listed)[:60]!r}; allowed: a list of bands"
        )
    return listed[0] if len(listed) == 1 else None


def _number(path: str, name: str, key: str, value: Any) -> float | None:
    """A number from JSON, which writes those that it cannot represent as words."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    if value in ("nan", "inf", "-inf"):
        return float(value)
    raise SourceError(
        f"{path}: {key} of the asset {name} is {value!r}; allowed: a number, nan, inf, -inf"
    )


def _alike(one: float, other: float, dtype: np.dtype[Any]) -> bool:
    """Whether two nodata values are equal for pixels of this dtype."""
    if dtype.kind != "f" or np.isnan(one) or np.isnan(other):
        return str(float(one)) == str(float(other))
    limits = np.finfo(dtype)
    return bool(marked(np.array([min(max(other, limits.min), limits.max)], dtype), one).all())


def _is_raster(asset: dict[str, Any]) -> bool:
    """Whether an asset is a raster of data by its own description, not a thumbnail or metadata."""
    kind = str(asset.get("type", ""))
    roles = asset.get("roles") or ["data"]
    raster = (
        kind.startswith(("image/tiff", "image/jp2"))
        if kind
        else str(asset.get("href", "")).lower().endswith(ENDINGS)
    )
    return (
        raster
        and isinstance(roles, list)
        and not {"thumbnail", "overview", "metadata"} & {str(role) for role in roles}
    )
