"""Exported programs (``.pt2``), inspected before PyTorch reads them.

``torch.export.load`` unpickles without limits where the safe way fails, loads libraries, evaluates
the expressions of sizes, compiles guards, and writes Python code from the names of values. So an
archive is copied here, member by member: pickles must load with ``weights_only=True``, text must
have one of the forms below, and everything else is refused. PyTorch gets the copy, with nothing in
it that was not inspected.

References
----------
.. [1] PyTorch 2.6 to 2.14: ``torch/export/pt2_archive`` (the members) and
   ``torch/_export/serde/schema.py`` (the program).
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import JobError

DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RecursionError,
)
"""Errors of Python's readers of archives and JSON, and of this module, for damaged files."""
MEMBERS = 1 << 16
"""The most files in an archive."""
TEXTS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version|\.storage_alignment"
)
"""Short members that are neither code nor a pickle."""
PROGRAM = re.compile(r"models/\w+\.json|serialized_exported_program\.json")
"""Members that are programs. Archives of PyTorch before 2.8 use other names."""
PAYLOADS = re.compile(r"data/(weights|constants)/\w+_config\.json")
"""Members that describe the tensors."""
TENSORS = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
"""Members that are the bytes of tensors."""
PICKLES = re.compile(
    r"data/(sample_inputs|weights|constants)/\w+\.pt|serialized_(state_dict|constants|example_inputs)\.pt"
)
"""Members that are pickles of tensors."""
EXTRA = re.compile(r"extra(_files)?/.*")
"""Texts added by whoever exported; they are not read here."""
TARGET = re.compile(
    r"torch\.ops\.(aten|prims|torchvision|quantized|quantized_decomposed)\.(?!(from_file|save)\.)(?!__(?!i?(and|or|xor|lshift|rshift)__))"
    r"\w+\.(?!__)\w+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|map_impl|scan|associative_scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(getitem|add|mul|sub|truediv|floordiv|mod|pow|neg|abs|ge|le|gt|lt|eq|ne|and_|or_|not_|lshift|rshift)"
    r"|math\.(ceil|floor|trunc)|torch\._?sym_(int|float|ite|max|min|not|sqrt|sum)"
    r"|torch\.(_C\._set_grad_enabled|amp\.autocast_mode\._(enter|exit)_autocast)"
)
"""Functions that a program may call: arithmetic on tensors and sizes, without access to files."""
NAMES = {
    "name",
    "as_name",
    "as_symint_name",
    "as_symfloat_name",
    "as_symbool_name",
    "forward_arg_names",
}
"""Keys with values that become names in Python code that PyTorch writes."""
PLAIN = re.compile(r"[\w.:/+\- ]*")
"""Any other text: names of weights, devices, versions."""
KINDS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
"""Allowed containers of inputs and outputs; others import a module that the file names."""
FUNCTIONS = {
    *(
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Add",
        "Mul",
        "Pow",
        "Max",
        "Min",
        "Mod",
        "Abs",
        "And",
        "Or",
        "Not",
        "Eq",
        "Ne",
        "Lt",
        "Le",
    ),
    *(
        "Gt",
        "Ge",
        "Equality",
        "Unequality",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "floor",
        "ceiling",
    ),
    *(
        "FloorDiv",
        "ModularIndexing",
        "Where",
        "PythonMod",
        "CleanDiv",
        "CeilToInt",
        "FloorToInt",
        "CeilDiv",
        "LShift",
        "RShift",
    ),
    *(
        "PowByNatural",
        "FloatPow",
        "FloatTrueDiv",
        "IntTrueDiv",
        "IsNonOverlappingAndDenseIndicator",
        "TruncToFloat",
        "TruncToInt",
    ),
    *(
        "RoundToInt",
        "RoundDecimal",
        "ToFloat",
        "Identity",
        "max",
        "min",
        "abs",
        "round",
        "int",
        "float",
    ),
    *("is_contiguous", "cast_symbool_to_symint_guardless"),
}
"""Functions allowed in expressions of sizes, besides those of the modules in SUMS."""
SUMS = re.compile(r"math\.[a-z0-9]+|torch\._?sym_[a-z]+")
METHODS = {"size", "stride", "storage_offset", "dim"}
"""Methods of tensors allowed in guards."""
FOREIGN = re.compile(r'__|[#"\\\n\r]')
"""Not allowed in any expression: characters that could end the line that PyTorch writes it into."""
ARITHMETIC = (
    *(
        ast.Expression,
        ast.BinOp,
        ast.UnaryOp,
        ast.BoolOp,
        ast.Compare,
        ast.IfExp,
        ast.Name,
        ast.Load,
        ast.keyword,
        ast.Constant,
    ),
    *(
        ast.Subscript,
        ast.operator,
        ast.unaryop,
        ast.boolop,
        ast.cmpop,
        ast.Call,
        ast.Tuple,
        ast.List,
    ),
)


def exported(path: Path) -> io.BytesIO:
    """Copy an exported program so that reading it runs no code; JobError if it contains code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _copied(
                {
                    one.filename: archive.read(one)
                    for one in members(archive, path.stat().st_size, path.name)
                },
                path.name,
            )
    except (*DAMAGE, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise JobError(
            f"{path.name} is no exported program: {type(error).__name__}: {error}"
        ) from error


def members(archive: zipfile.ZipFile, size: int, what: str) -> list[zipfile.ZipInfo]:
    """List the members of an archive; JobError, naming ``what``, if they exceed its ``size``.

    PyTorch does not compress, so an archive is as large as its contents.
    """
    found = archive.infolist()
    if len(found) > MEMBERS:
        raise JobError(f"{what} holds {len(found)} files; allowed: {MEMBERS}")
    if any(one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 1 for one in found):
        raise JobError(
            f"{what} is packed; allowed: as PyTorch saves it, where nothing is; save it anew "
            f"with PyTorch"
        )
    if (
        len({one.filename for one in found}) != len(found)
        or sum(one.file_size for one in found) > size
    ):
        raise JobError(
            f"{what} holds files twice, or more than its {size} bytes; allowed: each once; save "
            f"it anew with PyTorch"
        )
    return found


def tensors(file: Path | bytes, what: str) -> Any:
    """Read a pickle of tensors; JobError, naming ``what``, if it is something else or could run
    code.
    """
    import torch

    try:
        if zipfile.is_zipfile(_opened(file)):
            with zipfile.ZipFile(_opened(file)) as archive:
                members(
                    archive, len(file) if isinstance(file, bytes) else file.stat().st_size, what
                )
        return torch.load(_opened(file), map_location="cpu", weights_only=True)
    except (JobError, OSError):
        raise
    except Exception as error:
        raise JobError(
            f"{what} is no pickle of tensors alone: it can run code when it is read, so it is "
            f"refused; save its state_dict as safetensors"
        ) from error


def _opened(file: Path | bytes) -> Any:
    return io.BytesIO(file) if isinstance(file, bytes) else str(file)


def _copied(found: Mapping[str, bytes], what: str) -> io.BytesIO:
    """Build an archive of inspected members."""
    root = "" if "version" in found else next(iter(found), "").partition("/")[0] + "/"
    if not all(name.startswith(root) for name in found):
        raise JobError(
            f"{what} is no exported program: its files lie in several folders; allowed: in one"
        )
    known = {name.removeprefix(root): data for name, data in found.items()}
    plain = {
        name
        for each, data in known.items()
        if PAYLOADS.fullmatch(each)
        for name in _payloads(each, data, known, what)
    }
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        for name, data in known.items():
            if not EXTRA.fullmatch(name):
                archive.writestr(root + name, _looked_at(name, data, plain, f"{what}: {name}"))
            elif data[:1] == b"\x80" or data[:2] == b"PK":
                tensors(data, f"{what}: {name}")
    copy.seek(0)
    return copy


def _looked_at(name: str, data: bytes, plain: set[str], what: str) -> bytes:
    """Inspect a member."""
    if PROGRAM.fullmatch(name):
        return json.dumps(_program(json.loads(data), what)).encode()
    if PICKLES.fullmatch(name):
        if data:
            tensors(data, what)
    elif TEXTS.fullmatch(name):
        if len(data) > 256 or not data.isascii():
            raise JobError(f"{what} is no version; allowed: a short text")
    elif name not in plain and not PAYLOADS.fullmatch(name):
        raise JobError(
            f"{what} is nothing that is read without running code; allowed: a program of "
            f"PyTorch's own operators, and tensors"
        )
    return data


def _payloads(name: str, data: bytes, known: Mapping[str, bytes], what: str) -> Iterator[str]:
    """Yield the members with the tensors of a configuration.

    They hold plain numbers, as many as the configuration says.
    """
    folder = name.rpartition("/")[0]
    for tensor, entry in dict(json.loads(data)["config"]).items():
        member = f"{folder}/{entry.get('path_name')}"
        if entry.get("use_pickle") or not TENSORS.fullmatch(member) or member not in known:
            raise JobError(
                f"{what}: {tensor} is no tensor of plain numbers, and could run code when it is "
                f"read; allowed: plain tensors"
            )
        sizes = [size.get("as_int") for size in (entry.get("tensor_meta") or {}).get("sizes", [])]
        if not known[member] and 0 not in sizes:
            raise JobError(
                f"{what}: {tensor} has sizes {sizes}, and no numbers; allowed: as many as its "
                f"sizes say"
            )
        yield member


def _program(found: Any, what: str, key: str = "") -> Any:
    """Copy a part of a program without comments; JobError unless it is arithmetic on tensors."""
    if isinstance(found, dict):
        if not all(PLAIN.fullmatch(name) for name in found):
            raise JobError(f"{what} has a key {max(found, key=len)[:60]!r}; allowed: names")
        return {
            name: {} if name == "metadata" else _program(part, what, name)
            for name, part in found.items()
        }
    if isinstance(found, list):
        return [_program(part, what, key) for part in found]
    if isinstance(found, str) and not _is_plain(found, key):
        raise JobError(
            f"{what} has {found[:60]!r} for {key}, which could run code when it is read; "
            f"allowed: operators of PyTorch's own on tensors"
        )
    return found


def _is_plain(text: str, key: str) -> bool:
    """Whether a text is allowed for its key, and cannot run."""
    if key in ("target", "as_operator"):
        return TARGET.fullmatch(text) is not None
    if key in ("expr_str", "guards_code"):
        return is_arithmetic(text)
    if key in ("in_spec", "out_spec"):
        return _is_structure(json.loads(text))
    if key in NAMES:
        return text == "" or text.isidentifier()
    # PyTorch writes these quoted: modes of padding, messages
    if key in (
        "as_string",
        "as_strings",
    ):
        return True
    return PLAIN.fullmatch(text) is not None


def _is_structure(found: Any) -> bool:
    """Whether a text describes inputs in Python's own containers with names as keys."""
    if isinstance(found, list):
        return all(isinstance(part, int) or _is_structure(part) for part in found)
    if not isinstance(found, dict) or found.get("type") not in KINDS:
        return False
    keys = json.loads(found.get("context") or "null")
    named = keys is None or (
        isinstance(keys, list)
        and all(isinstance(key, str | int) and PLAIN.fullmatch(str(key)) for key in keys)
    )
    return named and _is_structure(found.get("children_spec", []))


def is_arithmetic(text: str) -> bool:
    """Whether an expression, which PyTorch evaluates, only computes sizes.

    >>> is_arithmetic("Add(FloorDiv(Symbol('s0', positive=True), Integer(2)), 1)")
    True
    >>> is_arithmetic("__import__('os').getcwd()")
    False
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return (
        not FOREIGN.search(text)
        and all(isinstance(node, ast.Attribute) or _is_sum(node) for node in ast.walk(tree))
        and _calls_known(tree)
    )


def _is_sum(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str | bytes) or (
            isinstance(node.value, str) and re.fullmatch(r"[\w.+\-]*", node.value) is not None
        )
    return isinstance(node, ARITHMETIC)


def _calls_known(tree: ast.AST) -> bool:
    """Whether all calls are allowed, and nothing else has attributes."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    known = [
        call for call in calls if (name := ast.unparse(call)) in FUNCTIONS or SUMS.fullmatch(name)
    ]
    methods = [call for call in calls if isinstance(call, ast.Attribute) and call.attr in METHODS]
    good = {id(part) for call in known for part in ast.walk(call)} | {id(call) for call in methods}
    return all(
        id(node) in good
        for node in (*calls, *(node for node in ast.walk(tree) if isinstance(node, ast.Attribute)))
    )
