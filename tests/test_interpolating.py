"""Frames between others: what the network begins with, and what its training goes through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vidbatch.errors import ConfigError
from vidbatch.restoring import flow, planes
from vidbatch.restoring.interpolator import Interpolator, beginning, from_cells, splat, to_cells, warped
from vidbatch.training.interpolating import Interpolating
from vidbatch.training.restore_config import RestoreConfig, load_restore_config
from vidbatch.windows import window_dtype


def settings(**changes: Any) -> RestoreConfig:
    given = {"inputs": ["videos"], "output": "network", "kind": "interpolate", "num_frames": 5, "batch_size": 2}
    given |= {"slice_size": 2, "frame_size": "96x128", "crop": 64, "crops_per_window": 2, "widths": "8,8,8"}
    return load_restore_config(given | changes)


def moving(num_frames: int, height: int = 96, width: int = 128, speed: float = 3.0) -> Any:
    """Frames uint8 (T, H, W, 3) of something smooth that moves to the right, `speed` pixels a frame."""
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    frames = [
        128
        + 50 * np.sin((columns - speed * t) / 5) * np.cos(rows / 7)
        + 50 * np.cos((columns - speed * t) / 9 + rows / 5)
        for t in range(num_frames)
    ]
    return np.repeat(np.clip(np.round(frames), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def cells_of(frames: Any) -> torch.Tensor:
    rgb = torch.from_numpy(frames).movedim(-1, -3).float() / 255
    return to_cells(*planes.to_yuv(rgb))


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of luma, without the edges, where things come from outside."""
    difference = (from_cells(one)[0] - from_cells(other)[0])[..., 12:-12, 12:-12]
    return float(-10 * difference.square().mean().log10())


def test_cells_are_put_together_again() -> None:
    """Luma and chroma come out of cells as they went in."""
    luma, chroma = torch.rand(2, 1, 12, 16), torch.rand(2, 2, 6, 8)
    found = from_cells(to_cells(luma, chroma))
    assert torch.equal(luma, found[0])
    assert torch.equal(chroma, found[1])


def test_flows_lead_to_the_left_and_down_as_their_signs_say() -> None:
    """A whole number of pixels moves a picture exactly, and laying it goes the other way."""
    picture = torch.rand(1, 3, 9, 11)
    flow_xy = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 9, 11)
    assert torch.allclose(picture[..., 0:-1, 2:], warped(picture, flow_xy)[..., 1:, :-2], atol=1e-5)
    laid = splat(picture, torch.ones(1, 1, 9, 11), flow_xy)
    assert torch.allclose(picture[..., 1:, :-2], laid[:, :3, :-1, 2:], atol=1e-5)
    assert float(laid[:, 3, :, 0].sum()) == 0


@pytest.mark.parametrize("time", [0.25, 0.5, 0.75])
def test_what_moves_is_drawn_where_it_is_at_that_time(time: float) -> None:
    """Out of frames 0 and 4 of a steady movement, the one between comes, by far better than by blending."""
    frames = moving(5)
    flows = torch.from_numpy(flow.between(None, frames[0, ..., 0].copy(), frames[4, ..., 0].copy(), None))[None]
    first, last, wanted = cells_of(frames[[0]]), cells_of(frames[[4]]), cells_of(frames[[round(4 * time)]])
    made = beginning(torch.stack([first, last], dim=1), flows, torch.tensor([time]))
    assert psnr(made, wanted) > 35
    assert psnr(made, wanted) > psnr(torch.lerp(first, last, time), wanted) + 10


def test_what_speeds_up_is_told_by_the_frames_around() -> None:
    """Of what gets faster all the time, an untrained network, which believes that by half, draws more than DIS does."""
    places = [1.5 * number**2 / 2 for number in range(-3, 4)]
    frames = np.concatenate([moving(2, speed=place)[1:] for place in places])
    flows = torch.from_numpy(flow.between(*(frames[at, ..., 0].copy() for at in (0, 2, 4, 6))))[None]
    seen, times = cells_of(frames[[2, 4]])[None], torch.tensor([0.5])
    with torch.inference_mode():
        made = Interpolator((8, 8, 8)).eval()(seen, flows, times).picture
    wanted = cells_of(frames[[3]])
    assert psnr(made, wanted) > psnr(beginning(seen, flows, times), wanted) + 3


@pytest.mark.parametrize(("height", "width"), [(64, 96), (70, 54), (16, 10)])
def test_the_network_begins_as_what_the_flows_draw(height: int, width: int) -> None:
    """Whatever the size, an untrained network is as good as the flows it gets."""
    frames = cells_of(moving(3, height, width))[None]
    flows = torch.tensor([0.7, -0.7, -0.7, 0.7]).view(1, 4, 1, 1, 1).expand(1, 4, 2, height // 2, width // 2)
    network = Interpolator((8, 8, 8)).eval()
    with torch.inference_mode():
        made = network(frames[:, [0, 2]], flows, torch.tensor([0.5]))
    assert frames[:, 1].shape == made.picture.shape
    assert torch.allclose(beginning(frames[:, [0, 2]], flows, torch.tensor([0.5])), made.picture, atol=0.01)


def test_squares_move_as_they_did_however_they_were_turned() -> None:
    """Flows are mirrored, transposed and turned back in time with their squares: they fit as well as before."""
    objective = Interpolating(settings(), torch.device("cpu"), None)
    windows = np.zeros(2, window_dtype(5, 96, 128))
    windows["frames"] = moving(5)
    for key in range(6):
        keys = np.array([2 * key, 2 * key + 1], np.uint64)
        judged = objective.judge(objective.network, windows, np.zeros(2, np.int64), keys)
        assert judged.scores.min() > 30
    assert len(objective._baselines) == 12


def test_a_window_is_cut_and_turned_by_its_key() -> None:
    """Neither the other windows of a slice nor its place there change what a window goes through."""
    objective = Interpolating(settings(), torch.device("cpu"), None)
    windows = np.zeros(2, window_dtype(5, 96, 128))
    windows["frames"] = np.stack([moving(5), moving(5, speed=1.0)])
    keys, videos = np.array([5, 9], np.uint64), np.zeros(2, np.int64)
    both = objective.train(objective.network, windows, videos, keys, epoch=3)
    turned = objective.train(objective.network, windows[::-1], videos, keys[::-1], epoch=3)
    assert torch.allclose(both.losses.flip(0), turned.losses, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"pairs": True}, {"num_frames": 2}])
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    """Nothing is spoilt, and something has to lie between two frames."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        settings(**wrong)
