"""The house: which module may import which, where heavy libraries live, and how long things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1] / "pipeline"

FLOORS = (
    "addresses",
    "errors logs",
    "contours documents elementary files frame geojson grid homes legend locks places units wording",
    "bytecode ground options record runs",
    "annotations bands checksums comparison components evaluation evidence exact filters placement scales stitching vectors",
    "colours",
    "adding features graphs routing sampling",
    "histograms layers measurement",
    "networks steps thresholds",
    "segmenters sources sinks scratch engine",
    "companions devices plugins processors",
    "outlines segments",
    "auditing inspection",
    "fates job",
    "binding stages",
    "formats tiling",
    "costs planning schema",
    "reporting resume",
    "crew delivery progress training verifying",
    "groundwork",
    "foresight workflow",
    "readiness",
    "__init__",
    "console",
    "commands",
    "__main__",
)
"""From the ground up. A module imports from lower floors only."""

ROOMS = {
    "engine": ("certificates contract", "batches inprocess", "errands processes", "distribution", "__init__"),
    "networks": (
        "__init__",
        "archives card lattice precision resampling tainted",
        "windows",
        "architectures packaged probe",
        "sessions",
        "resident",
    ),
    "segmenters": (
        "contract",
        "__init__",
        "channels given pixels relief streams",
        "basins semantic",
        "panoptic",
        "decoding detections",
        "predictor",
        "cluster edge growing region superpixel threshold",
        "adapters blob detector graph network windowed",
    ),
    "sinks": ("__init__", "chunked cog multiscales nested panoptic picture table vector", "pyramid", "microscopy"),
    "sources": (
        "__init__",
        "axes beside blocks checksum codestreams facts foreign levels packed references unmeasured unpacking unread",
        "mappings ome presence virtual",
        "coordinates metadata",
        "groups pages",
        "stored",
        "kept",
        "arrays datasets dicom incomplete nifti stowed tiffs zarrs",
        "firstpage placing raster_bands",
        "raster",
        "mosaic pictures stac",
        "particulars",
    ),
    "stages": (
        "__init__",
        "drawn terrain tissue",
        "connected keyed overlay regions supports",
        "fit link reading route segment",
        "naming publish",
        "group",
        "lines measure panoptic repair",
        "products",
        "finish",
    ),
    "training": ("__init__", "augmentation losses", "objectives recipe", "samples", "appraisal", "pictures", "loop"),
}
"""The floors within a package."""

HOMES = {
    "cryptography": "engine",
    "dask": "engine sources.arrays reporting",
    "distributed": "engine readiness",
    "filelock": "locks",
    "nibabel": "sources.nifti",
    "obstore": "places",
    "numba": "adding components contours elementary exact filters graphs histograms segmenters",
    "pandas": "reporting",
    "pint": "units",
    "PIL": "fates sinks.picture training",
    "pyarrow": "sinks.table reporting vectors",
    "pydantic": "job options schema",
    "pyogrio": "sinks.vector vectors",
    "rasterio": (
        "ground inspection placement scales sources.datasets sources.mappings sources.mosaic sources.particulars sources.placing "
        "sources.raster sources.raster_bands sinks.cog sinks.multiscales sinks.panoptic vectors"
    ),
    "rich": "progress",
    "shapely": "companions evaluation outlines sinks.vector vectors",
    "skimage": "colours histograms segmenters",
    "sklearn": "segmenters",
    "onnxruntime": "networks.sessions",
    "safetensors": "networks",
    "segmentation_models_pytorch": "networks.architectures",
    "tifffile": "sources.firstpage sources.pages sinks.microscopy",
    "imagecodecs": "sources.pages",
    "torch": "networks segmenters.adapters training",
    "torchvision": "networks.architectures",
    "typer": "__main__ commands console",
    "wsidicom": "sources.dicom",
    "pydicom": "sources.dicom",
    "xarray": "sources.arrays reporting",
    "yaml": "console documents training.recipe",
    "zarr": "places sources.groups sources.pages sources.particulars sources.stored sources.unpacking sources.zarrs "
    "sinks.chunked sinks.pyramid",
}
"""The modules and packages that may import a heavy library."""


def name_of(path: Path) -> str:
    """A module's name within the house: ``stages.fit``, ``stages.__init__``."""
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts)


MODULES = {name_of(path): path for path in sorted(HOUSE.rglob("*.py"))}


def imported(name: str) -> Iterator[str]:
    """What a module imports anywhere in it, at the top or in a function, as dotted names."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(dotted: str) -> str | None:
    """The module of the house that a dotted name is, or is found in."""
    house, *parts = dotted.split(".")
    if house != "pipeline":
        return None
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in MODULES or f"{name}.__init__" in MODULES:
            return name if name in MODULES else f"{name}.__init__"
    return None  # a constant of `pipeline` itself


def floor(name: str, floors: tuple[str, ...]) -> int:
    found = [number for number, names in enumerate(floors) if name in names.split()]
    assert len(found) == 1, f"{name} has no floor, or several: say in this file where it belongs"
    return found[0]


@pytest.mark.parametrize("name", MODULES)
def test_floors(name):
    """A module imports from lower floors only, in the house and within its package."""
    package = name.split(".")[0]
    for other in filter(None, map(ours, imported(name))):
        theirs = other.split(".")[0]
        if theirs != package:
            assert floor(theirs, FLOORS) < floor(package, FLOORS), f"{name} imports {other}"
        elif other != name:
            here, there = (floor(which.split(".")[1], ROOMS[package]) for which in (name, other))
            assert there < here, f"{name} imports {other}"


@pytest.mark.parametrize("name", MODULES)
def test_homes(name):
    """Every heavy library is imported only where it lives."""
    for library in {dotted.split(".")[0] for dotted in imported(name)} & HOMES.keys():
        assert any(name == home or name.startswith(f"{home}.") for home in HOMES[library].split()), f"{name} imports {library}"


@pytest.mark.parametrize("name", MODULES)
def test_lengths(name):
    """No module is longer than 500 lines, no function than 50 lines of code."""
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            assert not body or body[-1].end_lineno - body[0].lineno < 50, f"{name}.{node.name}"


def test_tables_are_true():
    """Every name in the tables of this file is a module of the house, and stands there once."""
    assert sorted(" ".join(FLOORS).split()) == sorted({name.split(".")[0] for name in MODULES})
    for package, floors in ROOMS.items():
        inside = [name.split(".", 1)[1] for name in MODULES if name.startswith(f"{package}.")]
        assert sorted(" ".join(floors).split()) == sorted(inside)


@pytest.mark.parametrize("command", ["import pipeline", "import pipeline.__main__ as m, typer.main as t; t.get_command(m.app).get_help"])
def test_light_start(command):
    """Importing the package, or asking the command line for help, loads no heavy library."""
    heavy = [*HOMES, "numpy", "scipy"]
    heavy.remove("typer")
    code = f"import sys; {command}; print(*(name for name in {heavy} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
