"""Job files and jobs made in Python: what they accept, and how they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

import pipeline
from pipeline.errors import JobError
from pipeline.jobs.job import Job, from_yaml

GOOD = """
source: {kind: geotiff, path: scene.tif, bands: [4, 3, 2]}
tiles: {size: 2048, halo: 64, max_halo: 1024}
segmenters:
  fields: {kind: watershed, threshold: otsu, sigma: 2.0, min_area: 64}
  water: {kind: threshold, index: [2, 4], value: 0}
route:
  - {use: skip, when: {valid: {max: 0.01}}}
  - {use: water, when: {edges: {min: 0.2}, mean_2: {max: 10, min: 1}}}
  - fields
stitch: {iou: 0.5}
output: {path: out/scene, labels: [zarr, cog], table: parquet}
"""


@pytest.fixture
def file(tmp_path):
    """A job file."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    return path


def test_a_job_survives_being_written(file, tmp_path):
    """A job read from YAML, written as plain values and read again, is the same job."""
    job = from_yaml(file)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(job.plain()))
    again = from_yaml(tmp_path / "again.yaml")
    assert again == job
    assert again.plain() == job.plain()
    assert job.segmenters["fields"] == pipeline.Watershed(sigma=2.0, min_area=64)


def test_python_and_yaml_say_the_same(file):
    """Every key of a job file is a constructor's argument of the same name and meaning."""
    job = Job(
        source={"kind": "geotiff", "path": "scene.tif", "bands": [4, 3, 2]},
        tiles={"size": 2048, "halo": 64, "max_halo": 1024},
        segmenters={
            "fields": pipeline.Watershed(threshold="otsu", sigma=2.0, min_area=64),
            "water": pipeline.Threshold(index=(2, 4), value=0.0),
        },
        route=[
            {"use": "skip", "when": {"valid": {"max": 0.01}}},
            {"use": "water", "when": {"edges": {"min": 0.2}, "mean_2": {"max": 10, "min": 1}}},
            {"use": "fields"},
        ],
        stitch={"iou": 0.5},
        output={"path": "out/scene", "labels": ["zarr", "cog"], "table": "parquet"},
    )
    assert job == from_yaml(file)


def test_changes_take_the_place_of_keys(file):
    """Dotted keys change a job file's values, also where the file has none."""
    job = from_yaml(file, {"tiles.size": 512, "segmenters.fields.sigma": 1, "output.picture": True})
    assert (job.tiles.size, job.segmenters["fields"].sigma, job.output.picture) == (512, 1.0, True)


MISTAKES = {
    "unknown section": (
        {"tyles": {}},
        (
            "tyles: there is no such key; allowed: layers, on_bad_tile, output, route, segmenters, "
            "source, steps, stitch, tiles; did you mean 'tiles'"
        ),
    ),
    "unknown key": (
        {"tiles.sise": 3},
        "tiles.sise: there is no such key; allowed: halo, max_halo, size; did you mean 'size'?",
    ),
    "unknown output key": (
        {"output.label": ["cog"]},
        "output.label: there is no such key; .*did you mean 'labels'",
    ),
    "size of zero": ({"tiles.size": 0}, "tiles.size: 0; allowed: 1 or more"),
    "size of a half": ({"tiles.size": 0.5}, r"tiles.size: 0.5; "),
    "size in words": ({"tiles.size": "large"}, "tiles.size: 'large'; .*'auto'"),
    "size as a switch": ({"tiles.size": True}, "tiles.size: True; "),
    "negative halo": ({"tiles.halo": -1}, "tiles.halo: -1; allowed: 0 or more"),
    "halo as text": ({"tiles.halo": "64"}, "tiles.halo: '64'; "),
    "negative max_halo": ({"tiles.max_halo": -5}, "tiles.max_halo: -5; "),
    "iou of two": ({"stitch.iou": 2}, "stitch.iou: 2; allowed: 1 or less"),
    "iou of zero": ({"stitch.iou": 0.0}, "stitch.iou: 0.0; allowed: more than 0"),
    "unknown labels": (
        {"output.labels": ["tiff"]},
        r"output.labels\[0\]: 'tiff'; .*'zarr', 'cog' or 'ome-tiff'",
    ),
    "unknown table": ({"output.table": "csv"}, "output.table: 'csv'; .*'parquet'"),
    "picture by yes": ({"output.picture": "yes please"}, "output.picture: 'yes please'; "),
    "small dtype": ({"output.dtype": "uint8"}, "output.dtype: 'uint8'; .*'uint32' or 'uint64'"),
    "path that is a number": ({"output.path": 5}, "output.path: 5; "),
    "no kind": (
        {"segmenters.fields": {"sigma": 1}},
        (
            "segmenters.fields.kind is missing; allowed: blobs, cellpose, edges, .*kmeans, "
            ".*threshold, .*watershed"
        ),
    ),
    "unknown kind": (
        {"segmenters.fields.kind": "watersheds"},
        "segmenters.fields.kind: there is no kind 'watersheds'; .*did you mean 'watershed'",
    ),
    "unknown option": (
        {"segmenters.fields.sgima": 1},
        "segmenters.fields.sgima: there is no such option; .*did you mean 'sigma'",
    ),
    "option of a wrong type": (
        {"segmenters.fields.sigma": "two"},
        "segmenters.fields.sigma: 'two'; allowed: a number",
    ),
    "option that is a list": (
        {"segmenters.fields.min_area": [1]},
        r"segmenters.fields.min_area: \[1\]; allowed: a whole number",
    ),
    "option out of range": (
        {"segmenters.fields.sigma": -1},
        "segmenters.fields.sigma: -1.0; allowed: 0 to 1000 pixels",
    ),
    "index of one": (
        {"segmenters.water.index": [2]},
        (
            r"segmenters.water.index: \[2\]; allowed: \[a whole number or text, a whole number or "
            r"text\] or nothing"
        ),
    ),
    "index and weights": (
        {"segmenters.water.weights": [1.0]},
        "segmenters.water: index and weights are both given",
    ),
    "interval upside down": (
        {"segmenters.water": {"kind": "threshold", "interval": [5, 2]}},
        r"interval: \(5.0, 2.0\); allowed: two numbers, the lower first",
    ),
    "no segmenter": ({"segmenters": {}}, "segmenters: none given"),
    "a segmenter called skip": (
        {"segmenters.skip": {"kind": "threshold"}},
        "segmenters.skip: this name means that a tile is left out",
    ),
    "a segmenter that is a number": (
        {"segmenters.fields": 3},
        "segmenters.fields: 3; allowed: a kind with its options",
    ),
    "no route": ({"route": []}, "route: missing; with several segmenters"),
    "a route to nobody": (
        {"route": [{"use": "watter"}]},
        r"route\[0\].use: 'watter'; allowed: fields, skip, water; did you mean 'water'",
    ),
    "a route's unknown key": (
        {"route": [{"use": "water", "wen": {}}]},
        r"route\[0\].wen: there is no such key; allowed: use, when",
    ),
    "an unknown trait": (
        {"route": [{"use": "water", "when": {"edgse": {"min": 1}}}]},
        r"route\[0\].when.edgse: there is no such trait; .*did you mean 'edges'",
    ),
    "a range without ends": (
        {"route": [{"use": "water", "when": {"edges": 0.2}}]},
        r"route\[0\].when.edges: 0.2; allowed: {min: number}",
    ),
    "a range of words": (
        {"route": [{"use": "water", "when": {"edges": {"min": "low"}}}]},
        r"route\[0\].when.edges: .*allowed: {min: number}",
    ),
    "a range's unknown end": (
        {"route": [{"use": "water", "when": {"edges": {"mix": 1}}}]},
        r"route\[0\].when.edges.mix: there is no such key; allowed: max, min",
    ),
    "a rule that is a number": ({"route": [7]}, r"route\[0\]: 7; allowed: a rule such as"),
    "a key below a value": (
        {"stitch.iou.least": 1},
        "stitch.iou.least: iou is 0.5, which has no keys of its own",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, file):
    """A mistake is answered with the key's path, the value, what is allowed and the nearest
    spelling.
    """
    changes, message = MISTAKES[mistake]
    with pytest.raises(JobError, match=message):
        from_yaml(file, changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "- a\n- b",
            "holds a list, not the keys of a job; allowed: layers, on_bad_tile, output, ",
            id="a list",
        ),
        pytest.param("", "holds nothing, not the keys of a job", id="nothing"),
        pytest.param("a: {", "is no YAML: ", id="no YAML"),
        pytest.param(
            "source: !!python/object/apply:os.system ['true']",
            "is no YAML: could not determine a constructor",
            id="code",
        ),
        pytest.param(
            "segmenters: {a: {kind: threshold}}\noutput: {path: x}",
            "source is missing",
            id="no source",
        ),
        pytest.param(
            "source: a.tif\nsegmenters: {a: {kind: threshold}}", "output is missing", id="no output"
        ),
        pytest.param(
            "source: a.tif\nsegmenters: {a: {kind: threshold}}\noutput: {}",
            "output.path is missing",
            id="no path",
        ),
    ],
)
def test_files_that_are_no_jobs(text, message, tmp_path):
    """A file that is no job is refused with its name, and YAML cannot run code."""
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(JobError, match=message):
        from_yaml(path)


def test_all_mistakes_are_told_at_once(file):
    """Several mistakes are told in one message, a line each."""
    with pytest.raises(JobError) as fault:
        from_yaml(file, {"tiles.size": 0, "output.table": "csv"})
    assert str(fault.value).splitlines() == [
        "tiles.size: 0; allowed: 1 or more, or a list, such as [a, b], or 'auto'",
        "output.table: 'csv'; allowed: 'parquet'",
    ]


def test_any_callable_is_a_segmenter():
    """From Python a function needs no registration; what is no callable, or states what cannot be,
    is refused.
    """

    def mine(block):
        return np.ones(block.shape[1:], np.int32)

    assert (
        Job(source="a.tif", segmenters={"mine": mine}, output={"path": "out"}).segmenters["mine"]
        is mine
    )
    mine.reach = -1
    with pytest.raises(JobError, match=r"mine.reach: -1; allowed: a number of pixels, 0 or more"):
        Job(source="a.tif", segmenters={"mine": mine}, output={"path": "out"})
