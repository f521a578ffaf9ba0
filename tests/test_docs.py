"""What the documentation says is true: examples run, commands exist, everything is named."""

from __future__ import annotations

import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image

import pipeline
from pipeline.__main__ import app
from pipeline.jobs import plugins
from pipeline.jobs.job import Job
from pipeline.sources import KINDS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [
    *PAGES,
    ROOT / "README.md",
    *(ROOT / name / "README.md" for name in ("workflows", "deploy")),
]
TEXTS += [ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"(?:<!-- ([^>]*) -->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NETWORKS = {
    name
    for name in plugins.kinds()
    if {"sha256", "model"} & set(plugins.options(plugins.load(name)))
}


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """The code of a page: what a comment before it says, and the text."""
    return [
        (said or "", text)
        for said, known, text in BLOCK.findall(page.read_text())
        if known == language
    ]


def examples() -> Iterator[Any]:
    """The Python examples of each page, in order, those of one name as one."""
    for page in PAGES:
        said: dict[str, str] = {}
        for comment, text in blocks(page, "python"):
            if not comment.startswith("does not run: "):
                said[comment] = said.get(comment, "") + text
        for comment, text in said.items():
            yield pytest.param(text, id=f"{page.stem}-{comment}")


def commands() -> Iterator[tuple[str, list[str]]]:
    """All commands that are shown, by document."""
    for page in TEXTS:
        shown = "\n".join(text for _, text in blocks(page, ""))
        for line in shown.replace("\\\n", " ").splitlines():
            for found in re.findall(
                r"\btilewise ((?:info|methods|[a-z]+) .*|methods|schema.*)", line
            ):
                if line.lstrip().startswith(("docker build", "kubectl", "pip ")):
                    continue
                yield page.name, shlex.split(found, comments=True)


@pytest.mark.parametrize("example", list(examples()))
def test_examples_run(example, tmp_path):
    """Each Python example runs as it stands, in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-c", example],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_public_names_exist():
    """Each name of the package that a page shows exists, and code that is not run is Python."""
    shown = set()
    for page in TEXTS:
        for comment, text in blocks(page, "python"):
            compile(text, f"{page.name}: {comment}", "exec")
        shown |= set(re.findall(r"(?<![\w.])pipeline\.(\w+)", page.read_text()))
    rooms = {path.stem for path in (ROOT / "pipeline").iterdir()}
    assert shown - rooms - {"steps", "segmenters"} <= set(pipeline.__all__)
    assert shown >= {"segment", "run", "local", "on"}


def test_commands_exist():
    """Each command that a page shows exists, and has the options that are shown."""
    known: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    seen = set()
    for page, (name, *rest) in commands():
        assert name in known, page
        has = {option for each in known[name].params for option in each.opts}
        given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert given <= has, (page, name)
        seen.add(name)
    assert seen >= {"info", "segment", "run", "plan", "verify", "evaluate", "train", "schema"}


def test_shown_options_are_those_of_kinds():
    """``--with KIND --option KEY=VALUE`` is a kind and an option of it."""
    number = 0
    for page, (_name, *rest) in commands():
        pairs = list(itertools.pairwise(rest))
        for kind in (value for key, value in pairs if key == "--with" and value.islower()):
            has = set(plugins.options(plugins.load(kind)))
            assert {value.partition("=")[0] for key, value in pairs if key == "--option"} <= has, (
                page
            )
            number += 1
    assert number > 3


def test_the_whole_job_is_a_job():
    """The job with all its parts is taken as it stands."""
    (whole,) = (
        text for _, text in blocks(DOCS / "reference" / "job.md", "yaml") if "on_bad_tile" in text
    )
    job = yaml.safe_load(whole)
    assert set(job) == set(Job.model_fields) - {"layers"}
    assert Job(**job).stitch.repair == 2


def test_snippets_of_jobs_hold_known_keys():
    """Each other piece of a job is taken too, where the rest of a job is put around it."""
    number = 0
    for page in PAGES:
        for _, text in blocks(page, "yaml"):
            part = yaml.safe_load(text)
            if not isinstance(part, dict) or "train" in part:
                continue
            used = {rule["use"] for rule in part.get("route", ())} - {"skip"}
            used |= {each.get("things") or each["stuff"] for each in part.get("layers", ())}
            rest = {
                "source": "scene.tif",
                "segmenters": {name: {"kind": "threshold"} for name in used or {"one"}},
                "output": {"path": "out"},
            }
            Job(**{**rest, **part})
            number += 1
    assert number > 5


def test_every_kind_is_shown():
    """The picture of all methods shows every kind of segmenter but networks, which want weights."""
    shown = runpy.run_path(str(ROOT / "workflows" / "methods.py"))["KINDS"]
    assert {kind.split()[0] for kind in shown} == set(plugins.kinds()) - NETWORKS
    assert "unet" in NETWORKS


def test_every_kind_is_named():
    """The pages on choosing, on networks and on formats name every kind of segmenter and reader."""
    named = "".join(
        (DOCS / f"{page}.md").read_text() for page in ("choose", "networks", "exactness")
    )
    assert {kind for kind in NETWORKS if f"`{kind}`" not in named} == set()
    formats = (DOCS / "formats.md").read_text()
    assert {kind for kind in KINDS if f"`{kind}`" not in formats} == set()
    steps = (DOCS / "choose.md").read_text()
    assert {kind for kind in plugins.kinds(plugins.STEPS) if f"`{kind}`" not in steps} == set()


def test_tables_of_methods_name_kinds():
    """In the tables of which method for what, each method is a kind, and the README counts them."""
    for page in (DOCS / "choose.md", ROOT / "README.md"):
        rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([^|]+) \|$", page.read_text(), re.MULTILINE)
        first = [found[1] for row in rows if (found := re.match(r"`(\w+)`", row))]
        assert set(first) <= set(plugins.kinds())
        assert len(first) > 9
    assert f"all {len(plugins.kinds())} kinds" in (ROOT / "README.md").read_text()


def test_figures_are_those_of_the_benchmarks():
    """Each figure in the comparison's tables is one that the page on the benchmarks measured."""
    measured = (ROOT / "tests" / "benchmarks" / "README.md").read_text()
    known = set(re.findall(r"\d[\d.]*\d|\d", measured))
    rows = re.findall(r"^\|(?: [^|]*\|)+$", (DOCS / "comparison.md").read_text(), re.MULTILINE)
    shown = {figure for row in rows for figure in re.findall(r"(?<=\| )[\d.]+(?= \|)", row)}
    assert len(shown) > 20
    assert shown <= known


def test_pictures_are_small_and_used():
    """Each picture has at most 200 kB, is shown, and each that is shown is there."""
    there = {path.name: path for path in (DOCS / "pictures").iterdir()}
    cases = set(runpy.run_path(str(DOCS / "pictures.py"))["CASES"])
    text = "".join(page.read_text() for page in PAGES)
    shown = {f"{case}.webp" for case in re.findall(r"<!-- case: (\w+) -->", text)}
    assert shown == {f"{case}.webp" for case in cases}
    shown |= set(re.findall(r"\(pictures/([\w.]+)\)", text))
    assert set(there) == shown
    for path in there.values():
        assert path.stat().st_size <= 200_000
        Image.open(path).verify()


@pytest.mark.heavy
def test_the_site_builds(tmp_path):
    """The site builds without a warning, and names every kind, option and public name."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr

    def page(name: str) -> str:
        return (tmp_path / "reference" / f"{name}.html").read_text()

    for group, name in ((plugins.SEGMENTERS, "segmenters"), (plugins.STEPS, "steps")):
        text = page(name)
        for kind in plugins.kinds(group):
            assert f'id="{kind}"' in text
            own = text.partition(f'id="{kind}"')[2].partition("<h2")[0]
            for option in plugins.options(plugins.load(kind, group=group)):
                assert f"<code>{option}</code>" in own, (kind, option)
    text = page("readers")
    assert all(f'id="{kind}"' in text for kind in KINDS)
    text = page("python")
    public = [name for name in pipeline.__all__ if not name.startswith("__")]
    assert [name for name in public if f"pipeline.{name}" not in text] == []
    text = page("commands")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"tilewise {name}" in text
        assert all(each.opts[0].strip("-") in text.lower() for each in command.params)
