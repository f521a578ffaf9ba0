"""Parts of a job that are dataclasses, validated by pydantic, with errors in a sentence of their
own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from pipeline.config.option_errors import placed
from pipeline.config.options import described
from pipeline.errors import JobError, nearest

TELLING = {"missing", "value_error", "part"}
"""Types of faults that say enough."""


class Described:
    """A base of dataclasses and models whose fields are described by the strings below them in the
    JSON schema. They are read where a schema is asked for: pydantic itself reads them, slowly,
    whenever the class is made.
    """

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Pydantic's own schema, and the descriptions."""
        found = handler(schema)
        properties = handler.resolve_ref_schema(found)["properties"]
        for name, text in described(cls).items():
            if about := properties.get(name):
                about["description"] = f"{text} {about.get('description', '')}".rstrip()
        return found


@dataclass(frozen=True, slots=True)
class Part:
    """An annotation of a dataclass, or of another type, by which pydantic refuses what is no such
    part.
    """

    of: type[Any] | None
    """The dataclass; None where another type is annotated."""

    allowed: str
    """What is said to be allowed in place of a value of another type."""

    empty: bool = True
    """Whether a mapping may be without keys."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Validate by the type, around which unknown keys and other types are refused."""
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
        keys = [field.name for field in dataclasses.fields(self.of)] if self.of else []
        if isinstance(value, Mapping):
            if unknown := next((key for key in value if keys and key not in keys), None):
                raise JobError(f".{unknown}: there is no such key; {nearest(str(unknown), keys)}")
            if not (value or self.empty):
                raise self._refusal()
        try:
            return inner(value)
        except ValidationError as error:
            for fault in error.errors():
                if fault["type"] == "value_error" and not fault["loc"]:
                    raise JobError(placed(str(fault["ctx"]["error"]), "", keys)) from error
                if fault["type"] not in TELLING:
                    raise self._refusal() from error
            raise

    def _refusal(self) -> PydanticCustomError:
        return PydanticCustomError("part", "{allowed}", {"allowed": self.allowed})
