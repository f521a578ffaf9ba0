"""The JSON schema of a job, for editors: which keys there are, what each is, and what it may be."""

from __future__ import annotations

from typing import Any

from pipeline.jobs.job import Job

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema: of every kind of segmenter and step that is installed, all options with their
    types, defaults and meanings.
    """
    return {"$schema": DIALECT, **Job.model_json_schema()}
