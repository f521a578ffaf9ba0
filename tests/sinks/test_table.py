"""The table of objects, held against pyarrow, pandas, numpy and rasterio's geometry."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.transform import xy

from pipeline.errors import OutputError, ScratchError
from pipeline.image.frame import Frame
from pipeline.image.pixel_area import size_column
from pipeline.sinks.table import join_parts, names, schema, write_part

UTM = CRS.from_epsg(32633).to_wkt()
PLAIN = Frame((60, 80), bands=("red", "NIR (832 nm)"))
NORTH_UP = Frame((60, 80), transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0), crs=UTM)
ROTATED = Frame((60, 80), transform=(8.0, 6.0, 500_000.0, 6.0, -8.0, 4_000_000.0), crs=UTM)
DEEP = Frame((5, 60, 80))
MICROSCOPE = Frame((60, 80), pixel_size=(0.5, 0.25), unit="micrometer")
FRAMES = {"plain": PLAIN, "north up": NORTH_UP, "rotated": ROTATED, "3-D": DEEP}
IN_CRS = ["x", "y", "x_min", "y_min", "x_max", "y_max"]


def objects(frame, number, seed=0):
    """As measuring gives them: boxes within the image, centroids within the boxes, and statistics
    of any value.
    """
    rng = np.random.default_rng(seed)
    columns = {
        "id": np.arange(1, number + 1, dtype=np.uint64) + seed,
        "area": rng.integers(1, 2**40, number),
    }
    if name := size_column(frame):
        columns[name] = rng.uniform(1, 1e9, number)
    for axis, extent in zip(("plane", "row", "column")[-frame.ndim :], frame.shape, strict=True):
        low = rng.integers(0, extent, number)
        high = rng.integers(low + 1, extent + 1)
        columns |= {f"{axis}_min": low, f"{axis}_max": high, axis: rng.uniform(low, high - 1)}
    for name in names(frame.bands):
        columns |= {
            f"{kind}_{name}": rng.normal(size=number) for kind in ("mean", "min", "max", "std")
        }
    columns["route"] = rng.choice(["fields", "crowns"], number)
    columns["certificate"] = rng.choice(["proved", "agreed", "disputed"], number)
    return columns | {"class": rng.integers(1, 4, number), "tiles": rng.integers(1, 9, number)}


@pytest.mark.parametrize(
    ("frame", "place", "sized", "crs"),
    [
        pytest.param(PLAIN, [["row", "column"]], [], [], id="plain"),
        pytest.param(NORTH_UP, [["row", "column"]], ["area_m2"], IN_CRS, id="georeferenced"),
        pytest.param(DEEP, [["plane", "row", "column"]], [], [], id="3-D"),
        pytest.param(MICROSCOPE, [["row", "column"]], ["area_um2"], [], id="microscope"),
    ],
)
def test_the_columns_are_in_their_order(frame, place, sized, crs):
    """Identity, pixels, coordinates, statistics by band, and how the object came about, with 64-bit
    numbers throughout.
    """
    [axes] = place
    statistics = [
        f"{kind}_{band}" for band in names(frame.bands) for kind in ("mean", "min", "max", "std")
    ]
    boxes = [f"{axis}_{side}" for side in ("min", "max") for axis in axes]
    layout = schema(frame)
    assert layout.names == [
        "id",
        "area",
        *sized,
        *boxes,
        *axes,
        *crs,
        *statistics,
        "class",
        "route",
        "certificate",
        "tiles",
    ]
    assert {str(layout.field(name).type) for name in ["area", *boxes]} == {"int64"}
    assert {str(layout.field(name).type) for name in [*sized, *axes, *crs, *statistics]} == {
        "double"
    }
    assert [str(layout.field(name).type) for name in ("id", "tiles")] == ["uint64", "int32"]


@pytest.mark.parametrize("name", FRAMES)
def test_pandas_reads_what_was_given(tmp_path, name):
    """Every column given comes back as it was, texts as categories."""
    frame = FRAMES[name]
    columns = objects(frame, 50)
    write_part(str(tmp_path / "part.parquet"), frame, columns)
    read = pd.read_parquet(tmp_path / "part.parquet")
    assert list(read.columns) == schema(frame).names
    for column, values in columns.items():
        assert np.array_equal(read[column].to_numpy(), values), column
    assert isinstance(read["route"].dtype, pd.CategoricalDtype)


@pytest.mark.parametrize("frame", [NORTH_UP, ROTATED], ids=["north up", "rotated"])
def test_coordinates_are_those_of_rasterio(tmp_path, frame):
    """Centroids are where rasterio places pixels' centres, and boxes hold the outer edges of their
    pixels, rotated or not.
    """
    columns = objects(frame, 200)
    write_part(str(tmp_path / "part.parquet"), frame, columns)
    read = pd.read_parquet(tmp_path / "part.parquet")
    transform = Affine(*frame.transform)
    assert np.allclose(
        read[["x", "y"]].T, xy(transform, columns["row"], columns["column"]), rtol=0, atol=1e-6
    )
    for index in range(len(read)):
        top, bottom, left, right = (
            columns[name][index] for name in ("row_min", "row_max", "column_min", "column_max")
        )
        corners = [
            xy(transform, row, column, offset="ul")
            for row in (top, bottom)
            for column in (left, right)
        ]
        expected = [*np.min(corners, axis=0), *np.max(corners, axis=0)]
        assert np.allclose(
            read.loc[index, ["x_min", "y_min", "x_max", "y_max"]].astype(float),
            expected,
            rtol=0,
            atol=1e-6,
        )


def test_an_object_of_one_pixel_is_that_pixel(tmp_path):
    """One pixel at (3, 4) has its centroid there, in the CRS at the pixel's centre, and its box is
    the pixel.
    """
    columns = objects(NORTH_UP, 1) | {
        name: np.array([value]) for name, value in (("row_min", 3), ("row_max", 4), ("row", 3.0))
    }
    columns |= {
        name: np.array([value])
        for name, value in (("column_min", 4), ("column_max", 5), ("column", 4.0))
    }
    write_part(str(tmp_path / "part.parquet"), NORTH_UP, columns)
    [row] = pq.read_table(tmp_path / "part.parquet").to_pylist()
    assert [row[name] for name in IN_CRS] == [
        500_045.0,
        3_999_965.0,
        500_040.0,
        3_999_960.0,
        500_050.0,
        3_999_970.0,
    ]


@given(st.lists(st.integers(0, 30), max_size=6))
@settings(max_examples=25, deadline=None)
def test_parts_are_joined_in_their_order(tmp_path_factory, sizes):
    """The joined table is the parts' rows one after the other, with one row group for each part
    that has rows.
    """
    folder = tmp_path_factory.mktemp("parts")
    parts = [str(folder / f"{index}.parquet") for index in range(len(sizes))]
    frames = []
    for index, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        write_part(part, NORTH_UP, objects(NORTH_UP, size, seed=index))
        frames.append(pq.read_table(part).to_pandas().astype({"route": str, "certificate": str}))
    assert join_parts(parts, str(folder / "all.parquet"), NORTH_UP) == sum(sizes)
    file = pq.ParquetFile(folder / "all.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [
        size for size in sizes if size
    ]
    assert file.schema_arrow.equals(schema(NORTH_UP), check_metadata=True)
    joined = file.read().to_pandas().astype({"route": str, "certificate": str})
    assert len(joined) == sum(sizes)
    if sum(sizes):
        expected = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
        pd.testing.assert_frame_equal(joined, expected, check_exact=True)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """Writing and joining twice gives the same files."""
    made = []
    for attempt in ("a", "b"):
        folder = tmp_path / attempt
        folder.mkdir()
        parts = [str(folder / f"{index}.parquet") for index in range(3)]
        for index, part in enumerate(parts):
            write_part(part, ROTATED, objects(ROTATED, 40, seed=index))
        join_parts(parts, str(folder / "all.parquet"), ROTATED)
        made.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert made[0] == made[1]


def test_the_metadata_explain_the_table(tmp_path):
    """The file says what each column means and in which reference system the coordinates are."""
    join_parts([], str(tmp_path / "all.parquet"), NORTH_UP)
    metadata = pq.read_schema(tmp_path / "all.parquet").metadata
    assert CRS.from_wkt(metadata[b"tilewise:crs"].decode()).to_epsg() == 32633
    notes = json.loads(metadata[b"tilewise:columns"])
    assert list(notes) == schema(NORTH_UP).names
    assert all(notes.values())
    assert b"tilewise:crs" not in schema(PLAIN).metadata


def without(name):
    return lambda columns: {key: values for key, values in columns.items() if key != name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(without("area"), r"missing are \['area'\]", id="a column is missing"),
        pytest.param(
            lambda c: c | {"x": c["row"]}, r"unknown \['x'\]", id="a column that is made here"
        ),
        pytest.param(lambda c: c | {"row": c["row"][:-1]}, "lengths", id="a short column"),
        pytest.param(
            lambda c: c | {"certificate": np.array(["sure"] * len(c["id"]))},
            "proved, agreed, disputed",
            id="an unknown certificate",
        ),
        pytest.param(lambda c: c | {"area": c["area"] + 0.5}, "truncated", id="half a pixel"),
        pytest.param(
            lambda c: c | {"area": np.full(len(c["id"]), 2**63, np.uint64)},
            "out of bounds|not in range",
            id="too many pixels",
        ),
        pytest.param(
            lambda c: c | {"tiles": np.full(len(c["id"]), 2**31)},
            "not in range",
            id="too many tiles",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, change, reason):
    """Nothing is written where a column is missing, unknown, short, or holds what the
    table cannot.
    """
    with pytest.raises(ValueError, match=reason):
        write_part(str(tmp_path / "part.parquet"), NORTH_UP, change(objects(NORTH_UP, 5)))
    assert not list(tmp_path.iterdir())


def test_a_band_without_a_measured_pixel_has_no_statistics(tmp_path):
    """NaN, the statistic of a band of which an object has no measured pixel, is null in the file;
    infinity is a value.
    """
    columns = objects(NORTH_UP, 3) | {"mean_1": np.array([np.nan, np.inf, -np.inf])}
    write_part(str(tmp_path / "part.parquet"), NORTH_UP, columns)
    column = pq.read_table(tmp_path / "part.parquet")["mean_1"]
    assert column.to_pylist() == [None, np.inf, -np.inf]


def test_parts_of_another_image_are_refused(tmp_path):
    """A part whose columns, or whose reference system, are another image's is not mixed in."""
    write_part(str(tmp_path / "part.parquet"), PLAIN, objects(PLAIN, 3))
    with pytest.raises(OutputError, match="another image"):
        join_parts([str(tmp_path / "part.parquet")], str(tmp_path / "all.parquet"), NORTH_UP)


def test_damaged_parts_are_not_joined(tmp_path):
    """Whatever byte of a part is altered, it is refused, or the table read is the same."""
    part, target = tmp_path / "part.parquet", tmp_path / "all.parquet"
    write_part(str(part), PLAIN, objects(PLAIN, 40))
    data, expected = part.read_bytes(), pq.read_table(part)
    refused = 0
    for place in range(0, len(data), 29):
        part.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            join_parts([str(part)], str(target), PLAIN)
        except (ScratchError, OutputError):
            refused += 1
        else:
            assert pq.read_table(target).equals(expected), place
    assert refused


def test_no_table_of_some_parts_is_left(tmp_path):
    """Where a part cannot be read, there is no joined file, nor a piece of one."""
    write_part(str(tmp_path / "part.parquet"), PLAIN, objects(PLAIN, 3))
    with pytest.raises(ScratchError, match="gone"):
        join_parts(
            [str(tmp_path / "part.parquet"), str(tmp_path / "gone.parquet")],
            str(tmp_path / "all.parquet"),
            PLAIN,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["part.parquet"]


@pytest.mark.parametrize("end", [0, 3, 100, -1])
def test_parts_cut_short_are_not_joined(tmp_path, end):
    """A part whose end is missing, or that is not there, is refused by its name."""
    part = tmp_path / "part.parquet"
    write_part(str(part), PLAIN, objects(PLAIN, 40))
    part.write_bytes(part.read_bytes()[:end])
    with pytest.raises(ScratchError, match=r"part\.parquet: the table cannot be read"):
        join_parts([str(part)], str(tmp_path / "all.parquet"), PLAIN)
    part.unlink()
    with pytest.raises(ScratchError, match=r"part\.parquet: the table cannot be read"):
        join_parts([str(part)], str(tmp_path / "all.parquet"), PLAIN)


@given(st.lists(st.text(max_size=6), max_size=8))
def test_bands_have_names_of_their_own(bands):
    """Whatever the bands are called, their names are plain words, and no two are alike where case
    is ignored.
    """
    made = names(bands)
    assert len(made) == len(bands)
    assert len({name.casefold() for name in made}) == len(made)
    assert all(f"x{name}".isidentifier() and name.isascii() for name in made)


def test_the_schema_is_arrows():
    """Statistics of two bands whose names differ in case only stay apart."""
    layout = schema(Frame((3, 3), bands=("Red", "red", "1")))
    assert isinstance(layout, pa.Schema)
    assert len({name.casefold() for name in layout.names}) == len(layout.names)
