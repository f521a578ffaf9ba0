"""Checksums of a callable's bytecode, constants, names and values: they change when its code
changes, but not when it is moved.

A function is described by several checksums with names: its own, and one for each function, class
or constant of the user's modules that it refers to, directly or indirectly. So a message can say
what changed. Line numbers, file names and addresses do not count. An installed library counts by
its name and version. The code of this package does not count; `ALGORITHMS` stands for it.

No library does this: `dask.tokenize` and `joblib.hash` take only the name of an importable
function, and cloudpickle's bytes contain line numbers and paths and differ between processes.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import inspect
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np

from pipeline.jobs.bytecode import assigned_in, imported, of_user, origin, referred

LENGTH = 16
"""Hexadecimal digits of a checksum."""
_PASSING = {
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__annotations__",
    "__annotations_cache__",
    "__annotate__",
    "__annotate_func__",
    "__firstlineno__",
    "__static_attributes__",
    "__match_args__",
    "__dataclass_fields__",
    "__abstractmethods__",
    "_abc_impl",
    "__parameters__",
    "__slotnames__",
    "__orig_bases__",
    "__slots__",
    "__qualname__",
}
"""Attributes of a class that its behaviour does not depend on, or that repeat others."""


def checksums(what: Any) -> dict[str, str]:
    """Checksums of each piece of a user's code and data that a callable depends on.

    Parameters
    ----------
    what
        A function, a partial, a method, or a callable object.

    Returns
    -------
    dict
        Checksums by ``module.name``; ``itself`` stands for a callable without a name. They are the
        same in every process, wherever the code stands in its file.

    Examples
    --------
    >>> first, second = (functools.partial(round, ndigits=digits) for digits in (1, 2))
    >>> third = functools.partial(round, ndigits=1)
    >>> checksums(first) == checksums(second), checksums(first) == checksums(third)
    (False, True)
    """
    made = what if isinstance(what, (FunctionType, type)) else type(what)
    reader = _Reader((getattr(made, "__module__", None) or "").partition(".")[0])
    top = reader.told(what)
    return ({} if top[0] == "see" else {"itself": _digest(top)}) | dict(
        sorted(reader.pieces.items())
    )


def value(what: Any) -> str:
    """One checksum of data, or of a callable with all that it depends on. Equal values have the
    same checksum in every process.
    """
    reader = _Reader("")
    return _digest([reader.told(what), sorted(reader.pieces.items())])


def _digest(told: Any) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()[:LENGTH]


def _bytes(array: np.ndarray[Any, Any]) -> list[Any]:
    return [
        "array",
        array.dtype.str,
        array.shape,
        hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
    ]


class _Reader:
    """Describes code and data by lists with the same text in every process. Each piece of code is
    described once and then referred to by name.
    """

    def __init__(self, own: str) -> None:
        self.own = own
        """The package of the callable itself: its code counts although it is installed."""
        self.pieces: dict[str, str] = {}
        self.names: dict[int, str] = {}
        """The names of pieces that were described, by address. `kept` holds these pieces, so that
        no other object gets their address.
        """
        self.kept: list[Any] = []
        self.open: dict[int, int] = {}
        """The containers that are being described, by address. A container inside itself is
        described by its depth.
        """

    def told(self, what: Any) -> Any:
        """Describe data by value and code by name."""
        if (
            what is None
            or what is Ellipsis
            or isinstance(what, (bool, int, float, complex, str, bytes))
        ):
            return [type(what).__name__, repr(what)]
        if id(what) in self.names:
            return ["see", self.names[id(what)]]
        if id(what) in self.open:
            return ["again", len(self.open) - self.open[id(what)]]
        self.open[id(what)] = len(self.open)
        try:
            return self.read(what)
        finally:
            del self.open[id(what)]

    def read(self, what: Any) -> Any:
        if reads := _EXACTLY.get(type(what)):
            return reads(self, what)
        for kinds, reads in _KINDS:
            if isinstance(what, kinds):
                return reads(self, what)
        held = getattr(what, "__dict__", {})
        # numba keeps the function in py_func; functools.wraps and lru_cache in __wrapped__
        wrapped = held.get("py_func", held.get("__wrapped__"))
        if callable(what) and wrapped is not None:
            return [type(what).__name__, self.told(wrapped), self.told(held.get("targetoptions"))]
        if inspect.isroutine(what) or isinstance(what, np.ufunc):
            name = getattr(what, "__qualname__", getattr(what, "__name__", ""))
            return ["built in", origin(getattr(what, "__module__", None) or ""), name]
        return self.object(what)

    def parts(self, what: Any) -> Any:
        return [type(what).__name__, *map(self.told, what)]

    def unordered(self, what: Any) -> Any:
        return [type(what).__name__, *sorted(map(self.told, what), key=repr)]

    def mapping(self, what: Any) -> Any:
        return [
            "mapping",
            *sorted(([self.told(key), self.told(held)] for key, held in what.items()), key=repr),
        ]

    def array(self, what: Any) -> Any:
        array = np.asarray(what)
        return (
            ["objects", array.shape, *map(self.told, array.ravel())]
            if array.dtype.hasobject
            else _bytes(array)
        )

    def object(self, what: Any) -> Any:
        """Describe an object by its class and its state."""
        kind = self.told(type(what))
        if hasattr(what, "__dask_tokenize__"):
            return [kind, self.told(what.__dask_tokenize__())]
        if type(what).__module__.partition(".")[0] == "torch" and hasattr(what, "detach"):
            flat = what.detach().cpu().contiguous().reshape(-1)
            return [
                kind,
                str(what.dtype),
                tuple(what.shape),
                self.told(flat.view(sys.modules["torch"].uint8).numpy()),
            ]
        reduce = copyreg.dispatch_table.get(type(what))
        try:
            made = what.__reduce_ex__(4) if reduce is None else reduce(what)
        except Exception:  # noqa: BLE001  a lock, a generator, a file: no state to describe
            return [kind]
        if isinstance(made, str):
            return [kind, made]
        return [
            kind,
            *map(self.told, made[:3]),
            *(self.told(list(part)) for part in made[3:5] if part is not None),
        ]

    def piece(self, what: Any) -> Any:
        """Describe a function or a class: by its code if it is a user's, else by the library's name
        and version.
        """
        module = getattr(what, "__module__", None) or ""
        if not (of_user(module) or (self.own and module.partition(".")[0] == self.own)):
            return ["library", origin(module), what.__qualname__]
        if id(what) not in self.names:
            name = f"{module}.{what.__qualname__}"
            number = 1
            while (f"{name} {number}" if number > 1 else name) in self.names.values():
                number += 1
            self.names[id(what)] = f"{name} {number}" if number > 1 else name
            self.kept.append(what)
            told = self.function(what) if isinstance(what, FunctionType) else self.kind(what)
            self.pieces[self.names[id(what)]] = _digest(
                [told, None if of_user(module) else origin(module)]
            )
        return ["see", self.names[id(what)]]

    def function(self, what: FunctionType) -> Any:
        cells = [self.cell(cell) for cell in what.__closure__ or ()]
        stated = {name: held for name, held in vars(what).items() if name != "__wrapped__"}
        parts = (what.__defaults__, what.__kwdefaults__, stated, getattr(what, "__wrapped__", None))
        return [self.told(what.__code__), cells, *map(self.told, parts), self.globals(what)]

    def cell(self, cell: CellType) -> Any:
        try:
            return self.told(cell.cell_contents)
        except ValueError:  # nothing is assigned to it yet
            return ["empty"]

    def kind(self, what: type) -> Any:
        bases = [self.told(base) for base in what.__bases__ if base is not object]
        members = {
            name: held
            for name, held in vars(what).items()
            if name not in _PASSING and not inspect.ismemberdescriptor(held)
        }
        return [
            bases,
            [
                [name, self.told(held)]
                for name, held in sorted(members.items())
                if not inspect.isgetsetdescriptor(held)
            ],
        ]

    def code(self, code: CodeType) -> Any:
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        return [
            code.co_code.hex(),
            names,
            counts,
            [self.told(constant) for constant in code.co_consts],
            code.co_exceptiontable.hex(),
        ]

    def globals(self, what: FunctionType) -> Any:
        """The values that a function, with the functions inside it, reads by global name. Names
        that functions assign are state, not code.
        """
        module = str(what.__globals__.get("__name__", ""))
        if not of_user(module):
            return []
        read = referred(what.__code__)
        known = {
            name: what.__globals__[name] for name in sorted(read.names) if name in what.__globals__
        }
        known |= {
            name: made
            for name in sorted(read.modules)
            if (made := imported(name, what.__globals__)) is not None
        }
        told = []
        for name, held in known.items():
            if isinstance(held, ModuleType):
                told.append([name, self.through(held, read.attributes)])
            elif isinstance(held, (FunctionType, type)):
                told.append([name, self.told(held)])
            elif name not in assigned_in(what.__globals__):
                self.constant(f"{module}.{name}", held)
                told.append([name])
        return told

    def constant(self, name: str, held: Any) -> None:
        """Describe a module's constant once, by its name."""
        if name not in self.pieces:
            self.pieces[name] = ""
            self.pieces[name] = _digest(self.told(held))

    def through(self, module: ModuleType, attributes: frozenset[str]) -> Any:
        """Describe a module by its name and version; a user's module by those of its attributes
        that are used.
        """
        if not of_user(module.__name__):
            return ["library", origin(module.__name__)]
        if id(module) in self.open:
            return ["again"]
        self.open[id(module)] = len(self.open)
        try:
            taken = {name: held for name, held in vars(module).items() if name in attributes}
            return [
                [
                    name,
                    self.through(held, attributes)
                    if isinstance(held, ModuleType)
                    else self.told(held),
                ]
                for name, held in sorted(taken.items())
            ]
        finally:
            del self.open[id(module)]


_EXACTLY: dict[type, Callable[[_Reader, Any], Any]] = {
    list: _Reader.parts,
    tuple: _Reader.parts,
    set: _Reader.unordered,
    frozenset: _Reader.unordered,
    **dict.fromkeys((dict, OrderedDict, defaultdict, MappingProxyType), _Reader.mapping),
}
_KINDS: tuple[tuple[Any, Callable[[_Reader, Any], Any]], ...] = (
    ((np.ndarray, np.generic), _Reader.array),
    (CodeType, _Reader.code),
    (ModuleType, lambda _, what: ["module", origin(what.__name__)]),
    (
        functools.partial,
        lambda self, what: ["partial", *map(self.told, (what.func, what.args, what.keywords))],
    ),
    (MethodType, lambda self, what: ["method", self.told(what.__func__), self.told(what.__self__)]),
    (
        (staticmethod, classmethod),
        lambda self, what: [type(what).__name__, self.told(what.__func__)],
    ),
    (property, lambda self, what: ["property", *map(self.told, (what.fget, what.fset, what.fdel))]),
    (functools.cached_property, lambda self, what: ["property", self.told(what.func)]),
    ((FunctionType, type), _Reader.piece),
)
