"""Networks in the pipeline: the same logits, classes and objects however an image is tiled, and
loaded once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy import ndimage

import pipeline
from pipeline.engine import Engine
from pipeline.errors import SegmenterError
from pipeline.networks import architectures
from pipeline.networks.loaded import Resident, Way, loaded
from pipeline.networks.patches import Patches
from pipeline.networks.receptive_field import probe
from tests.small_networks import bundle, scene
from tests.tiling import tiled


def whole(network: Any, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The network's answer for the whole image at once, its edge pixels repeated up to whole
    strides.
    """
    stride = network.card.stride
    more = [(0, -n % stride) for n in image.shape[1:]]
    scaled = ((image - 120.0) / 50).astype(np.float32)
    padded = np.pad(scaled, [(0, 0), *more], mode="edge")[None]
    return np.asarray(network.resident.forward(padded))[0, :, : image.shape[1], : image.shape[2]]


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> pipeline.UNet:
    return pipeline.UNet(weights=bundle(tmp_path_factory.mktemp("unet")))


def test_the_reach_of_a_network_is_what_the_gradient_of_its_pixels_shows_at_most(
    unet: pipeline.UNet,
) -> None:
    """No pixel beyond the measured reach has a gradient, and the reach is found again by
    measuring.
    """
    network = architectures.load(unet._bundle)
    sight = probe(unet.resident.forward, 3, 8)
    assert sight.reach == unet.card.reach
    for phase in (0, 3, 7):
        image = torch.rand(1, 3, 32, 256, requires_grad=True)
        network(image)[0, :, 16, 120 + phase].sum().backward()
        seen = np.flatnonzero(image.grad.abs().sum((0, 1, 2)).numpy())
        assert max(120 + phase - seen[0], seen[-1] - 120 - phase) <= sight.reach
    assert seen[-1] - seen[0] > sight.reach  # it is not a bound from far above


@examples(max_examples=12)
@given(
    st.integers(60, 200),
    st.integers(60, 200),
    st.integers(0, 90),
    st.integers(0, 90),
    st.sampled_from([64, 104, 160]),
)
def test_a_window_has_the_logits_of_the_whole_image(
    rows: int, columns: int, top: int, left: int, extent: int
) -> None:
    """Whatever the window and the patches: within its reach of the edges of windows that the image
    goes on beyond, logits are the same.
    """
    # A small network of stride 2 whose reach is 5: what is true of its patches is true of all.
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 2, 3, padding=1),
        torch.nn.Upsample(scale_factor=2),
    )

    def forward(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(batch))).numpy()

    sight = probe(forward, 1, 2)
    assert sight.reach is not None
    image = np.random.default_rng(rows).standard_normal((1, rows, columns)).astype(np.float32)
    expected = forward(np.pad(image, [(0, 0), (0, rows % 2), (0, columns % 2)], mode="edge")[None])[
        0, :, :rows, :columns
    ]
    top, left = min(top, rows - 30), min(left, columns - 30)
    found = Patches(extent // 4, 2, sight.reach).run(image[:, top:, left:], (top, left), forward, 3)
    a, b = (sight.reach if top else 0), (sight.reach if left else 0)
    assert np.allclose(found[:, a:, b:], expected[:, top:, left:][:, a:, b:], atol=1e-5)


@pytest.mark.parametrize("tile", [(64, 96), (100, 100), (37, 200)])
def test_classes_are_those_of_the_whole_image(
    tile: tuple[int, int], unet: pipeline.UNet, tmp_path: Path
) -> None:
    """Tiled classes equal those of one forward of the whole image, image edges included, and every
    object is proved.
    """
    image = scene(203, 230)
    expected = unet.decoder.classify(whole(unet, image), np.ones(image.shape[1:], bool))
    assert len(np.unique(expected)) == 3
    result = pipeline.segment(
        image,
        unet,
        tmp_path / "out",
        tile=list(tile),
        results=["semantic", "instance"],
        engine=pipeline.local(),
    )
    assert np.array_equal(result.classes, expected)
    number = ndimage.label(expected == 1)[1]
    assert result.record["certificates"]["proved"] == result.record["objects"] >= number


def test_objects_are_those_of_the_whole_image(tmp_path: Path) -> None:
    """A decoder to objects gives in tiles what it gives for the whole image, wherever that is
    proved.
    """
    image, facts = scene(160, 190), {"seed": 3, "classes": ["thing"]}
    foreground = whole(
        pipeline.UNet(weights=bundle(tmp_path, decoder={"kind": "boundary"}, **facts)), image
    )[0]
    least = 1 / (
        1 + np.exp(-np.quantile(foreground, 0.8))
    )  # that of random weights is all or nothing
    network = pipeline.UNet(
        weights=bundle(tmp_path, decoder={"kind": "boundary", "threshold": float(least)}, **facts)
    )
    expected = network(image)
    result = tiled(image, network, (80, 95), tmp_path / "tiled", halo=16)
    proved = [
        number
        for number, certificate in enumerate(result.certificates, start=1)
        if certificate == "proved"
    ]
    assert len(proved) > 20
    for number in proved:
        place = result.labels == number
        theirs = np.unique(expected[place])
        assert len(theirs) == 1
        assert np.array_equal(expected == theirs[0], place)


def test_an_fcn_is_exact_too(tmp_path: Path) -> None:
    """Torchvision's FCN, whose answer is interpolated from every eighth pixel, gives in tiles the
    classes of the whole image.
    """
    fcn = pipeline.FCN(weights=bundle(tmp_path, "fcn", architecture={}, reach=232, window=8))
    image = scene(300, 330)
    expected = fcn.decoder.classify(whole(fcn, image), np.ones(image.shape[1:], bool))
    assert len(np.unique(expected)) > 1
    result = pipeline.segment(
        image, fcn, tmp_path / "out", tile=[300, 64], results=["semantic"], engine=pipeline.local()
    )
    assert np.array_equal(result.classes, expected)


def test_a_network_that_looks_at_its_window_is_blended_and_agreed(tmp_path: Path) -> None:
    """Squeeze and excitation pool the window: labels do not depend on the tiles all the same, and
    nothing is called proved.
    """
    pooled = {"encoder": "efficientnet-b0", "encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    path = bundle(tmp_path, architecture=pooled, reach=None, window=64)
    assert probe(pipeline.UNet(weights=path).resident.forward, 3, 8).reach is None
    network = pipeline.UNet(weights=path)
    image = scene(150, 170)
    one = pipeline.segment(
        image,
        network,
        tmp_path / "one",
        tile=200,
        results=["semantic", "instance"],
        engine=pipeline.local(),
    )
    many = pipeline.segment(
        image,
        network,
        tmp_path / "many",
        tile=64,
        results=["semantic", "instance"],
        engine=pipeline.local(),
    )
    assert np.array_equal(one.classes, many.classes)
    assert np.array_equal(one.labels, many.labels)
    assert many.record["certificates"]["proved"] == 0


def test_less_than_the_reach_is_allowed_and_told(unet: pipeline.UNet, tmp_path: Path) -> None:
    """With a margin below the reach the same labels come out of any tiling, but they are not
    proved.
    """
    short = pipeline.UNet(weights=unet.weights, margin=16, window=64)
    assert not short.proved
    assert unet.proved
    image = scene(130, 150)
    one = pipeline.segment(
        image,
        short,
        tmp_path / "one",
        tile=200,
        results=["semantic", "instance"],
        engine=pipeline.local(),
    )
    many = pipeline.segment(
        image,
        short,
        tmp_path / "many",
        tile=48,
        results=["semantic", "instance"],
        engine=pipeline.local(),
    )
    assert np.array_equal(one.classes, many.classes)
    assert many.record["certificates"]["proved"] == 0


def test_a_network_is_loaded_once_per_process(
    unet: pipeline.UNet, engine: Engine, tmp_path: Path
) -> None:
    """However many tiles there are, each process holds a network once."""
    image = scene(256, 256)
    pipeline.segment(image, unet, tmp_path / "out", tile=64, engine=engine)
    held = [
        [sha256 for sha256, _ in outcome.value] for outcome in engine.run(_held, None, range(8))
    ]
    assert {each.count(unet.sha256) for each in held} == {1}


def _held(_: None, __: int) -> list[tuple[str, Any]]:
    return loaded()


def test_mirror_images_change_nothing_about_exactness(unet: pipeline.UNet, tmp_path: Path) -> None:
    """With flips the answer is the mean of four, and still that of the whole image in any
    tiling.
    """
    network = pipeline.UNet(weights=unet.weights, flips=True)
    image = scene(130, 150)
    one = pipeline.segment(
        image, network, tmp_path / "one", tile=200, results=["semantic"], engine=pipeline.local()
    )
    many = pipeline.segment(
        image, network, tmp_path / "many", tile=60, results=["semantic"], engine=pipeline.local()
    )
    assert np.array_equal(one.classes, many.classes)
    block = image[:, :128, :128]  # whole strides, so that mirror images are cut alike
    mirrored = [
        np.flip(unet.predict(np.flip(block, axes), np.ones((128, 128), bool)), axes)
        for axes in ((), (-1,), (-2,), (-2, -1))
    ]
    assert np.allclose(
        network.predict(block, np.ones((128, 128), bool)), np.mean(mirrored, axis=0), atol=1e-4
    )


def test_batches_are_halved_where_memory_ends_and_at_last_the_processor_computes() -> None:
    """Out of memory costs a smaller batch, then the processor; each is told once, and the answer is
    the same.
    """
    sizes: list[int] = []

    def device(patches: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sizes.append(len(patches))
        if len(patches) > 3:
            raise torch.OutOfMemoryError
        return 2 * patches

    network = Resident(device, Way(device="cuda"))
    patches = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
    assert np.array_equal(network(patches), 2 * patches)
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    assert network.told == [
        "batches of 10 did not fit on cuda; 5 since",
        "batches of 5 did not fit on cuda; 2 since",
    ]
    assert network.size(64, 64) == 2

    sizes.clear()
    assert np.array_equal(
        Resident(device, Way(device="cuda"), room=lambda patch: 3 * len(patch))(patches),
        2 * patches,
    )
    assert sizes == [3, 3, 3, 1]

    def never(patches: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise torch.OutOfMemoryError

    network = Resident(never, Way(device="cuda"), fallback=lambda: lambda patches: 3 * patches)
    assert np.array_equal(network(patches[:1]), 3 * patches[:1])
    assert network.told == [
        "one patch did not fit on cuda; computed on the cpu since, and not called proved"
    ]
    assert network.moved
    with pytest.raises(
        SegmenterError, match=r"does not fit into the memory of cpu .* use a smaller window"
    ):
        Resident(never, Way())(patches[:1])


@examples(max_examples=60)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(0, 130),
    st.sampled_from([(32, 4), (16, 7), (24, 1)]),
)
def test_blended_patches_do_not_depend_on_the_window(
    rows: int, columns: int, start: int, cut: tuple[int, int]
) -> None:
    """What a network that looks at its whole patch gives at a pixel is the same in every window
    that holds the patches around it.
    """
    extent, margin = cut

    def forward(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return batch - batch.mean(axis=(2, 3), keepdims=True)

    patches = Patches(extent, 1, margin, blended=True)
    image = np.random.default_rng(rows).standard_normal((1, rows, columns)).astype(np.float32)
    expected = patches.run(image, (0, 0), forward)
    start = min(start, columns - 1)
    found = patches.run(image[:, :, start:], (0, start), forward, 5)
    kept = patches.halo if start else 0
    assert np.array_equal(found[:, :, kept:], expected[:, :, start + kept :])


@pytest.mark.parametrize("factor", [2.0, 1.7, 0.6])
def test_an_image_of_other_pixels_is_resampled_alike_in_any_tiling(
    factor: float, tmp_path: Path
) -> None:
    """A network that is to see other pixels gives the same classes in any tiles; those of the
    resampled image, where grids meet.
    """
    network = pipeline.UNet(
        weights=bundle(tmp_path, pixel_size=factor, unit="metre"), pixel_size="resample"
    )
    image = scene(180, 210)
    path = tmp_path / "image.tif"
    profile = {
        "driver": "GTiff",
        "height": 180,
        "width": 210,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32633",
    }
    with rasterio.open(
        path, "w", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), **profile
    ) as file:
        file.write(image)
    one = pipeline.segment(
        path, network, tmp_path / "one", tile=256, results=["semantic"], engine=pipeline.local()
    )
    many = pipeline.segment(
        path, network, tmp_path / "many", tile=70, results=["semantic"], engine=pipeline.local()
    )
    assert np.array_equal(one.classes, many.classes)
    if factor == 2:
        coarse = image.reshape(3, 90, 2, 105, 2).mean(axis=(2, 4))
        fine = ndimage.zoom(
            whole(network, coarse), (1, 2, 2), order=1, grid_mode=True, mode="nearest"
        )
        assert (
            np.asarray(one.classes) == network.decoder.classify(fine, np.ones((180, 210), bool))
        ).mean() > 0.999


def test_a_tile_that_another_device_computed_is_not_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a device runs out of memory in the middle of a run, what the processor draws in its
    place is agreed at best, and told.
    """
    unet = pipeline.UNet(weights=bundle(tmp_path))
    calm = pipeline.segment(
        scene(96, 96),
        unet,
        tmp_path / "calm",
        tile=48,
        results=["instance"],
        engine=pipeline.local(),
    )
    assert calm.record["certificates"]["proved"] == calm.record["objects"] > 0
    resident, calls = unet.resident, []

    def device(patches: np.ndarray[Any, Any]) -> Any:
        calls.append(len(patches))
        if len(calls) > 1:
            raise torch.OutOfMemoryError
        return forward(patches)

    forward = resident.forward
    for name, value in (
        ("forward", device),
        ("fallback", lambda: forward),
        ("moved", False),
        ("told", []),
    ):
        monkeypatch.setattr(resident, name, value)
    result = pipeline.segment(
        scene(96, 96),
        unet,
        tmp_path / "out",
        tile=48,
        results=["instance"],
        engine=pipeline.local(),
    )
    assert resident.moved
    assert np.array_equal(result.labels, calm.labels)
    counts = result.record["certificates"]
    first = {int(number) for number in np.unique(result.labels.values[:48, :48]) if number}
    later = {int(number) for number in np.unique(result.labels.values) if number} - {
        number
        for number in first
        if not (result.labels.values[48:] == number).any()
        and not (result.labels.values[:, 48:] == number).any()
    }
    table = result.objects.set_index("id")["certificate"]
    assert set(table[sorted(later)]) == {"agreed"}
    assert counts["disputed"] == 0
    assert any("not called proved" in line for line in result.lines())


def test_float32_is_float32(tmp_path: Path) -> None:
    """While a network of float32 computes, nothing may be multiplied with fewer bits; afterwards
    all is as it was, also where it fails.
    """
    unet = pipeline.UNet(weights=bundle(tmp_path))
    seen = []

    def precisions() -> list[Any]:
        return [
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
        ]

    handle = unet.resident.forward
    before = precisions()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        chosen = precisions()

        class Watching(torch.overrides.TorchFunctionMode):
            def __torch_function__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if "conv" in getattr(function, "__name__", ""):
                    with torch._C.DisableTorchFunction():
                        seen.append(precisions())
                return function(*args, **(kwargs or {}))

        with Watching(), torch.autocast("cpu", torch.bfloat16):
            answer = handle(np.zeros((1, 3, 32, 32), np.float32))
        assert answer.dtype == np.float32
        assert seen
        assert all(each == ["highest", False, False] for each in seen)
        assert precisions() == chosen
        with pytest.raises(RuntimeError):
            handle(np.zeros((1, 5, 32, 32), np.float32))
        assert precisions() == chosen
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[2]
