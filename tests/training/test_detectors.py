"""Training of detectors: truth of boxes and of several classes, what is asked of a crop, and discs
that are found in the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.draw import ellipse

import pipeline
from pipeline.errors import JobError
from pipeline.image.grid import Box
from pipeline.networks import card as cards
from pipeline.segmenters.decoders.detections import ByKey
from pipeline.training import loop, recipe, samples
from pipeline.training.augmentation import Augment
from pipeline.training.losses import SLIVER, detection

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SMALL = {
    "backbone": "resnet18",
    "anchors": [10, 16, 24, 32, 48],
    "ratios": [1.0],
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 64,
    "rpn_post_nms_top_n_train": 100,
    "rpn_post_nms_top_n_test": 100,
}


def discs(
    seed: int, shape: tuple[int, int], number: int
) -> tuple[Any, list[tuple[int, int, int]], Any]:
    """A dark image with bright discs that do not touch, their rows, columns and radii, and their
    labels.
    """
    rng = np.random.default_rng(seed)
    labels, places = np.zeros(shape, np.int64), []
    while len(places) < number:
        radius = int(rng.integers(7, 12))
        row, column = (int(rng.integers(radius + 1, n - radius - 1)) for n in shape)
        near = [
            1
            for r, c, other in places
            if (r - row) ** 2 + (c - column) ** 2 < (radius + other + 3) ** 2
        ]
        if not near:
            places.append((row, column, radius))
            rows, columns = ellipse(
                row + 0.0, column + 0.0, radius + 0.5, radius + 0.5, shape=shape
            )
            labels[rows, columns] = len(places)
    image = np.where(labels > 0, 190, 40) + rng.normal(0, 8, shape)
    return np.clip(image, 0, 255).astype(np.uint8), places, labels


def card(folder: Path, classes: list[str] | None = None, **train: Any) -> recipe.Recipe:
    """A small detector for images of one band and their truth beside them."""
    parts = {
        "name": "discs",
        "kind": "maskrcnn",
        "bands": ["1"],
        "classes": classes or ["disc"],
        "architecture": SMALL,
        "window": 128,
        "value_scaling": {"type": "min-max", "minimum": 0, "maximum": 255},
        "train": {
            "data": [{"image": "*.png", "truth": "*.json"}],
            "steps": 2,
            "batch": 2,
            "crop": 96,
            "every": 2,
            "device": "cpu",
            **train,
        },
    }
    return recipe.read(parts, folder)


def coco(
    path: Path,
    shape: tuple[int, int],
    boxes: list[tuple[float, float, float, float]],
    names: list[str],
) -> None:
    """Boxes (column, row, width, height) as COCO's JSON."""
    kinds = sorted(set(names))
    about = {
        "images": [
            {
                "id": 1,
                "file_name": path.with_suffix(".png").name,
                "height": shape[0],
                "width": shape[1],
            }
        ],
        "categories": [{"id": k, "name": kind} for k, kind in enumerate(kinds)],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": kinds.index(name), "bbox": list(box)}
            for k, (box, name) in enumerate(zip(boxes, names, strict=True))
        ],
    }
    path.write_text(json.dumps(about))


def write(
    folder: Path, name: str, seed: int, shape: tuple[int, int] = (160, 200), number: int = 12
) -> Any:
    """An image of discs and its truth of boxes. The labels of the discs."""
    image, places, labels = discs(seed, shape, number)
    Image.fromarray(image).save(folder / f"{name}.png")
    boxes = [(c - r, a - r, 2 * r + 1, 2 * r + 1) for a, c, r in places]
    coco(folder / f"{name}.json", shape, boxes, ["disc"] * len(boxes))
    return labels


def test_a_box_stands_for_the_ellipse_in_it(tmp_path: Path) -> None:
    """Of boxes, the truth is the ellipse in each, as scikit-image draws it, small ones above large
    ones, whatever their order.
    """
    Image.fromarray(np.full((80, 90), 9, np.uint8)).save(tmp_path / "a.png")
    boxes = [(30.0, 20.0, 12.0, 10.0), (10.0, 8.0, 50.0, 60.0), (70.0, 60.0, 15.0, 12.0)]
    coco(tmp_path / "a.json", (80, 90), boxes, ["disc"] * 3)
    truth = samples.gathered(card(tmp_path, held_out=0.1))[0][0].truth.read(Box.whole((80, 90)))
    wanted = np.zeros((80, 90), np.int64)
    for number, (column, row, width, height) in enumerate([boxes[1], boxes[2], boxes[0]], start=1):
        rows, columns = ellipse(
            row + height / 2 - 0.5, column + width / 2 - 0.5, height / 2, width / 2
        )
        wanted[rows, columns] = number
    assert (truth != wanted).mean() < 0.005  # a polygon of 32 corners is a little smaller
    assert set(np.unique(truth)) == {0, 1, 2, 3}


def test_objects_keep_their_classes(tmp_path: Path) -> None:
    """Of a truth with several classes, what a crop asks for has the classes of its objects; a class
    that the card has not is refused.
    """
    image, places, _ = discs(3, (120, 120), 8)
    Image.fromarray(image).save(tmp_path / "a.png")
    names = ["small" if radius < 9 else "large" for *_, radius in places]
    assert len(set(names)) == 2
    coco(
        tmp_path / "a.json",
        (120, 120),
        [(c - r, a - r, 2 * r + 1, 2 * r + 1) for a, c, r in places],
        names,
    )
    given = card(tmp_path, ["small", "large"], held_out=0.1)
    pair = samples.gathered(given)[0][0]
    still = Augment(zoom=1, brightness=0, contrast=0, gamma=0, noise=0, blur=0)
    seen = set()
    for seed in range(20):
        image, wanted = samples.crop([pair], given.decoder, 64, still, np.random.default_rng(seed))
        asked = recorded(wanted[None], image[None], 2)
        for (x0, y0, x1, y1), kind in zip(
            asked["boxes"].tolist(), asked["labels"].tolist(), strict=True
        ):
            if min(x0, y0) > 0 and max(x1, y1) < 64:
                seen.add((kind, (x1 - x0) // 2))
    assert {kind for kind, _ in seen} == {1, 2}
    assert all((radius >= 9) == (kind == 2) for kind, radius in seen)
    with pytest.raises(JobError, match=r"a.json: there is a 'large'; .*little"):
        samples.gathered(card(tmp_path, ["small", "little"], held_out=0.1))


def recorded(wanted: Any, images: Any, classes: int) -> dict[str, torch.Tensor]:
    """What a detector is asked for, of a batch of one."""

    class Record(torch.nn.Module):
        def forward(
            self, batch: list[torch.Tensor], asked: list[dict[str, torch.Tensor]]
        ) -> dict[str, torch.Tensor]:
            self.asked = asked[0]
            return {"a": batch[0].sum() * 0 + 1, "b": torch.ones(())}

    record = Record()
    assert detection(record, torch.from_numpy(images), wanted, classes) == 2
    return record.asked


def test_slivers_and_what_is_not_known_are_not_asked_for() -> None:
    """Of an object that a crop cuts to less than SLIVER rows or columns, nothing is asked, nor of
    pixels where truth is not known.
    """
    wanted = np.zeros((1, 1, 32, 32), np.float32)
    wanted[0, 0, :, : SLIVER - 1] = 1
    wanted[0, 0, 5:15, 10:20] = 2
    wanted[0, 0, 20:30, 20:30] = np.nan
    asked = recorded(wanted, np.zeros((1, 1, 32, 32), np.float32), 1)
    assert asked["boxes"].tolist() == [[10, 5, 20, 15]]
    assert asked["masks"].sum() == 100
    empty = recorded(np.zeros((1, 1, 32, 32), np.float32), np.zeros((1, 1, 32, 32), np.float32), 1)
    assert empty["boxes"].shape == (0, 4)


def test_a_single_image_is_parted(tmp_path: Path) -> None:
    """Of a single image, a share of its longer side is held out: both parts together are the image,
    and the first alone is trained on.
    """
    labels = write(tmp_path, "a", 1)
    (first,), (second,) = samples.gathered(card(tmp_path, held_out=0.25))
    assert (first.shape, second.shape) == ((160, 150), (160, 50))
    assert second.name == "a.png (columns from 150)"
    together = np.concatenate([first.kept[1], second.kept[1]], axis=1)  # type: ignore[index]
    np.testing.assert_array_equal(together > 0, first.truth.read(Box.whole((160, 200))) > 0)
    assert ((together > 0) == (labels > 0)).mean() > 0.99
    image = np.concatenate([first.kept[0], second.kept[0]], axis=2)  # type: ignore[index]
    np.testing.assert_allclose(
        image[0], np.asarray(Image.open(tmp_path / "a.png"), np.float32) / 255, atol=1e-6
    )


def test_boxes_are_truth_for_detectors_only(tmp_path: Path) -> None:
    """Boxes do not say which pixels are of an object: for other networks they are refused."""
    write(tmp_path, "a", 1)
    parts = {
        "name": "a",
        "kind": "unet",
        "bands": ["1"],
        "classes": ["disc"],
        "decoder": {"kind": "boundary"},
        "train": {"data": [{"image": "a.png", "truth": "a.json"}], "crop": 32},
    }
    with pytest.raises(JobError, match=r"a\.json holds boxes; allowed: labels, polygons or masks"):
        samples.gathered(recipe.read(parts, tmp_path))


def test_the_same_seed_gives_the_same_detector(tmp_path: Path) -> None:
    """Two trainings by one card leave equal weights, and a bundle that a run can load."""
    write(tmp_path, "a", 1)
    first, second = (loop.train(card(tmp_path), tmp_path / name) for name in "bc")
    assert first.read_bytes()[-100_000:] == second.read_bytes()[-100_000:]
    assert cards.read(str(first)).card.reach is None
    assert isinstance(card(tmp_path).decoder, ByKey)
    found = pipeline.MaskRCNN(weights=str(first), score=0.9)(np.zeros((1, 128, 128), np.uint8))
    assert found.shape == (128, 128)


@pytest.mark.heavy
def test_discs_are_found(tmp_path: Path) -> None:
    """A detector that is trained on boxes round discs finds those of a part that was held out, and
    a run of its bundle finds as many.
    """
    labels = write(tmp_path, "a", 1, (400, 600), 150)
    bundle = loop.train(
        card(tmp_path, steps=100, batch=2, every=50, learning_rate=0.001, held_out=0.3),
        tmp_path / "out",
    )
    metrics = cards.read(str(bundle)).card.metrics
    assert metrics["f1"] > 0.8, metrics
    held = np.asarray(Image.open(tmp_path / "a.png"))[None, :, 420:]
    found = pipeline.MaskRCNN(weights=str(bundle))(held)
    assert len(np.unique(found)) - 1 == metrics["objects"]
    truth = labels[:, 420:]
    assert ((found > 0) == (truth > 0)).mean() > 0.95
