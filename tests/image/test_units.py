"""Units of length by all their names, against SciPy's constants."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import constants

import pipeline
from pipeline.image.frame import Frame
from pipeline.image.pixel_area import alike, in_unit, pixel_extent, scale, size_column, unclear
from pipeline.image.units import COMMON, length
from pipeline.sinks.multiscales import space_of

NAMES = {
    "angstrom": ("Å", "\u212b", "angstrom", "angstroms", "Angstrom", "ANGSTROM", "ångström"),
    "micro": (
        "µm",
        "μm",
        "um",
        "micron",
        "microns",
        "Microns",
        "micrometer",
        "micrometers",
        "micrometre",
        "MICROMETERS",
        " um ",
    ),
    "nano": ("nm", "nanometer", "nanometres", "NM"),
    "pico": ("pm", "picometer", "picometers"),
    "deci": ("dm", "decimeter", "decimetres"),
    "centi": ("cm", "centimeter", "CM"),
    "milli": ("mm", "millimetre", "millimeters", "MM"),
    "kilo": ("km", "kilometer", "kilometres"),
    "inch": ("inch", "inches", "in", "Inch"),
    "foot": ("foot", "feet", "ft"),
    "yard": ("yard", "yards", "yd"),
    "mile": ("mile", "miles", "mi"),
    "survey_foot": ("survey_foot", "survey foot"),
    "nautical_mile": ("nautical mile", "nautical_miles"),
    "parsec": ("parsec", "pc"),
}
NONE = (
    "pixel",
    "px",
    "pixels",
    "pt",
    "li",
    "second",
    "degree",
    "unknown",
    "cubits",
    "",
    "A",
    "kg",
    "m2",
    "m**2",
    "10 um",
    "reference frame",
)


@pytest.mark.parametrize("constant", NAMES)
def test_lengths(constant):
    """A unit of length is as long as SciPy has it, by each of its names. (Of a parsec they have
    eleven digits in common.)
    """
    for name in NAMES[constant]:
        assert float(length(name).metres) == pytest.approx(
            getattr(constants, constant), rel=1e-10
        ), name  # of a parsec they have eleven digits in common
        assert length(name).name == length(NAMES[constant][0]).name


@pytest.mark.parametrize("name", NONE)
def test_no_lengths(name):
    """What is no unit of length is taken for none."""
    assert length(name) is None


@pytest.mark.parametrize("name", COMMON)
def test_what_is_known_without_the_library_is_what_it_knows(name):
    """Units that are not looked up are as long as Pint has them."""
    import pint

    exact = pint.UnitRegistry(non_int_type=Fraction)
    assert length(name).metres == exact.Quantity(Fraction(1), name).to("meter").magnitude


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(NAMES)), st.integers(0, 2), st.floats(0.01, 100)),
        min_size=2,
        max_size=3,
    ),
    st.data(),
)
def test_sizes_of_axes_come_into_one_unit(axes, data):
    """Sizes in any units are those in the last one's; an axis that has none is not known, and takes
    no other along with it.
    """
    units = [NAMES[name][at] for name, at, _ in axes if at < len(NAMES[name])]
    axes = [each for each in axes if each[1] < len(NAMES[each[0]])]
    if not axes:
        return
    lost = data.draw(st.sets(st.integers(0, len(axes) - 1)))
    given = [
        data.draw(st.sampled_from([None, "cubits"])) if k in lost else unit
        for k, unit in enumerate(units)
    ]
    name, sizes, unlike = alike(given, [size for _, _, size in axes])
    left = [k for k in range(len(axes)) if k not in lost]
    for k, (constant, _, size) in enumerate(axes):
        if k in lost and left:
            assert (sizes[k], k in unlike) == (size, True)
        elif left:
            assert k not in unlike
            assert sizes[k] * float(length(name).metres) == pytest.approx(
                size * getattr(constants, constant), rel=1e-9
            )
    assert len(unclear("zyx"[: len(axes)], given)) == (
        len(lost) if left else sum(unit is not None for unit in given)
    )


def test_an_unknown_axis_leaves_the_sizes_of_the_others():
    """Of a volume whose planes have no size: no column of volumes, its rows and columns keep theirs
    in what is written.
    """
    frame = Frame((2, 20, 30), pixel_size=(2.0, 0.5, 0.25), unit="micrometer", unlike=(0,))
    assert (scale(frame), size_column(frame)) == (None, None)
    space = space_of(frame)
    assert space.scale == (2.0, 0.5, 0.25)
    assert [axis.get("unit") for axis in space.axes] == [None, "micrometer", "micrometer"]


def test_columns_have_few_units():
    """Areas are told in square micrometres, millimetres or metres, and are what SciPy's constants
    make of them.
    """
    for unit, column, metres in (
        ("pm", "area_um2", 1e-6),
        ("micron", "area_um2", 1e-6),
        ("mm", "area_mm2", 1e-3),
        ("inches", "area_m2", 1),
    ):
        frame = Frame((5, 5), pixel_size=(2.0, 3.0), unit=unit)
        constant = {
            "pm": constants.pico,
            "micron": constants.micron,
            "mm": constants.milli,
            "inches": constants.inch,
        }[unit]
        assert size_column(frame) == column
        assert pixel_extent(frame) == pytest.approx(6 * (constant / metres) ** 2)


def test_units_from_the_image_to_the_results(tmp_path):
    """An OME-Zarr in microns and nanometers gives a table in square micrometres, and labels in
    micrometers.
    """
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    pixels = np.zeros((20, 30), np.uint8)
    pixels[2:8, 3:9] = 200
    group.create_array("0", data=pixels, chunks=(20, 30))
    axes = [
        {"name": "y", "type": "space", "unit": "nanometers"},
        {"name": "x", "type": "space", "unit": "microns"},
    ]
    moves = [{"type": "scale", "scale": [500.0, 0.25]}]
    scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": moves}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": scales}
    out = tmp_path / "out"
    pipeline.segment(
        tmp_path / "a.zarr", {"kind": "threshold", "value": 100}, out, engine=pipeline.local()
    )
    table = pq.read_table(next(out.glob("*.parquet")))
    assert table["area_um2"].to_pylist() == pytest.approx([36 * 0.5 * 0.25])
    written = dict(zarr.open_group(out / "labels.zarr", mode="r").attrs)["ome"]["multiscales"][0]
    assert [axis["unit"] for axis in written["axes"]] == ["micrometer", "micrometer"]


def test_networks_compare_lengths_and_not_numbers():
    """A size in another unit is that size: half a millimetre is not half a micrometre."""
    assert in_unit(500.0, "nanometer", "µm") == 0.5
    assert in_unit(0.5, "millimeter", "micrometer") == pytest.approx(500.0)
    assert in_unit(0.5, "pixel", "micrometer") is None


def test_the_library_is_loaded_for_rare_units_only():
    """Pint is loaded where a unit must be looked up, and not for those that images mostly have."""
    units = ("µm", "micrometer", "nm", "mm", "pixel", "unknown", "degree")
    code = f"import sys; from pipeline.image.units import length; [length(u) for u in {units}]"
    code += "; assert 'pint' not in sys.modules; length('inch'); assert 'pint' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
