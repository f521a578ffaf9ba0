"""Pages of the site that are made from the code: options, commands, public names.

MkDocs calls `on_files` once for each build. Nothing here is written by hand twice: the text of an
option is the string beneath it in its class, and the text of a command is what ``--help`` prints.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import pipeline
from pipeline.__main__ import app
from pipeline.cli import methods
from pipeline.jobs import layers, plugins
from pipeline.jobs.job import Job
from pipeline.jobs.routing import Rule
from pipeline.segmenters import Contract, exactness
from pipeline.sources import KINDS, unsupported

ROOT = Path(__file__).resolve().parents[1]
ALIASES = {"raster": "geotiff"}
"""Kinds of readers that are another name for one."""
PAGES = {
    "project/workflows.md": "workflows/README.md",
    "project/deploy.md": "deploy/README.md",
    "project/benchmarks.md": "tests/benchmarks/README.md",
    "project/security.md": "SECURITY.md",
    "project/contributing.md": ".github/CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
}
"""Documents that lie beside the code, by the page that shows them."""
INTRODUCTION = {
    "segmenters": """# Segmenters

Each kind is a class with the same options: `{kind: threshold, value: 5}` in a job file,
`--with threshold --option value=5` on the command line and `pipeline.Threshold(value=5)` in Python
are the same. Bands are counted from 1, or called by name.
""",
    "steps": """# Steps

Steps change the image before it is segmented, in the order in which the job lists them:
`steps: [{kind: smooth, sigma: 2}]`.
""",
    "readers": """# Readers

Options of a reader are keys of `source` in a job file, `--source KEY=VALUE` of `tilewise segment`
and `tilewise info`, and `{path: …, KEY: VALUE}` in Python. The page [Formats](../formats.md) says
which files each kind reads.
""",
    "commands": """# Commands

`tilewise COMMAND --help` prints the same. Exit codes are explained in
[Troubleshooting](../troubleshooting.md#exit-codes).
""",
    "contract": """# The contract of a segmenter

Everything on this page is optional: a plain function from a block of pixels to labels is a
segmenter. [Write a segmenter](../segmenter.md) is where to begin. A segmenter states what it is by
attributes of these names:
""",
    "python": """# Python

All names below are in `pipeline`: `import pipeline`. A name is imported when it is first used.
""",
}
"""How the generated pages begin."""
CONTRACT = ("pipeline.segmenters.contract", "pipeline.segmenters.protocols")
RETURNS = "A segmenter may return more than labels, and offer more than a call:\n"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    made = {
        "reference/segmenters.md": segmenters(),
        "reference/steps.md": steps(),
        "reference/readers.md": readers(),
        "reference/commands.md": commands(),
        "reference/python.md": public_names(),
        "reference/contract.md": contract(),
    }
    made |= {page: document(page, source) for page, source in PAGES.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for picture in sorted((ROOT / ".github").glob("*.png")):
        path = f"project/{picture.name}"
        files.append(File.generated(config, path, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_context: Any) -> str:
    """Put generated tables where a page asks for them, as ``<!-- table: NAME -->``."""
    tables = {
        "methods": methods.table,
        "job": lambda: model_tables(Job),
        "rule": lambda: table(fields(Rule)),
        "layer": lambda: table(fields(layers.Layer)),
        "unread": unread_table,
    }
    markdown = re.sub(r"<!-- table: (\w+) -->", lambda found: tables[found[1]](), markdown)
    return re.sub(r"<!-- case: (\w+) -->", lambda found: case(found[1]), markdown)


def segmenters() -> str:
    """The page of all kinds of segmenters."""
    parts = [
        INTRODUCTION["segmenters"],
        f"{methods.table()}\n",
    ]
    for name in plugins.kinds():
        kind = plugins.load(name)
        where = "any processor" if getattr(kind, "portable", False) else "processors that are alike"
        parts += [
            f"## {name}\n",
            f"`pipeline.{kind.__name__}`\n" if kind.__name__ in pipeline.__all__ else "",
            prose(kind),
            (
                f"Identity: {methods.identity(kind)}. Exact {exactness(kind)}. "
                f"The same result on {where}.\n"
            ),
            options(name, plugins.SEGMENTERS),
        ]
    return "\n".join(parts)


def steps() -> str:
    """The page of all steps before segmenting."""
    parts = [
        INTRODUCTION["steps"],
    ]
    for name in plugins.kinds(plugins.STEPS):
        kind = plugins.load(name, group=plugins.STEPS)
        parts += [f"## {name}\n", prose(kind), options(name, plugins.STEPS)]
    return "\n".join(parts)


def readers() -> str:
    """The page of all kinds of readers."""
    parts = [
        INTRODUCTION["readers"],
    ]
    for name, place in KINDS.items():
        module, attribute = place.split(":")
        if name in ALIASES:
            parts += [f"## {name}\n", f"Another name for `{ALIASES[name]}`.\n"]
            continue
        kind = getattr(import_module(module), attribute)
        parts += [f"## {name}\n", prose(kind), table(fields(kind))]
    return "\n".join(parts)


def commands() -> str:
    """The page of all commands: arguments, options and their meaning."""
    root = typer.main.get_command(app)
    parts = [
        INTRODUCTION["commands"],
    ]
    for name, command in sorted(root.commands.items()):  # type: ignore[attr-defined]
        rows = [
            (
                ", ".join([*parameter.opts, *parameter.secondary_opts])
                if parameter.param_type_name == "option"
                else parameter.name.upper(),
                _default(parameter.default),
                getattr(parameter, "help", None) or "",
            )
            for parameter in command.params
        ]
        parts += [f"## tilewise {name}\n", f"{_joined(command.help)}\n", table(rows, "argument")]
    return "\n".join(parts)


def public_names() -> str:
    """The page of all public names; of segmenters only the text, as their options have a page."""
    kinds = {plugins.load(name): name for name in plugins.kinds()}
    parts = [
        INTRODUCTION["python"],
    ]
    functions, methods = [], []
    for name in sorted(pipeline.__all__, key=str.lower):
        what = getattr(pipeline, name)
        if not hasattr(what, "__module__") or not hasattr(what, "__qualname__"):
            continue
        entry = [
            f"::: {what.__module__}.{what.__qualname__}",
            "    options:",
            f'      heading: "pipeline.{name}"',
            f'      toc_label: "{name}"',
        ]
        if what in kinds:
            entry += ["      members: false", ""]
            entry += [f"Options: [{kinds[what]}](segmenters.md#{kinds[what]}).", ""]
            methods += entry
        else:
            functions += [*entry, ""]
    return "\n".join([*parts, *functions, *methods])


def contract() -> str:
    """The page of what a segmenter may state, offer and return."""
    parts = [INTRODUCTION["contract"], table(fields(Contract), "attribute"), RETURNS]
    for module in CONTRACT:
        known = vars(import_module(module)).items()
        for name, what in known:
            own = inspect.isclass(what) and what.__module__ == module
            if own and what is not Contract and not name.startswith("_"):
                parts += [f"::: {module}.{name}", "    options:", f'      heading: "{name}"', ""]
    return "\n".join(parts)


def document(page: str, source: str) -> str:
    """A document of the repository as a page: links to files that the site lacks become text."""
    homes = {(ROOT / path).resolve(): name for name, path in PAGES.items()}
    homes |= {path: f"project/{path.name}" for path in (ROOT / ".github").glob("*.png")}
    homes |= {path: str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.*")}
    up = "../" * page.count("/")

    def linked(found: re.Match[str]) -> str:
        mark, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or "://" in target:
            return found[0]
        path = (ROOT / source).parent.joinpath(target).resolve()
        home = homes.get(path) or homes.get(path / "README.md")
        return f"{mark}[{text}]({up}{home}{anchor})" if home else text

    return LINK.sub(linked, (ROOT / source).read_text())


def case(name: str) -> str:
    """A picture of `pictures`, and the part of a job file that makes it."""
    what = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["CASES"][name]
    job = {"steps": what.steps} if what.steps else {}
    job |= {"segmenters": {name: what.method}}
    text = yaml.safe_dump(job, sort_keys=False, default_flow_style=None)
    title = f"{name}: the image, and what {what.method['kind']} makes of it"
    return f"![{title}](pictures/{name}.webp)\n\n```yaml\n{text}```\n"


def unread_table() -> str:
    """The files that are not read, and what reads them."""
    rows = [f"| {name} | {_cell(what)} |" for name, what in sorted(unsupported.KINDS.items())]
    return "\n".join(["| file | what to do |", "|---|---|", *rows, ""])


def options(name: str, group: str) -> str:
    """The table of a kind's options."""
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for option in plugins.described_options(name, group):
        default = "required" if option.default == "required" else f"`{option.default}`"
        listed = f" Allowed: {', '.join(option.allowed)}." if option.allowed else ""
        known = f"| `{option.name}` | {_cell(option.type)} | {default} |"
        lines.append(f"{known} {_cell(option.meaning + listed)} |")
    return "\n".join([*lines, ""]) if len(lines) > 2 else "It has no options.\n"


def fields(kind: type[Any]) -> Iterator[tuple[str, str, str]]:
    """The fields of a dataclass: name, default, meaning."""
    meaning = plugins.described(kind)
    for field in dataclasses.fields(kind):
        if field.init:
            absent = field.default is dataclasses.MISSING
            empty = field.default_factory is not dataclasses.MISSING
            default = "" if absent or empty else _default(field.default)
            yield field.name, default, meaning.get(field.name, "")


def model_tables(model: Any) -> str:
    """The keys of a job that are sections, each a table; the others are explained by the page."""
    parts = []
    for key, field in model.model_fields.items():
        inner = field.annotation
        if not hasattr(inner, "model_fields"):
            continue
        meaning = plugins.described(inner)
        rows = [
            (
                name,
                _default(
                    inspect.Parameter.empty
                    if part.is_required()
                    else part.get_default(call_default_factory=True)
                ),
                meaning.get(name, ""),
            )
            for name, part in inner.model_fields.items()
        ]
        parts += [f"### {key}\n", f"{_joined(inner.__doc__)}\n", table(rows)]
    return "\n".join(parts)


def table(rows: Iterable[tuple[str, str, str]], head: str = "option") -> str:
    """A table of options."""
    lines = [f"| {head} | default | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {default} | {_cell(meaning)} |" for name, default, meaning in rows]
    return "\n".join([*lines, ""]) if len(lines) > 2 else "It has no options.\n"


def prose(kind: type[Any]) -> str:
    """The docstring of a class up to its first section, which the Python page shows."""
    text = inspect.getdoc(kind) or ""
    head = re.split(r"\n\w[\w ]*\n-{3,}\n", text)[0]
    return f"{head.rstrip()}\n"


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if value is None or value is ... or callable(value):
        return ""
    return f"`{value!r}`"


def _cell(text: str) -> str:
    return _joined(text).replace("|", "\\|").replace("``", "`")


def _joined(text: str | None) -> str:
    return " ".join((text or "").split())
