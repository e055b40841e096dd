"""What a network is given of a window: filters as SciPy has them, differences, and channels in the spec's order."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from vidbatch import transforms
from vidbatch.input_spec import CHANNELS, AugmentSpec, InputSpec, MirrorSpec

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def per_picture(function: object, images: Tensor, **options: object) -> npt.NDArray[np.float64]:
    """A SciPy filter on each plane of rows and columns, in float64."""
    planes = images.reshape(-1, *images.shape[-2:]).double().numpy()
    return np.stack([function(plane, **options) for plane in planes]).reshape(images.shape)  # type: ignore[operator]


@pytest.mark.parametrize("size", [3, 5])
def test_the_median_is_scipys(size: int) -> None:
    images = noise(2, 3, 3, 17, 24)
    wanted = per_picture(ndimage.median_filter, images, size=size, mode="nearest")
    assert (transforms.median(images, size).numpy() == wanted.astype(np.float32)).all()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_the_gaussian_is_scipys(sigma: float) -> None:
    images = noise(2, 2, 3, 21, 30)
    wanted = per_picture(ndimage.gaussian_filter, images, sigma=sigma, mode="mirror")
    assert transforms.gaussian(images, sigma).numpy() == pytest.approx(wanted, abs=1e-6)


def test_a_gaussian_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="reaches over the whole of a 30 x 8 picture"):
        transforms.gaussian(noise(1, 1, 3, 8, 30), 2.0)


def test_the_sobel_gradient_is_scipys() -> None:
    images = noise(2, 2, 1, 15, 22)
    right, down = transforms.sobel(images)
    for found, axis in ((right, 1), (down, 0)):
        wanted = per_picture(ndimage.sobel, images, axis=axis, mode="mirror") / 8
        assert found.numpy() == pytest.approx(wanted, abs=1e-6)
    wanted = np.hypot(right.numpy(), down.numpy())
    assert transforms.gradient_size(images).numpy() == pytest.approx(wanted, abs=1e-6)


def test_a_ramp_has_a_gradient_of_its_slope() -> None:
    ramp = (torch.arange(20.0) * 0.25).expand(1, 1, 1, 10, 20)
    right, down = transforms.sobel(ramp)
    assert right[..., 1:-1].allclose(torch.tensor(0.25))
    assert down.abs().max() == 0


def test_filters_take_the_noise_out_that_they_are_for() -> None:
    picture = torch.linspace(0, 1, 64).expand(1, 1, 3, 48, 64)
    salted = torch.where(noise(*picture.shape) < 0.05, 1.0, picture)
    grainy = picture + 0.1 * (noise(*picture.shape) - 0.5)

    def error(images: Tensor) -> float:
        return float((images - picture)[..., 6:-6, 6:-6].abs().mean())

    assert error(transforms.median(salted, 3)) < 0.1 * error(salted)
    assert error(transforms.gaussian(grainy, 1.5)) < 0.25 * error(grainy)


def test_differences_are_from_the_frame_before_and_none_for_the_first() -> None:
    images = noise(2, 5, 3, 6, 8)
    found = transforms.differences(images).numpy()
    assert (found[:, 0] == 0).all()
    assert (found[:, 1:] == np.diff(images.numpy(), axis=1)).all()


def test_absolute_differences_of_a_reversed_window_are_the_same_ones() -> None:
    images = noise(1, 6, 3, 6, 8)
    there = transforms.differences(images).abs()[:, 1:]
    back = transforms.differences(images.flip(1)).abs()[:, 1:]
    assert back.flip(1).allclose(there)


def test_motion_energy_says_in_which_cell_something_moved() -> None:
    images = torch.zeros(1, 3, 1, 32, 64)
    images[0, 1, 0, 20, 50] = 1.0  # row 2 of 4, column 3 of 4
    energy = transforms.cell_averages(transforms.differences(images).abs(), 4)
    assert energy.shape == (1, 3, 1, 4, 4)
    assert energy[0, 0].count_nonzero() == 0
    for frame in (1, 2):
        assert energy[0, frame, 0].nonzero().tolist() == [[2, 3]]
        assert energy[0, frame, 0, 2, 3] == pytest.approx(1 / (8 * 16))


def test_frames_become_images_of_0_to_1_with_channels_first() -> None:
    frames = torch.arange(2 * 4 * 3 * 5 * 3, dtype=torch.uint8).view(2, 4, 3, 5, 3)
    images = transforms.to_float(frames)
    assert images.shape == (2, 4, 3, 3, 5)
    assert images[1, 2, 0, 1, 3] == frames[1, 2, 1, 3, 0] / 255
    assert transforms.to_float(frames[0]).equal(images[0])


def test_the_default_is_what_image_models_are_given() -> None:
    frames = (noise(2, 3, 8, 9, 3) * 255).to(torch.uint8)
    images, features = transforms.InputTransform(InputSpec(), MEAN, STD)(transforms.to_float(frames))
    wanted = (frames.numpy() / 255.0 - MEAN) / STD
    assert images.permute(0, 1, 3, 4, 2).numpy() == pytest.approx(wanted, abs=1e-5)
    assert features is None


def test_channels_come_in_the_order_asked_for_after_the_filters() -> None:
    spec = InputSpec(
        median=3, gaussian_sigma=0.8, channels=("difference", "rgb", "gradient", "energy", "grey"), cells=2
    )
    images = noise(2, 4, 3, 16, 20)
    found = transforms.InputTransform(spec, MEAN, STD)(images).images
    assert found.shape == (2, 4, spec.num_channels, 16, 20)
    filtered = transforms.gaussian(transforms.median(images, 3), 0.8)
    signed = transforms.differences(transforms.luma(filtered))
    assert found[:, :, 0:1].equal(4 * signed.abs())
    assert found[:, :, 2:3].allclose((filtered[:, :, 1:2] - 0.5) / 0.25)
    assert found[:, :, 4:5].allclose(4 * transforms.gradient_size(signed))
    energy = transforms.cell_averages(signed.abs(), 2)
    assert found[:, :, 5:6, 3, 4].allclose(4 * energy[..., 0, 0])
    assert found[:, :, 5:6, 3, 14].allclose(4 * energy[..., 0, 1])
    assert found[:, :, 6:7].allclose((transforms.luma(filtered) - 0.5) / 0.25)


def test_features_are_averages_over_cells_of_every_frame() -> None:
    spec = InputSpec(channels=("signed_difference",), features=("gradient", "energy"), cells=2, gain=3)
    images = noise(2, 4, 3, 16, 20)
    found = transforms.InputTransform(spec, MEAN, STD)(images)
    assert found.features is not None
    assert found.features.shape == (2, 4, spec.num_features) == (2, 4, 8)
    signed = transforms.differences(transforms.luma(images))
    assert found.images.equal(3 * signed)
    assert found.features[:, :, 6].allclose(3 * signed[:, :, 0, 8:, :10].abs().mean((-2, -1)))


@pytest.mark.parametrize("channel", CHANNELS)
def test_every_channel_has_as_many_planes_as_it_says(channel: str) -> None:
    spec = InputSpec(channels=(channel,))  # type: ignore[arg-type]
    found = transforms.InputTransform(spec, MEAN, STD)(noise(1, 2, 3, 16, 16)).images
    assert found.shape[2] == spec.num_channels == CHANNELS[channel]  # type: ignore[index]
    assert found.isfinite().all()


@pytest.mark.gpu
def test_a_gpu_says_the_same() -> None:
    if not torch.cuda.is_available():
        assert os.environ.get("VIDBATCH_REQUIRE_GPU") != "1", "VIDBATCH_REQUIRE_GPU=1, and there is no GPU"
        pytest.skip("needs a GPU")
    spec = InputSpec(median=5, gaussian_sigma=1.2, channels=tuple(CHANNELS), features=("energy",))
    images = noise(2, 4, 3, 32, 40)
    here = transforms.InputTransform(spec, MEAN, STD)(images)
    there = transforms.InputTransform(spec, MEAN, STD).cuda()(images.cuda())
    for ours, theirs in zip(here, there, strict=True):
        assert theirs is not None
        assert theirs.is_cuda
        assert theirs.cpu().allclose(ours, atol=1e-4)


def test_specs_survive_json() -> None:
    spec = InputSpec(median=3, channels=("rgb", "difference"), features=("energy",))
    assert InputSpec.model_validate_json(spec.model_dump_json()) == spec
    augment = AugmentSpec(flip=MirrorSpec(probability=0.5, swaps={"a": "b", "b": "a"}), crop_area=(0.5, 1))
    assert AugmentSpec.model_validate_json(augment.model_dump_json()) == augment


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"median": 4}, "0, 3 or 5"),
        ({"channels": []}, "at least 1 item"),
        ({"channels": ["rgb", "rgb"]}, "each can be given once"),
        ({"channels": ["hsv"]}, "'rgb', 'grey'"),
        ({"gaussian": 2}, "not permitted"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(wrong: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        InputSpec.model_validate(wrong)


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.9, 0.5), (0.5, 1.5)])
def test_a_crop_that_is_none_is_refused(area: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="crop_area"):
        AugmentSpec(crop_area=area)
