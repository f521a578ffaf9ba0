"""Networks that come inside Python packages, as bundles ready to use.

``ukis-csmask`` (German Aerospace Center) brings four U-Nets on an EfficientNet for clouds and their
shadows in reflectance of Sentinel-2 and Landsat, as ONNX, each with its training statistics in a
JSON file.

References
----------
.. [1] M. Wieland, F. Fichtner, S. Martinis (2022), "UKIS-CSMASK: a Python package for multi-sensor
   cloud and cloud-shadow segmentation", Int. Archives of Photogrammetry, Remote Sensing and Spatial
   Information Sciences XLIII-B3, 217-222.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from pipeline.errors import JobError, nearest
from pipeline.networks.card import Bundle, Card

CLOUDS = {
    f"ukis-csmask/{bands}b-{level}": f"model_{bands}b_{level}"
    for bands in (6, 4)
    for level in ("l1c", "l2a")
}
"""File names by bundle name: six bands (two of them short-wave infrared) or four; reflectance at
the top of the atmosphere (l1c) or at the ground (l2a).
"""

PACKAGES = ("ukis-csmask",)


def packaged(name: str) -> Bundle:
    """Return the bundle of a name such as ``ukis-csmask/6b-l1c``; JobError if it or its package is
    missing.
    """
    if name not in CLOUDS:
        raise JobError(f"weights: {name}: there is no such network; {nearest(name, CLOUDS)}")
    package = importlib.util.find_spec("ukis_csmask")
    folders = list(package.submodule_search_locations or []) if package else []
    if not folders:
        raise JobError(
            f"weights: {name} is in a package that is not installed; install it with: pip "
            f"install 'tilewise[clouds]'"
        )
    path = Path(folders[0], f"{CLOUDS[name]}.onnx")
    description = json.loads(path.with_suffix(".json").read_text())
    mean, deviation = description["data"]["dataset_statistics"]["img"]
    card = Card(
        name=name,
        kind="onnx",
        bands=tuple(description["data"]["dataset_statistics"]["band_names"]),
        classes=("cloud", "cloud shadow"),
        colours=("#f4f4f4", "#4b3f72"),
        architecture={
            "encoder": description["model"]["encoder_name"],
            "decoder": description["model"]["decoder_name"],
        },
        value_scaling={"type": "z-score", "mean": mean, "stddev": deviation},
        value_range=(-0.5, 3.0),
        window=int(description["data"]["target_size"][0]),
        stride=32,
        license="Apache-2.0",
        training={"package": "ukis-csmask", "version": description["model"]["version"]},
    )
    return Bundle(card, path)
