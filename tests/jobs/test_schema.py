"""The schema of job files and `tilewise info`: what editors and people are told."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import rasterio
import yaml
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.config.option_texts import described
from pipeline.jobs import plugins
from pipeline.jobs.schema import schema

JOBS = sorted(
    path
    for path in (Path(__file__).resolve().parents[2] / "workflows").glob("*.yaml")
    if not path.stem.endswith("_train")
)
JOB = {
    "source": "a.tif",
    "steps": [{"kind": "smooth", "sigma": 2.0}],
    "segmenters": {"land": {"kind": "threshold", "value": 3}, "trees": "watershed"},
    "route": [{"use": "skip", "when": {"valid": {"max": 0.1}}}, {"use": "land"}],
    "output": {"path": "out"},
}


@pytest.fixture(scope="module")
def validator():
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_are_valid(path, validator):
    """Each job file that is shipped is valid."""
    validator.validate(yaml.safe_load(path.read_text()))


MISTAKES = {
    "a key": (("tiles",), {"sise": 512}),
    "a kind": (("segmenters", "land", "kind"), "treshold"),
    "an option": (("segmenters", "land", "vale"), 3),
    "a value": (("steps", 0), {"kind": "background", "method": "medium"}),
    "a type": (("segmenters", "land", "min_area"), "many"),
    "a bare kind": (("segmenters", "trees"), "watershet"),
    "a step": (("steps", 0, "sigmaa"), 2),
    "a trait": (("route", 0, "when", "valid"), {"maximum": 1}),
    "an output": (("output", "labels"), ["tiff"]),
    "no path": (("output",), {}),
    "no segmenter": (("segmenters",), {}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_not(name, validator):
    """Each mistake makes a valid job invalid."""
    validator.validate(JOB)
    path, value = MISTAKES[name]
    wrong = copy.deepcopy(JOB)
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(wrong)


@pytest.mark.parametrize(
    ("kind", "group"),
    [(k, g) for g in (plugins.SEGMENTERS, plugins.STEPS) for k in plugins.kinds(g)],
)
def test_every_option_is_described(kind, group):
    """Of every kind, each option has a meaning, in plain words."""
    what = plugins.load(kind, group=group)
    meaning = described(what)
    for option in plugins.options(what):
        assert meaning.get(option, "").rstrip(")").endswith("."), f"{kind}.{option}"


def test_commands(tmp_path):
    """`schema` prints the schema; `info` what an image is, as rasterio knows it, and a clear error
    where it is none.
    """
    assert json.loads(CliRunner().invoke(app, ["schema"]).output) == json.loads(
        json.dumps(schema())
    )
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        count=2,
        height=30,
        width=40,
        dtype="uint16",
        nodata=7,
        crs="EPSG:32618",
        transform=rasterio.Affine(2, 0, 5e5, 0, -2, 4e6),
    ) as file:
        file.write(np.ones((2, 30, 40), np.uint16))
    found = json.loads(CliRunner().invoke(app, ["info", str(tmp_path / "a.tif"), "--json"]).output)
    assert (found["shape"], found["bands"], found["dtype"], found["nodata"]) == (
        [30, 40],
        ["1", "2"],
        "uint16",
        7,
    )
    assert (found["pixel_size"], found["unit"], found["bytes"]) == (
        [2, 2],
        "metre",
        2 * 30 * 40 * 2,
    )
    assert rasterio.crs.CRS.from_wkt(found["crs"]) == rasterio.crs.CRS.from_epsg(32618)
    told = yaml.safe_load(CliRunner().invoke(app, ["info", str(tmp_path / "a.tif")]).output)
    assert (told["crs"], told["shape"], told["nodata"]) == (
        "EPSG:32618, WGS 84 / UTM zone 18N",
        [30, 40],
        7,
    )
    lacking = CliRunner().invoke(app, ["info", str(tmp_path / "b.tif")])
    assert lacking.exit_code == 2
    assert "there is no image at" in lacking.output


def test_every_key_is_described():
    """Each key of a job, of its sections, rules and layers, and each reader's option that is not
    its path, has a meaning.
    """
    found = schema()
    for name, part in {"job": found, **found["$defs"]}.items():
        for key, about in part["properties"].items():
            assert key in ("kind", "path") or about["description"], f"{name}.{key}"


READ = {
    "one band": {"kind": "geotiff", "path": "a.tif", "bands": 4},
    "a pattern": {"path": "tiles/*.tif", "snap": 0.1},
    "several files": {"kind": "mosaic", "path": ["a.tif", "b.tif"]},
    "a number as files have it": {"kind": "zarr", "path": "a.zarr", "nodata": "nan"},
    "a name": "a.tif",
}
UNREAD = {
    "an option that the reader has not": {"kind": "geotiff", "path": "a.tif", "planes": 0},
    "a kind that there is not": {"kind": "geotif", "path": "a.tif"},
    "no path": {"kind": "zarr"},
}


@pytest.mark.parametrize("name", [*READ, *UNREAD])
def test_sources_are_told_apart_by_kind(name, validator):
    """A source may have what its reader takes, in each form that it takes, and nothing else."""
    source = {**READ, **UNREAD}[name]
    assert validator.is_valid({**JOB, "source": source}) == (name in READ)
