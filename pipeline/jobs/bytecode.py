"""Find what code refers to, and who owns that: the user, this package, Python or an installed
library.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]
_LIBRARIES = tuple(
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


@dataclass(frozen=True, slots=True)
class Referred:
    """The names that a piece of code refers to, with all code inside it."""

    names: frozenset[str] = frozenset()
    """The global names that it reads."""
    assigned: frozenset[str] = frozenset()
    """The global names that it assigns."""
    attributes: frozenset[str] = frozenset()
    """The attributes that it reads, of any object."""
    modules: frozenset[str] = frozenset()
    """The modules that it imports itself."""

    def __or__(self, other: Referred) -> Referred:
        return Referred(
            *(
                getattr(self, name) | getattr(other, name)
                for name in ("names", "assigned", "attributes", "modules")
            )
        )


_OPERATIONS = {
    "LOAD_GLOBAL": "names",
    "LOAD_NAME": "names",
    "STORE_GLOBAL": "assigned",
    "DELETE_GLOBAL": "assigned",
    "LOAD_ATTR": "attributes",
    "LOAD_METHOD": "attributes",
    "IMPORT_FROM": "attributes",
    "IMPORT_NAME": "modules",
}


def referred(code: CodeType) -> Referred:
    """The names that a piece of code refers to."""
    found: dict[str, set[str]] = {}
    for step in dis.get_instructions(code):
        if step.opname in _OPERATIONS:
            found.setdefault(_OPERATIONS[step.opname], set()).add(str(step.argval))
    within = (referred(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return functools.reduce(
        Referred.__or__,
        within,
        Referred(**{name: frozenset(names) for name, names in found.items()}),
    )


def assigned_in(names: dict[str, Any]) -> frozenset[str]:
    """The global names of a module that its functions assign."""
    functions = [
        held
        for held in list(names.values())
        if isinstance(held, FunctionType) and held.__globals__ is names
    ]
    return frozenset().union(*(referred(function.__code__).assigned for function in functions))


def imported(name: str, names: dict[str, Any]) -> ModuleType | None:
    """A user's module that a function imports; None if the module is not a user's or does not
    exist.
    """
    package = names.get("__package__") or ""
    for full in (name, f"{package}.{name}" if package and name else package):
        try:
            if full and importlib.util.find_spec(full.partition(".")[0]) is not None:
                module = importlib.import_module(full) if of_user(full) else None
                if module is not None:
                    return module
        except (ImportError, ValueError):
            continue
    return None


@functools.cache
def of_user(module: str) -> bool:
    """Whether a module is the user's: it belongs neither to this package, nor to Python, nor to an
    installed library.
    """
    top = module.partition(".")[0]
    if top == "__main__":
        return True
    if top in ("", "builtins", PACKAGE) or top in sys.stdlib_module_names:
        return False
    file = file_of(module) or file_of(top)
    return file is None or not (
        {"site-packages", "dist-packages"} & set(file.parts)
        or any(file.resolve().is_relative_to(folder) for folder in _LIBRARIES)
    )


def file_of(module: str) -> Path | None:
    """The file of a module; None if it has none, as in an interactive session."""
    loaded = sys.modules.get(module)
    try:
        found = (
            loaded.__file__
            if loaded is not None
            else getattr(importlib.util.find_spec(module), "origin", None)
        )
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(found) if found else None


@functools.cache
def origin(module: str) -> str:
    """A module's name, with the version of its library, or with a checksum if it is a user's
    compiled module.
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("", "builtins", PACKAGE):
        return module
    if of_user(module):
        file = file_of(module)
        compiled = file is not None and file.suffix in (".so", ".pyd")
        return (
            f"{module} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            if file is not None and compiled
            else module
        )
    try:
        return f"{module} {version((packages_distributions().get(top) or [top])[0])}"
    except PackageNotFoundError:
        return module
