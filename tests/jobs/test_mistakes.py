"""What people get wrong in job files and on the command line, and what they are told: enough to
know what to do.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from tests.faults.staging import blobs, write

SECTIONS = {
    "source": "source: {path: scene.tif}",
    "tiles": "tiles: {size: 32}",
    "segmenters": "segmenters: {land: {kind: threshold}}",
    "output": "output: {path: out}",
}
"""A job that runs."""

TWO = "segmenters: {a: {kind: threshold, value: 9}, b: {kind: threshold, value: 99}}\n"

SPELT = {
    "a section": (
        "tyles: {size: 32}",
        (
            "tyles: there is no such key; allowed: layers, on_bad_tile, output, route, segmenters, "
            "source, steps, stitch, tiles; did you mean 'tiles'?"
        ),
    ),
    "a section in capitals": (
        "Route: [land]",
        "Route: there is no such key; …; did you mean 'route'?",
    ),
    "a key": (
        "tiles: {sise: 32}",
        "tiles.sise: there is no such key; allowed: halo, max_halo, size; did you mean 'size'?",
    ),
    "a key that must be there": (
        "output: {pth: out}",
        "output.path is missing\noutput.pth: there is no such key; …; did you mean 'path'?",
    ),
    "the source's path": (
        "source: {paht: scene.tif}",
        "source.path is missing; it names the image; was it meant by 'paht'?",
    ),
    "a kind": (
        "segmenters: {land: {kind: treshold}}",
        "segmenters.land.kind: there is no kind 'treshold'; …; did you mean 'threshold'?",
    ),
    "the key kind": (
        "segmenters: {land: {knid: threshold}}",
        "segmenters.land.kind is missing; allowed: blobs, …; was it meant by 'knid'?",
    ),
    "an option": (
        "segmenters: {land: {kind: threshold, vlaue: 3}}",
        "segmenters.land.vlaue: there is no such option; …; did you mean 'value'?",
    ),
    "an option's word": (
        "segmenters: {land: {kind: threshold, method: otzu}}",
        (
            "segmenters.land: the threshold method 'otzu' is not known; allowed: isodata, …; did "
            "you "
            "mean 'otsu'?"
        ),
    ),
    "a word in a list": (
        "segmenters: {land: {kind: kmeans, texture: [devation]}}",
        (
            "segmenters.land.texture: 'devation'; allowed: deviation, entropy, gabor, mean; did "
            "you "
            "mean 'deviation'?"
        ),
    ),
    "a step's kind": (
        "steps: [{kind: smoth}]",
        "steps[0].kind: there is no kind 'smoth'; allowed: background, …; did you mean 'smooth'?",
    ),
    "a rule's segmenter": (
        "route: [lnad]",
        "route[0].use: 'lnad'; allowed: land, skip; did you mean 'land'?",
    ),
    "a rule's key": (
        "route: [{use: land, wenn: {}}]",
        "route[0].wenn: there is no such key; allowed: use, when; did you mean 'when'?",
    ),
    "a trait": (
        "route: [{use: land, when: {edgse: {min: 1}}}]",
        (
            "route[0].when.edgse: there is no such trait; allowed: edges, entropy, "
            "index_BAND_BAND, "
            "mean, mean_BAND, spread, tissue, valid; did you mean 'edges'?"
        ),
    ),
    "the end of a range": (
        "route: [{use: land, when: {mean: {mni: 1}}}]",
        "route[0].when.mean.mni: there is no such key; allowed: max, min; did you mean 'min'?",
    ),
    "a layer's key": (
        "layers: [{thing: land}]",
        (
            "layers[0].thing: there is no such key; allowed: classes, stuff, things, when; did you "
            "mean 'things'?"
        ),
    ),
    "a layer's segmenter": (
        "layers: [{things: lnad}]",
        "layers[0].things: 'lnad'; allowed: land; did you mean 'land'?",
    ),
    "a layer's trait": (
        "layers: [{things: land, when: {maen: {min: 1}}}]",
        "layers[0].when.maen: there is no such trait; …; did you mean 'mean'?",
    ),
    "a result": (
        "output: {path: out, results: [instances]}",
        (
            "output.results[0]: 'instances'; allowed: 'instance', 'semantic' or 'panoptic'; did "
            "you "
            "mean 'instance'?"
        ),
    ),
    "a legend's key": (
        "output: {path: out, legend: {1: {name: a, color: '#00ff00'}}}",
        (
            "output.legend.1.color: there is no such key; allowed: colour, name; did you mean "
            "'colour'?"
        ),
    ),
}

TYPED = {
    "a number in quotes": (
        'tiles: {size: "512"}',
        (
            "tiles.size: '512'; allowed: a whole number, or a list, such as [a, b], or 'auto'; in "
            "YAML this is text: write 512, without quotes"
        ),
    ),
    "a number without a point": (
        "segmenters: {land: {kind: threshold, value: 1e-3}}",
        (
            "segmenters.land.value: '1e-3'; allowed: a number or nothing; in YAML this is text: "
            "write 0.001, without quotes"
        ),
    ),
    "a very small number without a point": (
        "segmenters: {land: {kind: threshold, value: 1e-7}}",
        (
            "segmenters.land.value: '1e-7'; allowed: a number or nothing; in YAML this is text: "
            "write 1.0e-07, without quotes"
        ),
    ),
    "no number": (
        "segmenters: {land: {kind: threshold, value: .nan}}",
        "segmenters.land.value: nan; allowed: a number or nothing; a finite one",
    ),
    "yes for a number": (
        "stitch: {repair: yes}",
        (
            "stitch.repair: True; allowed: a whole number; YAML reads yes, no, on and off as true "
            "and false, unless quoted"
        ),
    ),
    "off for a word": (
        "segmenters: {land: {kind: threshold, method: off}}",
        (
            "segmenters.land.method: False; allowed: text or nothing; YAML reads yes, no, on and "
            "off "
            "as true and false, unless quoted"
        ),
    ),
    "a name that is on": (
        "segmenters: {on: {kind: threshold}}",
        (
            "a key of segmenters: True; allowed: text; YAML reads yes, no, on and off as true and "
            "false, unless quoted"
        ),
    ),
    "yes in quotes": (
        'output: {path: out, picture: "yes"}',
        "output.picture: 'yes'; allowed: true or false",
    ),
    "half a pixel": (
        "segmenters: {land: {kind: threshold, min_area: 2.5}}",
        "segmenters.land.min_area: 2.5; allowed: a whole number",
    ),
    "a long list for one value": (
        f"segmenters: {{land: {{kind: threshold, sigma: {list(range(999))}}}}}",
        "segmenters.land.sigma: [0, 1, 2, 3, 4, 5, ...]; allowed: a number",
    ),
    "a date": (
        "segmenters: {land: {kind: threshold, value: 2020-01-01}}",
        "segmenters.land.value: datetime.date(2020, 1, 1); allowed: a number or nothing",
    ),
    "a list for one value": (
        "segmenters: {land: {kind: threshold, sigma: [1, 2]}}",
        "segmenters.land.sigma: [1, 2]; allowed: a number",
    ),
    "one value for a list": (
        "output: {path: out, labels: cog}",
        "output.labels: 'cog'; allowed: a list, such as [a, b]",
    ),
    "one value for a pair": (
        "segmenters: {land: {kind: threshold, index: [2]}}",
        (
            "segmenters.land.index: [2]; allowed: [a whole number or text, a whole number or text] "
            "or nothing"
        ),
    ),
    "one rule for a list": (
        "route: {use: land}",
        "route: {'use': 'land'}; allowed: a list, such as [a, b]",
    ),
    "a value for a section": ("tiles: 512", "tiles: 512; allowed: the keys halo, max_halo, size"),
    "a section with nothing in it": (
        "tiles:",
        "tiles: None; allowed: the keys halo, max_halo, size; nothing stands behind the key",
    ),
    "a list of segmenters": (
        "segmenters: [{kind: threshold}]",
        "segmenters: [{'kind': 'threshold'}]; allowed: keys with values, such as {a: b}",
    ),
    "a kind as a key": (
        "segmenters: {land: {threshold: {value: 3}}}",
        "segmenters.land.kind is missing; allowed: blobs, …; write {kind: threshold, …}",
    ),
    "a kind in a list": (
        "segmenters: {land: {kind: [threshold]}}",
        "segmenters.land.kind: there is no kind ['threshold']; …; did you mean 'threshold'?",
    ),
    "an option that is a number": (
        "segmenters: {land: {kind: threshold, 3: 4}}",
        "segmenters.land.3: there is no such option; allowed: band, …",
    ),
    "conditions in a list": (
        "route: [{use: land, when: [mean]}]",
        "route[0].when: ['mean']; allowed: traits with their ranges, such as {valid: {min: 0.5}}",
    ),
    "a range without ends": (
        "route: [{use: land, when: {mean: 3}}]",
        "route[0].when.mean: 3; allowed: {min: number}, {max: number} or both",
    ),
    "an image that is nothing": (
        "source:",
        (
            "source: None; allowed: a path, or {path: …} with the reader's options; nothing stands "
            "behind the key"
        ),
    ),
    "a class that is a word": (
        "output: {path: out, legend: {water: 1}}",
        "a key of output.legend: 'water'; allowed: a whole number",
    ),
    "a colour that is a word": (
        "output: {path: out, legend: {1: {name: a, colour: blue}}}",
        "output.legend.1.colour: 'blue'; allowed: '#0040ff' or the like, in quotes: …",
    ),
    "a colour that is a comment": (
        "output:\n  path: out\n  legend:\n    1: {name: a,\n      colour: #0040ff\n    }",
        (
            "output.legend.1.colour: None; allowed: '#0040ff' or the like, in quotes: without "
            "them, "
            "YAML leaves out what follows #"
        ),
    ),
}

MEANT = {
    "a negative size": ("tiles: {size: [32, -1]}", "tiles.size[1]: -1; allowed: 1 or more"),
    "sizes for another image": (
        "tiles: {size: [8, 8, 8]}",
        "tiles.size: [8, 8, 8]; allowed: one number, or 2 for an image of (64, 64)",
    ),
    "a negative halo": ("tiles: {halo: -1}", "tiles.halo: -1; allowed: 0 or more, or 'auto'"),
    "a reach beyond the tile's": (
        "tiles: {max_halo: 4}\nsegmenters: {land: {kind: threshold, sigma: 9}}",
        (
            "segmenters.land: with the steps before it, it looks 36 pixels far, and a tile may "
            "read "
            "4 beyond its core; allowed: smaller windows, sigmas and radii, or a larger "
            "tiles.max_halo"
        ),
    ),
    "a policy that is none": (
        "on_bad_tile: ignore",
        "on_bad_tile: 'ignore'; allowed: 'fail' or 'skip'",
    ),
    "a share in per cent": ("stitch: {iou: 50}", "stitch.iou: 50; allowed: 1 or less"),
    "percentiles out of order": (
        "steps: [{kind: stretch, low: 99, high: 1}]",
        "steps[0].low, high: 99.0, 1.0; allowed: percentiles from 0 to 100, the lower first",
    ),
    "no cluster": (
        "segmenters: {land: {kind: kmeans, clusters: 0}}",
        "segmenters.land.clusters: 0; allowed: 1 to 254, or 'auto'",
    ),
    "an even window": (
        "segmenters: {land: {kind: threshold, method: sauvola, window: 50}}",
        "segmenters.land.window: 50; allowed: an odd number of pixels, from 3",
    ),
    "a negative area": (
        "segmenters: {land: {kind: threshold, min_area: -5}}",
        "segmenters.land.min_area: -5; allowed: a number of pixels, 0 or more",
    ),
    "a seed outside of the image": (
        "segmenters: {land: {kind: region_growing, seeds: [[100, 3]]}}",
        (
            "segmenters.land.seeds: 1 of 1 lie outside the image, the first at pixel (100, 3); "
            "allowed: 0 up to 64 x 64"
        ),
    ),
    "a band that is not there": (
        "segmenters: {land: {kind: threshold, band: 7}}",
        "segmenters.land: band 7 is asked for, and the image has 1; allowed: 1 to 1",
    ),
    "a step's band that is not there": (
        "steps: [{kind: index, bands: [4, 3]}]",
        "steps[0]: band 4 is asked for, and the image has 1; allowed: 1 to 1",
    ),
    "a trait of a band that is not there": (
        "route: [{use: land, when: {mean_2: {min: 1}}}]",
        "route[0].when.mean_2: the image has 1 band; allowed: 1 to 1",
    ),
    "bands counted from 0": (
        "route: [{use: land, when: {mean_0: {min: 1}}}]",
        "route[0].when.mean_0: there is no such trait; …",
    ),
    "two segmenters without a route": (
        TWO,
        (
            "route: missing; with several segmenters (a, b) it says which tile goes where, or "
            "layers "
            "do"
        ),
    ),
    "rules after one that always holds": (
        f"{TWO}route: [a, {{use: b, when: {{mean: {{min: 3}}}}}}]",
        (
            "route[1]: no tile comes to it, since route[0] (a) holds for all; allowed: `when` in "
            "route[0], or what holds for all as the last"
        ),
    ),
    "a rule without a segmenter": (
        "route: [{when: {mean: {min: 3}}}]",
        "route[0].use is missing; allowed: land, skip",
    ),
    "a range upside down": (
        "route: [{use: land, when: {mean: {min: 5, max: 3}}}]",
        "route[0].when.mean: {min: 5, max: 3}; allowed: two numbers, max no less than min",
    ),
    "a trait in per cent": (
        "route: [{use: land, when: {valid: {min: 50}}}]",
        "route[0].when.valid: 50; allowed: from 0 to 1, the share of pixels that were measured",
    ),
    "a layer of things and of stuff": (
        "layers: [{things: land, stuff: land}]",
        "layers[0].things: 'land', stuff: 'land'; allowed: one of them, a segmenter's name",
    ),
    "layers and a route": (
        "layers: [{things: land}]\nroute: [land]",
        (
            "route: given with layers; allowed: `when` in a layer, which says for which tiles its "
            "segmenter is asked"
        ),
    ),
    "a segmenter in no layer": (
        f"{TWO}layers: [{{things: a}}]",
        "layers: b is in none; allowed: each segmenter in one layer",
    ),
    "panoptic without layers": (
        "output: {path: out, results: [panoptic]}",
        "output.results: panoptic; allowed with layers, …",
    ),
    "no path": ("output: {}", "output.path is missing"),
    "an empty path": ('output: {path: ""}', "output.path: ''; allowed: text that is not empty"),
    "a result in the image": (
        "source: scene.zarr\noutput: {path: scene.zarr/labels}",
        (
            "output.path: 'scene.zarr/labels' lies in the image (scene.zarr); allowed: a folder "
            "outside of it"
        ),
    ),
    "a result in place of the image": (
        "output: {path: ./scene.tif}",
        "output.path: './scene.tif' lies in the image (scene.tif); allowed: a folder outside of it",
    ),
    "a result in place of a mosaic's file": (
        "source: {path: [scene.tif, scene.tif]}\noutput: {path: scene.tif/x}",
        "output.path: 'scene.tif/x' lies in the image (scene.tif); allowed: a folder outside of it",
    ),
    "scratch in place of a file": (
        "output: {path: out, scratch: job.yaml}",
        "output.scratch: {cwd}/job.yaml/… cannot be written: …; choose another folder",
    ),
    "a place where nothing is written": (
        "output: {path: /proc/out}",
        "/proc/out cannot be written: …; choose another output",
    ),
    "a result in place of a file": (
        "output: {path: job.yaml}",
        "{cwd}/job.yaml cannot be written: Not a directory; choose another output",
    ),
    "an image that is not there": (
        "source: {path: nowhere.tif}",
        "there is no image at {cwd}/nowhere.tif",
    ),
}

FILES = {
    "nothing": (
        b"",
        (
            "the job file job.yaml holds nothing, not the keys of a job; allowed: layers, "
            "on_bad_tile, output, …"
        ),
    ),
    "a list": (b"- a\n- b\n", "the job file job.yaml holds a list, not the keys of a job; …"),
    "a sentence": (
        b"segment scene.tif\n",
        "the job file job.yaml holds text, not the keys of a job; …",
    ),
    "a network's card": (
        b"kind: unet\ntrain: {steps: 3}\n",
        (
            "the job file job.yaml is a card by which a network is trained, by: tilewise train "
            "job.yaml"
        ),
    ),
    "another encoding": (
        "source: é\n".encode("latin-1"),
        "the job file job.yaml is no text: byte 8 is no UTF-8; allowed: YAML, saved as UTF-8",
    ),
    "a tab": (
        b"tiles:\n\tsize: 32\n",
        (
            "the job file job.yaml is no YAML: while scanning for the next token, found character "
            "'\\t' that cannot start any token in line 2, column 1; indent with spaces"
        ),
    ),
    "a brace too few": (
        b"tiles: {size: 32\nsource: a\n",
        (
            "the job file job.yaml is no YAML: while parsing a flow mapping that begins in line 1, "
            "expected ',' or '}', but got ':' in line 2, column 7"
        ),
    ),
    "a day that there is not": (
        b"source: 2020-13-45\n",
        "the job file job.yaml is no YAML: month must be in 1..12",
    ),
    "a depth without end": (
        b"a: " + b"[" * 5000,
        "the job file job.yaml is no YAML that can be read: it is nested too deeply",
    ),
    "a section given twice": (
        b"tiles: {size: 32}\nsource: a\ntiles: {halo: 3}\n",
        "the job file job.yaml: tiles is given twice, in lines 1 and 3; allowed: once",
    ),
    "a segmenter given twice": (
        b"segmenters:\n  a: {kind: threshold}\n  a: {kind: blobs}\n",
        "the job file job.yaml: segmenters.a is given twice, in lines 2 and 3; allowed: once",
    ),
    "a rule's key given twice": (
        b"route: [a, {use: a, use: b}]\n",
        "the job file job.yaml: route[1].use is given twice, in line 1; allowed: once",
    ),
}

COMMANDS = {
    "a folder": ("run . --workers 0", "the job file {cwd} cannot be read: Is a directory"),
    "no file": (
        "run job.yml --workers 0",
        "the job file {cwd}/job.yml cannot be read: No such file or directory",
    ),
    "a key that there is not": (
        "run job.yaml --workers 0 --set tiles.sise=3",
        "tiles.sise: there is no such key; allowed: halo, max_halo, size; did you mean 'size'?",
    ),
    "a segmenter that there is not": (
        "run job.yaml --workers 0 --set segmenters.lnad.value=3",
        "segmenters.lnad.kind is missing; allowed: blobs, …; or did you mean the segmenter 'land'?",
    ),
    "a key below a value": (
        "run job.yaml --workers 0 --set tiles.size.rows=3",
        "tiles.size.rows: size is 32, which has no keys of its own",
    ),
    "no value": (
        "run job.yaml --workers 0 --set tiles.size",
        "--set 'tiles.size'; allowed: key=value",
    ),
    "no key": ("run job.yaml --workers 0 --set =3", "--set '=3'; allowed: key=value"),
    "dots too many": (
        "run job.yaml --workers 0 --set tiles..size=3",
        "'tiles..size' is no key's path; allowed: names with dots between them, such as tiles.size",
    ),
    "a value given twice": (
        "run job.yaml --workers 0 --set 'tiles={size: 1, size: 2}'",
        (
            "--set 'tiles={size: 1, size: 2}': the value: size is given twice, in line 1; allowed: "
            "once"
        ),
    ),
    "two places": (
        "run job.yaml --workers 2 --scheduler tcp://127.0.0.1:9",
        "--scheduler and --workers are both given; allowed: one of them",
    ),
    "more GPUs than processes": (
        "run job.yaml --workers 2 --gpus 3",
        "--gpus 3 with --workers 2; allowed: one for each process at most",
    ),
    "a picture in place of a folder": (
        "plan job.yaml --workers 0 --picture scene.tif/plan.png",
        "scene.tif/plan.png cannot be written: …; choose another file",
    ),
}


@pytest.fixture
def told(tmp_path, monkeypatch) -> Iterator:
    """Make a mistake in a folder with an image and a job file; what the command says, having
    written nothing.
    """
    write(tmp_path / "scene.tif", blobs())
    (tmp_path / "scene.zarr").mkdir()
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)

    def tell(file: bytes, command: str) -> str:
        (tmp_path / "job.yaml").write_bytes(file)
        there = sorted(tmp_path.rglob("*"))
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == 2, done
        assert isinstance(done.exception, SystemExit)
        assert sorted(tmp_path.rglob("*")) == there
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("tilewise: ")
        return done.stderr.removeprefix("tilewise: ").removesuffix("\n")

    yield tell
    signal.signal(
        signal.SIGINT, before
    )  # a command that ends with an error leaves Ctrl-C without effect


def job(written: str) -> bytes:
    """The job that runs, with a mistake in place of the sections that it begins with."""
    own = set(re.findall(r"^(\w+):", written, re.MULTILINE))
    return "\n".join(
        [*(text for name, text in SECTIONS.items() if name not in own), written, ""]
    ).encode()


def agree(said: str, message: str) -> None:
    """The message is what was said, "…" standing for anything, in a few lines."""
    pattern = ".*".join(map(re.escape, message.replace("{cwd}", str(Path.cwd())).split("…")))
    assert re.fullmatch(pattern, said), said
    assert len(said.splitlines()) <= 3


@pytest.mark.parametrize("mistake", SPELT)
def test_misspelt(mistake, told):
    """What is misspelt is answered with its path, what is allowed and the nearest spelling."""
    written, message = SPELT[mistake]
    agree(told(job(written), "run job.yaml --workers 0"), message)


@pytest.mark.parametrize("mistake", TYPED)
def test_of_a_wrong_type(mistake, told):
    """A value of a wrong type is answered with its path, the value and what is allowed; and with
    how YAML came to read it so.
    """
    written, message = TYPED[mistake]
    agree(told(job(written), "run job.yaml --workers 0"), message)


@pytest.mark.parametrize("mistake", MEANT)
def test_what_cannot_be_meant(mistake, told):
    """What is out of range, contradicts itself or does not fit the image is refused before anything
    is written, with what is allowed.
    """
    written, message = MEANT[mistake]
    agree(told(job(written), "run job.yaml --workers 0"), message)


@pytest.mark.parametrize("mistake", FILES)
def test_files_that_are_no_jobs(mistake, told):
    """A file that holds no job, or something twice, is refused with its name, what it is, and
    where.
    """
    content, message = FILES[mistake]
    agree(told(content, "run job.yaml --workers 0"), message)


@pytest.mark.parametrize("mistake", COMMANDS)
def test_commands(mistake, told):
    """A mistake on the command line is answered like one in a file; of a plan, nothing but its text
    is left.
    """
    command, message = COMMANDS[mistake]
    agree(told(job(""), command), message)


def test_the_job_runs(tmp_path, monkeypatch):
    """Without a mistake the job runs: what the tables show is refused for what they say. So does
    one with an anchor that is merged in.
    """
    write(tmp_path / "scene.tif", blobs())
    monkeypatch.chdir(tmp_path)
    shared = (
        "segmenters:\n  dark: &all {kind: threshold, value: 99}\n  light: {<<: *all, value: "
        "9}\nroute: [{use: dark, when: {mean: {max: 9}}}, light]"
    )
    for number, written in enumerate(("", shared)):
        Path("job.yaml").write_bytes(job(written))
        done = CliRunner().invoke(
            app, ["run", "job.yaml", "--workers", "0", "-q", "--set", f"output.path=out{number}"]
        )
        assert (done.exit_code, done.output) == (0, "")
