"""The bands of a raster: their names, which are one colour, which is alpha, and whether a mask
covers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.sources.axes import named
from pipeline.sources.nodata_rules import colour_of


def band_names(file: Any) -> list[str]:
    """Descriptions, and numbers of bands that have none; no two alike."""
    return list(named(file.descriptions, file.count))


def measured_bands(file: Any) -> tuple[int, ...]:
    """The indices of all bands but alpha; all bands of a file that holds nothing else."""
    found = alpha(file)
    return tuple(k for k in range(file.count) if k != found) or tuple(range(file.count))


def is_masked(file: Any, chosen: Sequence[int]) -> bool:
    """Whether a mask says what was measured: one of the file, or one of a band."""
    from rasterio.enums import MaskFlags

    flags = [file.mask_flag_enums[k] for k in chosen]
    return any(
        (MaskFlags.per_dataset in each and MaskFlags.alpha not in each) or not each
        for each in flags
    )


def alpha(file: Any) -> int | None:
    """The index of the alpha band. A band marked as alpha that has another name does not count:
    many writers mark the fourth of four bands so, also near infrared.
    """
    from rasterio.enums import ColorInterp

    found = [k for k, what in enumerate(file.colorinterp) if what == ColorInterp.alpha]
    return next((k for k in found if (file.descriptions[k] or "alpha").lower() == "alpha"), None)


def colour(file: Any) -> tuple[int, ...]:
    """The indices of the bands that are red, green and blue; none unless there is one of each."""
    return colour_of([kind.name for kind in file.colorinterp])
