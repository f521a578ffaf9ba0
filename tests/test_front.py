"""The front of the package: Python and the command line give the same, and ``engine=`` takes what
Dask has.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from scipy import ndimage
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.cli.console import options_of
from pipeline.errors import ClusterError, JobError, OutputError, TilesError
from pipeline.execution.result import Event
from pipeline.jobs import plugins
from pipeline.jobs.job import Output, Stitch, Tiles
from tests.faults.staging import blobs, products, write

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = ("run", "segment", "plan", "info", "verify", "evaluate", "train", "open_result")


def command(*arguments: object, code: int = 0) -> str:
    """What a command prints."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("image") / "image.tif", blobs())


@pytest.fixture(scope="module")
def result(image, tmp_path_factory) -> pipeline.Result:
    """A complete result of a threshold."""
    return pipeline.segment(
        image,
        {"kind": "threshold", "value": 100},
        tmp_path_factory.mktemp("result") / "out",
        tile=32,
        engine=pipeline.local(),
    )


@pytest.fixture
def job(image, tmp_path) -> Path:
    """A job file."""
    parts = {
        "source": {"path": str(image)},
        "tiles": {"size": 32},
        "segmenters": {"land": {"kind": "threshold", "value": 100}},
        "output": {"path": str(tmp_path / "out")},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(parts))
    return path


def test_run(job, tmp_path):
    """`run` makes of a job file, of its mapping and of a Job what the command makes of it."""
    command("run", job, "--set", f"output.path={tmp_path / 'cli'}", "--workers", 0)
    expected = products(tmp_path / "cli")
    changed = {"output.path": str(tmp_path / "file")}
    pipeline.run(job, pipeline.local(), changes=changed)
    parts = yaml.safe_load(job.read_text())
    pipeline.run({**parts, "output": {"path": str(tmp_path / "mapping")}}, pipeline.local())
    pipeline.run(pipeline.Job(**parts), pipeline.local())
    for name in ("file", "mapping", "out"):
        assert products(tmp_path / name) == expected
    with pytest.raises(JobError, match="changes: given with a job that is no file"):
        pipeline.run(parts, pipeline.local(), changes={"tiles.size": 16})
    with pytest.raises(JobError, match="job: 3; allowed: a Job, a mapping of its keys, or a job f"):
        pipeline.run(3, pipeline.local())


def test_segment(image, tmp_path):
    """`segment` makes what the command makes of the same options, of which there are no others."""
    options = ("--option", "value=100", "--option", "sigma=1", "--source", "bands=[1]")
    more = ("--tile", 32, "--halo", 8, "--cog", "--picture", "--workers", 0)
    command("segment", image, tmp_path / "cli", "--with", "threshold", *options, *more)
    pipeline.segment(
        image,
        {"kind": "threshold", "value": 100, "sigma": 1},
        tmp_path / "python",
        bands=[1],
        tile=32,
        halo=8,
        labels=["zarr", "cog"],
        picture=True,
        engine=pipeline.local(),
    )
    assert products(tmp_path / "python") == products(tmp_path / "cli")


def test_a_result_that_is_complete_is_taken(image, tmp_path):
    """The same call again starts no engine; the command says that it was complete already."""

    def never():
        raise AssertionError

    out = tmp_path / "out"
    first = pipeline.segment(image, "threshold", out, engine=pipeline.local)
    assert pipeline.segment(image, "threshold", out, engine=never) == first
    again = ("segment", image, out, "--with", "threshold", "--workers", 0)
    assert command(*again).startswith(f"{out}: complete already\n")
    assert command(*again, "--fresh").startswith(f"{out}: complete\n")


def test_defaults_are_the_jobs():
    """An argument of `segment` that is not given is as a job has it that does not name the key."""
    given = inspect.signature(pipeline.segment).parameters
    renamed = {"tile": "size"}
    for part in (Tiles, Stitch, Output):
        for key, field in part.model_fields.items():
            name = next((new for new, old in renamed.items() if old == key), key)
            if name == "path":
                continue
            default = field.get_default()
            ours = given[name].default
            assert (list(ours) if isinstance(ours, tuple) else ours or default) == default, name


def test_plan(job, tmp_path):
    """`plan` has the numbers that the command prints, prints as it does, says why `run` would
    refuse, and does nothing.
    """
    planned = pipeline.plan(job, pipeline.local())
    printed = command("plan", job, "--workers", 0, "--json")
    memory = re.compile(r'"bytes_allowed": \d+|"memory": \d+')
    assert memory.sub("", planned.json()) == memory.sub("", printed.rstrip("\n"))
    assert yaml.safe_load(str(planned))["tiles"] == json.loads(printed)["tiles"]
    assert yaml.safe_load(command("plan", job, "--workers", 0))["state"] == "new"
    assert (planned["tiles"]["number"], planned.refused) == (4, None)
    assert "<pre>" in planned._repr_html_()
    assert not (tmp_path / "out").exists()
    planned.picture(tmp_path / "python.png")
    command("plan", job, "--workers", 0, "--picture", tmp_path / "cli.png")
    assert (tmp_path / "python.png").read_bytes() == (tmp_path / "cli.png").read_bytes()
    pipeline.run(job, pipeline.local())
    assert pipeline.plan(job, pipeline.local())["state"] == "complete"
    other = pipeline.plan(job, pipeline.local(), changes={"segmenters.land.value": 9})
    assert isinstance(other.refused, pipeline.ResumeError | pipeline.OutputError)
    with pytest.raises(JobError, match="sample: -1; allowed: a number of tiles, 0 or more"):
        pipeline.plan(job, pipeline.local(), sample=-1)


def test_info(image):
    """`info` has the numbers that the command prints, prints as it does, and takes arrays."""
    facts = pipeline.info(image)
    assert json.loads(facts.json()) == json.loads(command("info", image, "--json"))
    assert f"{facts}\n\n" == command("info", image)
    assert pipeline.info({"path": image, "bands": [1]}) == pipeline.info(image, bands=[1])
    array = pipeline.info(blobs())
    assert (array["shape"], array["dtype"], array["image"]) == ((64, 64), "uint8", "numpy.ndarray")
    with pytest.raises(JobError, match="image: the mapping has no path"):
        pipeline.info({"bands": [1]})


def test_verify(result):
    """`verify` prints what the command prints, of a result and of its folder."""
    printed = command("verify", result.path, "--tiles", 2)
    assert f"{pipeline.verify(result, parts=2)}\n" == printed
    found = pipeline.verify(result.path, parts=2)
    assert (f"{found}\n", found.parts, found.wrong) == (printed, 2, [])
    with pytest.raises(JobError, match="parts: 0; allowed: a whole number, 1 or more"):
        pipeline.verify(result, parts=0)


def test_evaluate(result, image, tmp_path):
    """`evaluate` has the measures that the command writes, prints as it does, draws the same
    picture, and takes results, paths and arrays.
    """
    truth = write(tmp_path / "truth.tif", ndimage.label(blobs() > 120)[0].astype(np.uint16))
    files = ("--json", tmp_path / "a.json", "--picture", tmp_path / "a.png")
    printed = command("evaluate", result.path, truth, "--tolerance", 1, *files)
    found = pipeline.evaluate(result, truth, tolerance=1, picture=tmp_path / "b.png")
    assert f"{found}\n" == printed
    measures = json.loads((tmp_path / "a.json").read_text())
    assert json.loads(json.dumps(found.measures)) == measures
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert 0 < found.measures["f1"] < 1
    arrays = pipeline.evaluate(
        ndimage.label(blobs() > 100)[0], ndimage.label(blobs() > 120)[0], tolerance=1
    )
    assert arrays.measures == found.measures
    assert "overlap" not in repr(found)
    with pytest.raises(JobError, match="labels: an array, with kind 'panoptic'; allowed: the fol"):
        pipeline.evaluate(blobs(), truth, kind="panoptic")


def test_a_result(result):
    """A result tells whether it is complete, its certificates and its files; opened again it is the
    same, and it shows itself in a line.
    """
    number = ndimage.label(blobs() > 100)[1]
    opened = pipeline.open_result(Path(result.path))
    assert opened == result
    assert opened.complete
    assert opened.certificates == {"proved": number, "agreed": 0, "disputed": 0}
    made = ("labels.zarr", "objects.parquet", "run.json")
    assert opened.files == {name: str(Path(result.path, name)) for name in made}
    assert repr(opened) == (
        f"<Result {result.path}: {number} objects in 64 x 64 pixels: {number} proved, 0 agreed, "
        "0 disputed>"
    )


def test_a_run_that_is_not_complete(tmp_path):
    """Of a run whose tiles failed a result says that it is not complete, in Python and in Jupyter;
    what was not published says so.
    """

    def failing(block):
        if block.max() == 255:
            message = "too bright"
            raise ValueError(message)
        return ndimage.label(block[0] > 100)[0]

    out = tmp_path / "out"
    image = blobs()
    image[60, 60] = 255
    with pytest.raises(TilesError):
        pipeline.segment(image, failing, out, tile=16, halo=4, max_halo=4, engine=pipeline.local())
    found = pipeline.open_result(out)
    assert not found.complete
    assert list(found.files) == ["run.json"]
    for name in ("labels", "objects", "certificates"):
        with pytest.raises(OutputError, match=rf"holds no {name}.*its run is not complete"):
            getattr(found, name)
    assert "its run is not complete" in repr(found)
    assert "its run is not complete" in found._repr_html_()


NO_RESULT = {
    "no folder": (lambda out: None, "there is no run.json; there is no such folder"),
    "empty folder": (lambda out: out.mkdir(), r"there is no run\.json$"),
    "file": (lambda out: out.write_text(""), "it is a file, and a result is a folder"),
    "begun": (lambda out: (out / ".tilewise").mkdir(parents=True), "a run was begun there: the sa"),
    "damaged": (
        lambda out: (out.mkdir(), (out / "run.json").write_text("{")),
        r"run\.json is damaged, or not of tilewise: it is no JSON",
    ),
    "another program's": (
        lambda out: (out.mkdir(), (out / "run.json").write_text("{}")),
        r"run\.json is damaged, or not of tilewise: complete is missing in it",
    ),
}


@pytest.mark.parametrize("what", NO_RESULT)
def test_no_result(what, tmp_path):
    """To open what is no result is an OutputError that says what lies there; to show it is none."""
    make, message = NO_RESULT[what]
    make(tmp_path / "out")
    with pytest.raises(OutputError, match=message):
        pipeline.open_result(tmp_path / "out")
    shown = pipeline.Result(str(tmp_path / "out"))
    assert "no result: " in repr(shown)
    assert "no result: " in shown._repr_html_()


WRONG_NAMES = {
    "misspelt": ({"halos": 3}, r"segment\(\) has no argument 'halos'; did you mean 'halo'\?"),
    "a segmenter's": (
        {"min_area": 3},
        r"segment\(\) has no argument 'min_area'; min_area is an option of threshold$",
    ),
    "a reader's": ({"level": 3}, "'level'; .*level is an option of the source"),
    "nobody's": ({"zzz": 3}, r"segment\(\) has no argument 'zzz'$"),
}


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_wrong_names(name, image, tmp_path):
    """An argument that `segment` has not is a TypeError, which says where it belongs."""
    options, message = WRONG_NAMES[name]
    with pytest.raises(TypeError, match=message):
        pipeline.segment(image, "threshold", tmp_path / "out", **options)


ON_DASK = """
import sys, numpy as np, pipeline
from distributed import Client, LocalCluster
if __name__ == "__main__":
    image, folder = sys.argv[1:]
    one = {"kind": "threshold", "value": 100}
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            for name, engine in (
                ("client", client), ("cluster", cluster), ("address", cluster.scheduler_address)
            ):
                done = pipeline.segment(image, one, f"{folder}/{name}", tile=32, engine=engine)
                number = done.record["plan"]["tiles"]["number"]
                print(name, number, client.submit(len, name).result())
            assert Client.current() is client
        print(cluster.status.name)
    for closed in (client, cluster):
        try:
            pipeline.segment(image, one, f"{folder}/closed", engine=closed)
        except pipeline.ClusterError as error:
            print(error)
"""


def test_engines_of_dask(image, result, tmp_path):
    """A client, a cluster and an address give what this process gives, and stay open; what is
    closed is refused in plain words.
    """
    (tmp_path / "script.py").write_text(ON_DASK)
    done = subprocess.run(
        [sys.executable, "script.py", str(image), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "client 4 6",
        "cluster 4 7",
        "address 4 7",
        "running",
        "engine: the client is closed; give one that is open",
        "engine: the cluster is closed; give one that is running",
    ]
    expected = products(Path(result.path))
    for name in ("client", "cluster", "address"):
        assert products(tmp_path / name) == expected


class Asynchronous:
    """A cluster within an event loop."""

    asynchronous = True
    scheduler_address = "tcp://127.0.0.1:9"


NO_ENGINE = {
    "number": (4, JobError, r"engine: 4; allowed: .*; did you mean pipeline\.cluster\(4\)\?"),
    "word": ("local", JobError, r"engine: 'local'; .*; did you mean pipeline\.local\(\)\?"),
    "class": (Asynchronous, JobError, "give an instance, not the class"),
    "asynchronous": (Asynchronous(), ClusterError, "the cluster is asynchronous; give one made wi"),
    "anything else": ([1], JobError, r"engine: \[1\]; allowed: an engine of pipeline\.local, "),
}


@pytest.mark.parametrize("name", NO_ENGINE)
@pytest.mark.parametrize("function", ["run", "plan"])
def test_no_engine(name, function, image, tmp_path):
    """What is no engine, and nothing that one is made of, is refused before any work."""
    engine, kind, message = NO_ENGINE[name]
    job = {
        "source": str(image),
        "segmenters": {"a": "threshold"},
        "output": {"path": str(tmp_path / "out")},
    }
    begin = getattr(pipeline, function)
    with pytest.raises(kind, match=message):
        begin(job, engine)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [*plugins.kinds(), *plugins.kinds(plugins.STEPS)])
def test_methods_of_a_kind(kind):
    """`methods KIND` names every option with its type and default, and says what it means."""
    text = command("methods", kind)
    group = plugins.SEGMENTERS if kind in plugins.kinds() else plugins.STEPS
    first = inspect.getdoc(plugins.load(kind, group=group)).splitlines()[0].replace("``", "")
    assert text.splitlines()[2] == first
    assert ">>>" not in text
    for option in plugins.described_options(kind, group):
        default = "required" if option.default == "required" else f"default {option.default}"
        head, means = re.search(
            rf"^  {option.name}: (.*)\n((?:    .*\n)*)", text, re.MULTILINE
        ).groups()
        assert head == f"{option.type} ({default})"
        meaning = " ".join(option.meaning.replace("``", "").split())
        assert " ".join(means.split()).startswith(meaning)
        assert all(value in means for value in option.allowed)


def test_methods_of_no_kind():
    """`methods` of a kind that there is not names those that there are."""
    done = CliRunner().invoke(app, ["methods", "treshold"])
    assert done.exit_code == 2
    assert "there is no kind 'treshold'; allowed: background, blobs, " in done.stderr
    assert done.stderr.endswith("did you mean 'threshold'?\n")


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Path:
    """An image of three bands with names, of values up to 250."""
    path = tmp_path_factory.mktemp("named") / "named.tif"
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    shape = {"count": 3, "height": 64, "width": 64, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(np.stack([blobs(seed=seed) for seed in range(3)]))
        file.descriptions = ("red", "nir", "near infrared")
    return path


BANDS_BY_NAME = {
    "band": (["band=nir"], {"band": 2}),
    "band of two words": (["band=near infrared"], {"band": 3}),
    "index": (["index=nir,red"], {"index": [2, 1]}),
    "index in brackets": (["index=[near infrared, red]"], {"index": [3, 1]}),
    "weights": (["weights.red=0.5", "weights.nir=1.5"], {"weights": [0.5, 1.5, 0]}),
    "weights as a mapping": (["weights={red: 0.5, nir: 1.5}"], {"weights": [0.5, 1.5, 0]}),
    "weights in order": (["weights=0.5,1.5,0"], {"weights": [0.5, 1.5, 0]}),
}


@pytest.mark.parametrize("name", BANDS_BY_NAME)
def test_bands_by_name_on_the_command_line(name, named, tmp_path):
    """Options name bands on the command line as they do in a job: what is drawn is what the bands
    by number draw.
    """
    written, meant = BANDS_BY_NAME[name]
    options = [word for text in written for word in ("--set", text)]
    method = ("--with", "threshold", "--workers", 0)
    command("segment", named, tmp_path / "cli", *method, *options)
    ours = pipeline.segment(
        named, {"kind": "threshold", **meant}, tmp_path / "python", engine=pipeline.local()
    )
    np.testing.assert_array_equal(pipeline.open_result(tmp_path / "cli").labels, ours.labels)
    assert ours.labels.max() > 0


def test_bands_of_the_source_on_the_command_line(named):
    """`--source bands=nir,red` takes these bands, in this order; a path with a comma stays one."""
    facts = json.loads(command("info", named, "--source", "bands=nir,red", "--json"))
    assert facts["bands"] == ["nir", "red"]
    assert options_of(["model=a,b.onnx", "x.y=1, 2"], "--option") == {
        "model": "a,b.onnx",
        "x": {"y": [1, 2]},
    }


def test_hematoxylin():
    """The American spelling of the stain is the same method with the same record, in every kind
    that looks at stains.
    """
    needed = {"region_growing": {"number": 2}, "quasi_flat": {"tolerance": 3}}
    tried = 0
    for kind in plugins.kinds():
        options = plugins.options(plugins.load(kind))
        one = "channel" in options
        if one or "channels" in options:
            tried += 1

            def built(name, kind=kind, one=one):
                stain = {"channel": name} if one else {"channels": ["eosin", name]}
                return plugins.build({"kind": kind, **needed.get(kind, {}), **stain}, "a")

            assert built("hematoxylin") == built("haematoxylin")
            assert plugins.describe(built("hematoxylin")) == plugins.describe(built("haematoxylin"))
            with pytest.raises(JobError, match="did you mean 'haematoxylin'"):
                built("haematoxilin")
    assert tried >= 9


MISPLACED = {
    "of a segmenter, without its section": (
        "land.min_area=3",
        "land: there is no such key; .*; did you mean segmenters.land.min_area?",
    ),
    "of a segmenter, without its name": (
        "segmenters.min_area=3",
        "segmenters.min_area: 3; .*; an option stands below .*: segmenters.NAME.min_area",
    ),
    **{
        f"of a segmenter, in {section}": (
            f"{section}.min_area=3",
            f"{section}.min_area: .*; min_area is an option of threshold",
        )
        for section in ("output", "tiles", "stitch", "source")
    },
    "of a segmenter, in the job": (
        "min_area=3",
        "min_area: .*; min_area is an option of threshold",
    ),
    "of a segmenter, in a step": (
        "steps=[{kind: smooth, min_area: 3}]",
        r"steps\[0\].min_area: .*; min_area is an option of .*threshold",
    ),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_options_elsewhere(name, job):
    """An option of a segmenter that `--set` puts elsewhere is answered with where it belongs."""
    given, message = MISPLACED[name]
    done = CliRunner().invoke(app, ["run", str(job), "--workers", "0", "--set", given])
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr


def test_progress(image, tmp_path):
    """`watch` is told of progress in events."""
    told: list[Event] = []
    pipeline.segment(
        image, "threshold", tmp_path / "out", tile=32, engine=pipeline.local(), watch=told.append
    )
    drawn = [(event.done, event.total) for event in told if event.stage == "segment"]
    assert drawn == [(number, 4) for number in range(1, 5)]


def test_names():
    """Every public name is there, in the list for type checkers too, from the same home."""
    tree = ast.parse(Path(pipeline.__file__).read_text())
    listed = {
        alias.asname: node.module
        for part in tree.body
        if isinstance(part, ast.If)
        for node in part.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert listed == pipeline._HOMES
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    assert set(FUNCTIONS) < set(dir(pipeline))
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'segmnet'"):
        pipeline.segmnet  # noqa: B018


@pytest.mark.parametrize("name", [*FUNCTIONS, "local", "cluster", "on"])
def test_every_argument_is_described(name):
    """A function of the front names its arguments, each with a type, and says what each is, what is
    returned and what is raised.
    """
    function = getattr(pipeline, name)
    text = inspect.getdoc(function)
    for argument in inspect.signature(function).parameters.values():
        assert argument.kind not in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL)
        assert argument.annotation is not argument.empty
        assert re.search(rf"^{argument.name}\n    \S", text, re.MULTILINE), argument.name
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n---" in text, section
