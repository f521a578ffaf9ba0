"""Bands called by name: the same run as by number, in every option that names one, after
steps too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from scipy import ndimage

import pipeline
from pipeline.errors import JobError
from pipeline.evaluation.verify import verify
from pipeline.execution.planning import plan
from pipeline.image.bands import numbered, unlike
from pipeline.image.frame import Frame
from pipeline.imageops.features import Feature
from pipeline.jobs import plugins
from pipeline.jobs.binding import bound
from tests.faults.staging import tiles_by_route

NAMES = ("red", "near infrared", "DAPI_2")
SHAPE = (48, 60)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Smooth noise in three bands, none of which is like another."""
    noise = np.random.default_rng(3).random((3, *SHAPE))
    return (ndimage.gaussian_filter(noise, (0, 2, 2)) * 2000 - 800).clip(1, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scene(image, tmp_path_factory) -> Path:
    """The image as a file whose bands have names."""
    path = tmp_path_factory.mktemp("named") / "scene.tif"
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=SHAPE[0], width=SHAPE[1], dtype="uint8", **place
    ) as file:
        file.write(image)
        file.descriptions = NAMES
    return path


def job(scene, out="out", segmenters=None, **parts) -> pipeline.Job:
    """A job whose result is not made yet."""
    return pipeline.Job(
        source=str(scene),
        segmenters=segmenters or {"a": {"kind": "threshold", "value": 100}},
        output={"path": str(out)},
        tiles={"size": 32},
        **parts,
    )


def labels(result: pipeline.Result) -> np.ndarray:
    return zarr.open_array(Path(result.path) / "labels.zarr" / "0")[:]


def ndvi(image: np.ndarray) -> np.ndarray:
    red, nir = image[0].astype(float), image[1].astype(float)
    return (nir - red) / (nir + red)


EXPECTED = {
    "band": ({"band": "near infrared", "value": 120}, lambda image: image[1] > 120),
    "index": ({"index": ["near infrared", "red"], "value": 0.1}, lambda image: ndvi(image) > 0.1),
    "index of a name and a number": (
        {"index": ["near infrared", 1], "value": 0.1},
        lambda image: ndvi(image) > 0.1,
    ),
    "weights": (
        {"weights": {"red": 0.25, "DAPI_2": 0.5}, "value": 80},
        lambda image: image[0] * 0.25 + image[2] * 0.5 > 80,
    ),
    "weights by number": (
        {"weights": {1: 0.25, 3: 0.5}, "value": 80},
        lambda image: image[0] * 0.25 + image[2] * 0.5 > 80,
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_labels_are_those_of_the_named_bands(name, image, scene, tmp_path):
    """A threshold of a band, an index or a weighted sum by name draws what NumPy and SciPy draw of
    those bands.
    """
    options, mask = EXPECTED[name]
    made = pipeline.run(
        job(scene, tmp_path / "out", {"a": {"kind": "threshold", **options}}), pipeline.local()
    )
    np.testing.assert_array_equal(labels(made), ndimage.label(mask(image))[0])


BY_NAME = {
    "threshold": {"band": "DAPI_2"},
    "watershed": {"index": ["red", "DAPI_2"]},
    "blobs": {"weights": {"near infrared": 1.0}},
    "edges": {"band": "red"},
    "region_growing": {"band": "near infrared"},
    "random_walker": {"index": ["DAPI_2", "near infrared"]},
    "quasi_flat": {"bands": ["DAPI_2", "red"]},
    "kmeans": {"bands": ["red"], "indices": [["near infrared", "red"]]},
    "gmm": {"bands": ["near infrared", "DAPI_2"]},
    "mean_shift": {"indices": [["DAPI_2", "red"]], "bands": []},
    "superpixels": {"bands": ["near infrared"]},
    "region_graph": {"bands": ["red", "near infrared"]},
    "normalized_cut": {"bands": ["red"]},
    "felzenszwalb": {"bands": ["DAPI_2"]},
    "cellpose": {"bands": ["near infrared", "red"]},
    "stardist": {"bands": ["red"]},
    "instanseg": {"bands": ["red", "DAPI_2"]},
}
NETWORKS = ("fcn", "maskrcnn", "onnx", "pt2", "torchscript", "unet")
"""Kinds that take bands by name by themselves; see the tests of networks."""


def by_number(value):
    """The same value with numbers."""
    if isinstance(value, dict):
        return [float(value.get(name, 0)) for name in NAMES]
    return (
        [by_number(each) for each in value] if isinstance(value, list) else NAMES.index(value) + 1
    )


def test_every_kind_that_looks_at_bands_is_tried():
    """Each kind that has an option for bands says so, and stands in the table."""
    having = {
        kind
        for kind in plugins.kinds()
        if {"band", "bands", "index"} & plugins.options(plugins.load(kind)).keys()
    }
    assert having == BY_NAME.keys() | set(NETWORKS)
    for kind in having:
        looked = {"band", "bands", "index", "indices", "weights"} & plugins.options(
            plugins.load(kind)
        ).keys()
        looked -= (
            {"weights"} if kind in ("kmeans", "mean_shift", *NETWORKS) else set()
        )  # of features, and of a network
        assert looked == set(plugins.load(kind).of_bands), kind


@pytest.mark.parametrize("kind", BY_NAME)
def test_named_and_numbered_are_one_run(kind, scene):
    """Of every kind that looks at bands, a job that calls them by name is the job that calls them
    by number.
    """
    frame = Frame(SHAPE, NAMES)
    named, plain = (
        {"kind": kind, **options}
        for options in (BY_NAME[kind], {k: by_number(v) for k, v in BY_NAME[kind].items()})
    )
    found, expected = (
        bound(job(scene, segmenters={"a": each}), frame).job for each in (named, plain)
    )
    assert found.plain() == expected.plain()
    assert found.plain() != job(scene, segmenters={"a": named}).plain()


def test_a_result_is_found_again_by_other_words(scene, tmp_path):
    """What was run by name is complete when it is asked for by number, and the reverse; verify
    takes either.
    """
    named = job(
        scene,
        tmp_path / "out",
        {"a": {"kind": "threshold", "band": "DAPI_2", "value": 90}},
        route=["a"],
    )
    plain = job(
        scene, tmp_path / "out", {"a": {"kind": "threshold", "band": 3, "value": 90}}, route=["a"]
    )
    made = pipeline.run(named, pipeline.local())
    for again in (plain, named):
        assert pipeline.run(again).record == made.record
        assert not verify(made.path, 2, job=again).wrong


STEPS = {
    "appended, by its name": (
        [{"kind": "index", "bands": ["near infrared", "red"], "append": True, "name": "ndvi"}],
        {"band": "ndvi"},
    ),
    "appended, unnamed": (
        [{"kind": "index", "bands": [2, 1], "append": True}],
        {"band": "index_near infrared_red"},
    ),
    "appended, by number": ([{"kind": "index", "bands": [2, 1], "append": True}], {"band": 4}),
    "in place": (
        [{"kind": "index", "bands": ["near infrared", "red"], "name": "ndvi"}],
        {"band": "ndvi"},
    ),
    "twice": (
        [
            {"kind": "index", "bands": ["DAPI_2", "red"], "append": True, "name": "red"},
            {"kind": "index", "bands": ["near infrared", "red"], "append": True, "name": "red"},
        ],
        {"band": "red_3"},
    ),
    "after others": (
        [
            {"kind": "scale", "factor": 2.0},
            {"kind": "index", "bands": ["near infrared", "red"], "append": True, "name": "v"},
        ],
        {"band": "v"},
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_bands_that_steps_make(name, image, scene, tmp_path):
    """The band that a step makes is called by the name that it is given, or that of its bands;
    others keep theirs.
    """
    steps, options = STEPS[name]
    asked = job(
        scene, tmp_path / "out", {"a": {"kind": "threshold", **options, "value": 0.1}}, steps=steps
    )
    np.testing.assert_array_equal(
        labels(pipeline.run(asked, pipeline.local())), ndimage.label(ndvi(image) > 0.1)[0]
    )


def test_a_step_that_makes_other_bands():
    """After a function that makes another number of bands, they go by numbers; after one that keeps
    it, by their names.
    """

    class First:
        reach = 0

        def __init__(self, many: int) -> None:
            self.many = many

        def __call__(self, block):
            return block[: self.many]

    for many, names in ((1, ("1",)), (3, NAMES)):
        assert bound(job("x.tif", steps=[First(many)]), Frame(SHAPE, NAMES)).frame.bands == names


def test_routes_and_layers_by_name(image, scene, tmp_path):
    """A trait of bands by name sends each tile where that by number does, and is recorded so."""
    two = {"a": {"kind": "threshold", "value": 100}, "b": {"kind": "threshold", "value": 150}}
    frame = Frame(SHAPE, NAMES)
    for named, plain in (
        ("mean_DAPI_2", "mean_3"),
        ("index_near infrared_red", "index_2_1"),
        ("index_2_red", "index_2_1"),
        ("mean_2", "mean_2"),
    ):
        route = [{"use": "a", "when": {named: {"min": 0.0}}}, "b"]
        found = bound(job(scene, segmenters=two, route=route), frame).job
        assert found.plain()["route"][0] == {"use": "a", "when": {plain: {"min": 0.0}}}
        stack = [{"things": "a", "when": {named: {"min": 0.0}}}, {"things": "b"}]
        assert bound(job(scene, segmenters=two, layers=stack), frame).job.plain()["layers"][0][
            "when"
        ] == {plain: {"min": 0.0}}
    least = float(image[1].mean())  # some of the tiles are above it
    by_name, by_number = (
        pipeline.run(
            job(
                scene,
                tmp_path / word,
                two,
                route=[{"use": "a", "when": {word: {"min": least}}}, "b"],
            ),
            pipeline.local(),
        )
        for word in ("mean_near infrared", "mean_2")
    )
    np.testing.assert_array_equal(labels(by_name), labels(by_number))
    assert tiles_by_route(by_name) == tiles_by_route(by_number)
    assert all(tiles_by_route(by_name)[use] for use in "ab"), (
        "a trait that is the same everywhere shows nothing"
    )


WRONG = {
    "a band": (
        {"segmenters": {"a": {"kind": "threshold", "band": "nir"}}},
        (
            r"segmenters\.a\.band: the image has no band 'nir'; allowed: red, near infrared, "
            r"DAPI_2, "
            r"or numbers from 1 to 3"
        ),
    ),
    "nearly a band": (
        {"segmenters": {"a": {"kind": "threshold", "band": "rde"}}},
        "did you mean 'red'",
    ),
    "another case": (
        {"segmenters": {"a": {"kind": "threshold", "band": "Red"}}},
        "no band 'Red'; .*did you mean 'red'",
    ),
    "of an index": (
        {"segmenters": {"a": {"kind": "threshold", "index": ["nir", "red"]}}},
        r"segmenters\.a\.index: the image has no band 'nir'",
    ),
    "of weights": (
        {"segmenters": {"a": {"kind": "threshold", "weights": {"red": 1, "swir": 2}}}},
        r"segmenters\.a\.weights: the image has no band 'swir'",
    ),
    "of weights, a number": (
        {"segmenters": {"a": {"kind": "threshold", "weights": {4: 1.0}}}},
        r"segmenters\.a\.weights: the image has no band '4'",
    ),
    "of a pair in a list": (
        {"segmenters": {"a": {"kind": "kmeans", "indices": [["red", "nir"]]}}},
        r"segmenters\.a\.indices: the image has no band 'nir'",
    ),
    "of a list": (
        {"segmenters": {"a": {"kind": "superpixels", "bands": ["red", "nir"]}}},
        r"segmenters\.a\.bands: the image has no band 'nir'",
    ),
    "of a step": (
        {"steps": [{"kind": "index", "bands": ["nir", "red"]}]},
        r"steps\[0\]\.bands: the image has no band 'nir'",
    ),
    "gone after a step": (
        {
            "steps": [{"kind": "index", "bands": ["near infrared", "red"], "name": "v"}],
            "segmenters": {"a": {"kind": "threshold", "band": "red"}},
        },
        r"segmenters\.a\.band: the image has no band 'red'; allowed: v, or",
    ),
    "of a route": (
        {"route": [{"use": "a", "when": {"mean_nir": {"min": 1}}}]},
        r"route\[0\]\.when\.mean_nir: the image has no such band; allowed: red",
    ),
    "of a route's index": (
        {"route": [{"use": "a", "when": {"index_nir_red": {"min": 1}}}]},
        r"route\[0\]\.when\.index_nir_red: the image has no such band",
    ),
    "of a layer": (
        {"layers": [{"things": "a", "when": {"mean_nir": {"min": 1}}}]},
        r"layers\[0\]\.when\.mean_nir: the image has no such band",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_band_that_is_not_there(name, scene, tmp_path):
    """A band that the image has not is refused before any work, wherever it is named, with those
    that it has.
    """
    parts, message = WRONG[name]
    with pytest.raises(JobError, match=message):
        plan(job(scene, tmp_path / "out", **parts), workers=1, memory=1 << 30)
    assert not (tmp_path / "out").exists()


def test_names_that_could_be_read_in_two_ways():
    """What may mean either of two bands is refused, not guessed; digits in a trait and whole
    numbers are always numbers.
    """
    shuffled = ("4", "3", "2")
    assert numbered(Feature(band=3), shuffled).band == 3
    assert numbered(Feature(band="3"), shuffled).band == 2
    assert numbered(Feature(weights={"4": 1.0}), shuffled).weights == (1.0, 0.0, 0.0)
    with pytest.raises(
        JobError, match="weights: 3 is the number of one band and the name of another"
    ):
        numbered(Feature(weights={"3": 1.0}), shuffled)
    route = [{"use": "a", "when": {"index_a_b_c": {"min": 0}}}]
    with pytest.raises(
        JobError,
        match=r"index_a_b_c: this may be the bands \(.*\) or \(.*\); allowed: their numbers",
    ):
        bound(job("x.tif", route=route), Frame(SHAPE, ("a", "b_c", "a_b", "c")))


def test_weights_of_nothing_are_not_looked_at():
    """A band whose weight is 0 changes nothing, not even where it is no number."""
    block = np.array([[[1.0, 2.0]], [[np.nan, np.inf]]])
    np.testing.assert_array_equal(
        Feature(weights=(2.0, 0.0)).feature(block, np.ones((1, 2), bool)), [[2.0, 4.0]]
    )


def test_no_two_names_alike():
    """A name that is taken gets the first number that makes it another."""
    assert [unlike("a", taken) for taken in ([], ["a"], ["a", "a_2"], ["A"])] == [
        "a",
        "a_2",
        "a_3",
        "a",
    ]
