"""Checksums of code change when what it does changes, and only then."""

from __future__ import annotations

import functools
import importlib.util
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from pipeline.jobs import plugins
from pipeline.jobs.code_checksums import checksums, value
from pipeline.segmenters.threshold import Threshold

MINE = '''
import functools
import math
import re
from dataclasses import dataclass, field
from enum import Enum
import numpy as np

LEVEL = 100
KNOWN = frozenset({"ash", "oak", "elm"})
WORDS = re.compile("a+")
TABLE = np.arange(2000)
MODEL = None

def model():
    global MODEL
    if MODEL is None:
        MODEL = object()
    return MODEL

def lowest(block):
    return block.min() + math.floor(1.5)

class Way(Enum):
    UP = 1
    DOWN = 2

class Base:
    offset = 3

    def shifted(self, block):
        return block + self.offset

@dataclass(frozen=True)
class Inner:
    weights: np.ndarray = field(default_factory=lambda: np.arange(5000.0))

@dataclass(frozen=True, eq=False)
class Mine(Base):
    level: int = 10
    inner: Inner = Inner()
    choose: object = max

    def __call__(self, block):
        "What is brighter."
        return self.shifted(block)[0] > 100

    @property
    def reach(self):
        return 2

def mine(block, level=LEVEL, *, more=()):
    """What is brighter than the lowest."""
    found = [step for step in (1, 2) if str(step) in KNOWN or WORDS.match("a")]
    def inside(block):
        return block[0] > lowest(block) + LEVEL + len(TABLE) + len(found)
    return inside(block) if Way.UP else model()

def made(level, limits):
    def within(block):
        return (block[0] > level) & (block[0] < limits[1])
    return within

def logged(function):
    @functools.wraps(function)
    def called(*args):
        return function(*args)
    return called

@logged
def decorated(block):
    return block[0] > 7

@functools.lru_cache
def kept(block):
    return block[0] > 7

mine.reach = 2
'''
WHAT = {
    "function": "mine",
    "lambda": "(lambda block: mine(block))",
    "closure": "made(3, np.array([1, 9]))",
    "decorated": "decorated",
    "cached": "kept",
    "partial": "functools.partial(mine, level=4)",
    "method": "Mine().shifted",
    "object": "Mine()",
    "array": "Mine(inner=Inner(np.arange(9000)))",
}


@pytest.fixture
def module(tmp_path):
    """Makes a module of a text: always of the same name, wherever it lies."""

    def make(text, folder="a"):
        path = tmp_path / folder / "trees.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("trees", path)
        made = importlib.util.module_from_spec(spec)
        sys.modules["trees"] = made
        exec(compile(text, str(path), "exec"), vars(made))
        return vars(made)

    yield make
    sys.modules.pop("trees", None)


def summed(names, what):
    return checksums(eval(what, names))


@pytest.mark.parametrize("what", WHAT)
def test_moved_code_is_the_same(what, module):
    """Code that is moved within its file, to a file elsewhere, or commented is the same; so is code
    that has run many times.
    """
    before = summed(module(MINE), WHAT[what])
    moved = module(
        "# moved\n\n\n" + MINE.replace("LEVEL = 100", "# a comment\nLEVEL = 100"), "elsewhere"
    )
    assert summed(moved, WHAT[what]) == before
    called = eval(WHAT[what], moved)
    for _ in range(100):  # CPython specialises bytecode as it runs
        try:
            called(np.ones((1, 2, 2)))
        except TypeError:
            break
    assert checksums(called) == before


CHANGES = {
    "body": ("> lowest(block)", ">= lowest(block)", {"function", "lambda", "partial"}),
    "constant": ("LEVEL = 100", "LEVEL = 101", {"function", "lambda", "partial"}),
    "helper": ("math.floor(1.5)", "math.ceil(1.5)", {"function", "lambda", "partial"}),
    "helper's constant": ("floor(1.5)", "floor(2.5)", {"function", "lambda", "partial"}),
    "default": ("level=LEVEL", "level=5", {"function", "lambda", "partial"}),
    "keyword": ("more=()", "more=(1,)", {"function", "lambda", "partial"}),
    "attribute": ("mine.reach = 2", "mine.reach = 3", {"function", "lambda", "partial"}),
    "set": ('"oak"', '"fir"', {"function", "lambda", "partial"}),
    "pattern": ('"a+"', '"b+"', {"function", "lambda", "partial"}),
    "array of the module": (
        "np.arange(2000)",
        "np.append(np.arange(1999), 5)",
        {"function", "lambda", "partial"},
    ),
    "enumeration": ("UP = 1", "UP = 0", {"function", "lambda", "partial"}),
    "closure": ("limits[1]", "limits[0]", {"closure"}),
    "decorator": ("return function(*args)", "return ~function(*args)", {"decorated"}),
    "decorated": (
        "def decorated(block):\n    return block[0] > 7",
        "def decorated(block):\n    return block[0] > 8",
        {"decorated"},
    ),
    "cached": (
        "def kept(block):\n    return block[0] > 7",
        "def kept(block):\n    return block[0] > 8",
        {"cached"},
    ),
    "call": ("> 100", "> 0", {"object", "array", "method"}),
    "property": ("return 2", "return 3", {"object", "array", "method"}),
    "base's method": ("block + self.offset", "block - self.offset", {"object", "array", "method"}),
    "base's constant": ("offset = 3", "offset = 4", {"object", "array", "method"}),
    "field": ("level: int = 10", "level: int = 11", {"object", "array", "method"}),
    "field's array": (
        "np.arange(5000.0)",
        "np.append(np.arange(4999.0), 1)",
        {"object", "method", "array"},
    ),
    "callable in a field": (
        "choose: object = max",
        "choose: object = min",
        {"object", "array", "method"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_code_is_another(change, module):
    """Whatever of a callable's code, constants, helpers or values changes, its checksums do; those
    of others do not.
    """
    old, new, changed = CHANGES[change]
    assert MINE.count(old) == 1
    before, now = module(MINE), None
    sums = {what: summed(before, text) for what, text in WHAT.items()}
    now = module(MINE.replace(old, new))
    assert {what for what, text in WHAT.items() if summed(now, text) != sums[what]} == changed


def test_values_tell_apart(module):
    """Arguments of partials, contents of closures and bytes of arrays in fields count, however long
    the arrays are.
    """
    names = module(MINE)
    long, other = np.zeros(10**5), np.zeros(10**5)
    other[5 * 10**4] = 1
    for one, another in (
        ("functools.partial(mine, level=4)", "functools.partial(mine, level=5)"),
        ("functools.partial(mine, 4)", "functools.partial(mine, '4')"),
        ("made(3, (1, 9))", "made(4, (1, 9))"),
        ("made(3, long)", "made(3, other)"),
        ("made(mine, ())", "made(decorated, ())"),
        ("made(3, {1: 'a'})", "made(3, {1: 'b'})"),
        ("made(3, np.float32(1))", "made(3, np.float64(1))"),
    ):
        assert summed(names | {"long": long, "other": other}, one) != summed(
            names | {"long": long, "other": other}, another
        )
    described = [
        plugins.describe(eval("Mine(inner=Inner(array))", names | {"array": array}))
        for array in (long, other)
    ]
    assert described[0]["code"] == described[1]["code"]
    assert described[0]["inner"]["weights"] != described[1]["inner"]["weights"]
    assert described[0] == plugins.describe(
        eval("Mine(inner=Inner(array))", names | {"array": long.copy()})
    )


def test_state_is_no_code(module):
    """What functions of a module assign, such as a model that is loaded when it is first needed, is
    no part of their code.
    """
    names = module(MINE)
    before = summed(names, "mine")
    names["model"]()
    assert names["MODEL"] is not None
    assert summed(names, "mine") == before


def test_the_same_in_every_process(tmp_path):
    """Checksums are the same in processes with other seeds of hashes, of code that is a script or
    typed, and after pickling.
    """
    (tmp_path / "trees.py").write_text(MINE)
    begin = "import json, sys, pickle\nfrom pipeline.jobs.code_checksums import checksums\n"
    ask = begin + "{}\nwhat = {}\n{}\nprint(json.dumps([checksums(one) for one in what]))"
    what = f"[{', '.join(WHAT.values())}]"
    imported = ask.format(
        "from trees import *",
        what,
        "what[0], what[7] = pickle.loads(pickle.dumps((what[0], what[7])))",
    )
    typed = ask.format(MINE, what, "")
    (tmp_path / "script.py").write_text("# moved\n" + typed)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path.cwd())]
        ),
    }

    def told(*command, seed):
        words = [sys.executable, *command]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=True,
            env={**environment, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
        )
        return done.stdout

    assert told("-c", imported, seed="1") == told("-c", imported, seed="77")
    assert told("-c", typed, seed="3") == told("script.py", seed="4")


def test_another_module_counts_as_far_as_it_is_used(tmp_path, monkeypatch):
    """What a function takes from a user's other module counts, by name or through the module, also
    where it imports that itself.
    """
    monkeypatch.syspath_prepend(str(tmp_path))
    files = tmp_path / "helping.py", tmp_path / "using.py"
    files[1].write_text(
        textwrap.dedent("""
        import helping
        from helping import doubled
        def by_module(block): return helping.halved(block)
        def by_name(block): return doubled(block)
        def within(block):
            from helping import halved
            return halved(block)
        """)
    )
    text = (
        "LIMIT = 2\ndef halved(block): return block / LIMIT\ndef doubled(block): return block "
        "* 2\ndef unused(block): return 0\n"
    )

    def sums(text):
        files[0].write_text(text)
        for name in ("helping", "using"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        import using

        return {
            name: checksums(getattr(using, name)) for name in ("by_module", "by_name", "within")
        }

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = sums(text)
    for old, new, changed in (
        ("block / LIMIT", "block // LIMIT", {"by_module", "within"}),
        ("LIMIT = 2", "LIMIT = 3", {"by_module", "within"}),
        ("block * 2", "block * 3", {"by_name"}),
        ("return 0", "return 1", set()),
    ):
        now = sums(text.replace(old, new) + "\n")
        assert {name for name in before if before[name] != now[name]} == changed
    for name in ("helping", "using"):
        sys.modules.pop(name, None)


def test_libraries_count_by_their_version(monkeypatch):
    """Of an installed library's function, its name and the library's version count; this package's
    kinds have no code to tell.
    """
    from skimage.segmentation import felzenszwalb

    from pipeline.jobs import bytecode

    def mine(block):
        return felzenszwalb(block[0])

    before = checksums(mine)
    assert len(before) == 1
    monkeypatch.setattr(bytecode, "version", lambda name: "0.0.1")
    bytecode.origin.cache_clear()
    assert checksums(mine) != before
    bytecode.origin.cache_clear()
    assert "code" not in plugins.describe(Threshold(value=3))


def test_data_by_value():
    """Data is summed by what it holds: sets and mappings in any order, what holds itself, and what
    cloudpickle brings back.
    """
    assert value({"b": 1, "a": {3, 1}}) == value({"a": {1, 3}, "b": 1})
    assert value([1, 2]) != value((1, 2)) != value([2, 1])
    assert len({value(one) for one in (1, 1.0, True, "1", b"1")}) == 5
    ring: list[object] = [1]
    ring.append(ring)
    assert value(ring) == value(pickle.loads(pickle.dumps(ring)))

    def mine(block):
        return block[0] > 3

    assert checksums(cloudpickle.loads(cloudpickle.dumps(functools.partial(mine)))) == checksums(
        functools.partial(mine)
    )
