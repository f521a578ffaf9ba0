"""The house: where heavy libraries live, and how long things may be. Which room may import which is
a contract in pyproject.toml.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1] / "pipeline"

HOMES = {
    "PIL": "evaluation.error_map sinks.picture training",
    "cryptography": "engine",
    "dask": "engine execution.result",
    "distributed": "engine execution.worker_preload",
    "filelock": "storage.locks",
    "imagecodecs": "sources.tiff_pages",
    "nibabel": "sources.nifti",
    "numba": "imageops numerics segmenters",
    "obstore": "storage.locations",
    "onnxruntime": "networks.onnx",
    "pandas": "execution.result",
    "pint": "image.units",
    "pyarrow": "annotations.vector_files execution.result sinks.table",
    "pydantic": "config jobs",
    "pydicom": "sources.dicom",
    "pyogrio": "annotations.vector_files sinks.vector",
    "rasterio": "annotations image sinks sources",
    "rich": "cli.progress",
    "safetensors": "networks",
    "segmentation_models_pytorch": "networks.architectures",
    "shapely": "annotations evaluation.metrics sinks.vector",
    "skimage": "imageops segmenters",
    "sklearn": "segmenters",
    "tifffile": "sinks.microscopy sources",
    "torch": "networks segmenters.adapters training",
    "torchvision": "networks.architectures",
    "typer": "__main__ cli",
    "wsidicom": "sources.dicom",
    "xarray": "execution.result",
    "yaml": "config.yaml_files training.recipe",
    "zarr": "sinks sources storage.locations",
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


@pytest.mark.parametrize("name", MODULES)
def test_homes(name):
    """Every heavy library is imported only where it lives."""
    for library in {dotted.split(".")[0] for dotted in imported(name)} & HOMES.keys():
        assert any(
            name == home or name.startswith(f"{home}.") for home in HOMES[library].split()
        ), f"{name} imports {library}"


@pytest.mark.parametrize("name", MODULES)
def test_lengths(name):
    """No module is longer than 500 lines, no function than 60 lines of code."""
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            assert not body or body[-1].end_lineno - body[0].lineno < 60, f"{name}.{node.name}"


def test_homes_are_true():
    """Every home in the table is a room or a module, and imports what it is a home of."""
    for library, homes in HOMES.items():
        for home in homes.split():
            inside = [name for name in MODULES if name == home or name.startswith(f"{home}.")]
            assert any(
                library == dotted.split(".")[0] for name in inside for dotted in imported(name)
            ), f"{home}: {library}"


@pytest.mark.parametrize(
    "command",
    [
        "import pipeline",
        "import pipeline.__main__ as m, typer.main as t; t.get_command(m.app).get_help",
    ],
)
def test_light_start(command):
    """Importing the package, or asking the command line for help, loads no heavy library."""
    heavy = [*HOMES, "numpy", "scipy"]
    heavy.remove("typer")
    code = f"import sys; {command}; print(*(name for name in {heavy} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
