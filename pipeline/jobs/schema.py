"""The JSON schema of a job, for editors: which keys there are, what each is, and what it may be."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter

from pipeline.jobs import layers, plugins
from pipeline.jobs.job import Job
from pipeline.jobs.routing import FORMS, GIVEN, SKIP, TRAITS
from pipeline.sources import KINDS

PATHS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema: of every kind of segmenter and step that is installed, all options with their
    types, defaults and meanings.
    """
    whole = Job.model_json_schema()
    parts = whole["properties"]
    parts["source"] = {
        "anyOf": [PATHS, _mapping({"path": PATHS, "kind": {"enum": sorted(KINDS)}}, more=True)]
    }
    parts["steps"]["items"] = _of_kind("step")
    parts["segmenters"] |= {"minProperties": 1, "additionalProperties": _of_kind("segmenter")}
    bounds = _mapping({"min": {"type": "number"}, "max": {"type": "number"}})
    when = {
        "type": "object",
        "description": f"Traits of a tile: {', '.join(FORMS)}.",
        "additionalProperties": bounds,
    }
    when["properties"] = dict.fromkeys((*TRAITS, *GIVEN), bounds)
    use = {"type": "string", "description": f"A segmenter's name, or {SKIP}."}
    parts["route"]["items"] = _mapping({"use": use, "when": when}, required=["use"])
    classes = {"anyOf": [{"type": "integer"}, {"type": "object"}]}
    parts["layers"]["items"] = _mapping(
        {key: {"type": "string"} for key in layers.KEYS} | {"classes": classes, "when": when}
    )
    whole["$defs"] |= _kinds("segmenter", plugins.SEGMENTERS) | _kinds("step", plugins.STEPS)
    return {"$schema": DIALECT, **whole}


def _of_kind(what: str) -> dict[str, Any]:
    """Either the bare name of a kind, or a mapping with its options."""
    return {
        "anyOf": [
            {"$ref": f"#/$defs/{what}"},
            {"enum": list(plugins.kinds(plugins.STEPS if what == "step" else plugins.SEGMENTERS))},
        ]
    }


def _kinds(what: str, group: str) -> dict[str, Any]:
    """The definitions of all kinds of a group: which one it is, and what then holds."""
    known: dict[str, Any] = {}
    for name in plugins.kinds(group):
        kind = plugins.load(name, group=group)
        options, meaning = _options(kind), plugins.described(kind)
        for key, option in options["properties"].items():
            options["properties"][key] = (
                {"description": meaning[key], **option} if key in meaning else option
            )
        known[f"{what} {name}"] = {
            **_mapping(
                {"kind": {"const": name}, **options["properties"]},
                required=["kind", *options.get("required", [])],
            ),
            "description": (inspect.getdoc(kind) or "").split("\n")[0],
        }
    names = list(plugins.kinds(group))
    cases = [
        {
            "if": {"properties": {"kind": {"const": name}}},
            "then": {"$ref": f"#/$defs/{what} {name}"},
        }
        for name in names
    ]
    return known | {
        what: {
            "type": "object",
            "required": ["kind"],
            "properties": {"kind": {"enum": names}},
            "allOf": cases,
        }
    }


def _options(kind: type[Any]) -> dict[str, Any]:
    """The options of a kind as a schema's properties; of one whose types pydantic does not know,
    their names.
    """
    try:
        return TypeAdapter(kind).json_schema()
    except PydanticSchemaGenerationError:
        return {"properties": {name: {} for name in plugins.options(kind)}}


def _mapping(
    properties: dict[str, Any], required: list[str] | None = None, *, more: bool = False
) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": more,
    }
