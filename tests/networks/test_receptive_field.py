"""How far networks look, whatever their operations make of NaN: against gradients, and against what
changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.networks.receptive_field import probe


def conv(size: int, bands: int = 1) -> nn.Conv2d:
    return nn.Conv2d(bands, 1, size, padding=size // 2)


class Beside(nn.Module):
    """A near path that passes NaN on, beside a far one that may swallow it."""

    def __init__(self, far: Any) -> None:
        super().__init__()
        self.near, self.wide, self.far = conv(3), conv(19), far

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.near(image) + self.far(self.wide, image)
        return answer


def black_box(network: nn.Module) -> Any:
    """A network of which no operation can be followed: what it makes of NaN is computed
    elsewhere.
    """

    def forward(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as thread:  # a dispatch mode is of one thread
            return thread.submit(plain(network), batch).result()

    return forward


def plain(network: nn.Module) -> Any:
    def forward(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(batch))).numpy()

    return forward


SWALLOW = {
    "nan_to_num": lambda wide, image: functional.relu(wide(torch.nan_to_num(image))),
    "after": lambda wide, image: torch.nan_to_num(wide(image)),
    "fmax": lambda wide, image: torch.fmax(wide(image), torch.zeros(1)),
    "hardtanh": lambda wide, image: torch.clamp(wide(image), -1, 1),
}
LOSE = {
    "where": lambda wide, image: torch.where(wide(image) > 0, 1.0, 0.0),
    "comparison": lambda wide, image: (wide(image) > 5).float(),
    "nansum": lambda _, image: torch.nansum(image, (2, 3), keepdim=True),
    "sort": lambda _, image: torch.sort(image, dim=-1)[1].float(),
    "isnan": lambda wide, image: wide(torch.where(torch.isnan(image), torch.zeros(1), image)),
    "global": lambda _, image: torch.nan_to_num(image.mean((2, 3), keepdim=True)),
    "item": lambda _, image: image * image[0, 0, 0, 0].item(),
}


@pytest.mark.parametrize("name", SWALLOW)
def test_a_path_that_swallows_nan_beside_one_that_passes_it(name):
    """The reach is that of the far path, as the gradient of a network whose far path swallows
    nothing shows it.
    """
    torch.manual_seed(0)
    found = probe(plain(Beside(SWALLOW[name])), 1, 1)
    network = Beside(lambda wide, image: wide(image))
    image = torch.rand(1, 1, 41, 41, requires_grad=True)
    network(image)[0, 0, 20, 20].backward()
    assert image.grad is not None
    far = int((torch.nonzero(image.grad[0, 0]) - 20).abs().max())
    assert found.reach == far == 9


@pytest.mark.parametrize("name", LOSE)
def test_what_cannot_be_followed_has_no_reach(name):
    """Where NaN is compared, sorted, or left out of a sum, nobody knows how far the network looks:
    it is taken to look at everything.
    """
    torch.manual_seed(0)
    assert probe(plain(Beside(LOSE[name])), 1, 1).reach is None


def test_networks_that_cannot_be_followed(monkeypatch):
    """Of one whose operations nobody sees, the reach is that of NaN, if nothing else changes the
    answer; one that swallows NaN has none.
    """
    torch.manual_seed(0)
    assert probe(black_box(Beside(lambda wide, image: wide(image))), 1, 1).reach == 9
    assert probe(black_box(Beside(SWALLOW["nan_to_num"])), 1, 1).reach is None
    assert probe(black_box(nn.Sequential(conv(3), nn.ReLU(), conv(5))), 1, 1).reach == 3


class Common(nn.Module):
    """Operations that networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.MaxPool2d(2),
            nn.Dropout(0.5),
        )
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), nn.SiLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = nn.Sequential(
            nn.Hardswish(), nn.ReflectionPad2d(1), nn.Conv2d(5, 2, 3), nn.LeakyReLU(), nn.Softmax(1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        deep = self.deep(self.down(image)) + functional.avg_pool2d(
            functional.interpolate(self.down(image), scale_factor=2), 2
        )
        answer: torch.Tensor = self.last(torch.cat([self.up(deep), image], 1))
        return answer


def test_what_networks_are_made_of_can_be_followed():
    """Convolutions, norms, activations, pooling and resampling have a reach, beyond which no
    gradient goes and nothing changes.
    """
    torch.manual_seed(0)
    network = Common().eval()
    sight = probe(plain(network), 1, 2)
    assert sight.reach is not None
    image = torch.randn(1, 1, 64, 64, requires_grad=True)
    for row in (30, 31):
        image.grad = None
        network(image)[0, 0, row, row].backward()
        assert image.grad is not None
        assert int((torch.nonzero(image.grad[0, 0]) - row).abs().max()) <= sight.reach <= 12
