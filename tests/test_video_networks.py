"""Networks for windows: what they see of time, what padding does to them, and what is trained of them how fast."""

from __future__ import annotations

import io
from typing import get_args

import pytest
import torch
from torch import Tensor

from vidbatch.errors import ConfigError, ModelError
from vidbatch.input_spec import Channel, InputSpec
from vidbatch.networks import make_module
from vidbatch.schema import FrameSpec
from vidbatch.transforms import InputTransform
from vidbatch.video_networks import Shifts, WindowNetwork, build_video_network, correlation
from vidbatch.video_spec import HEADS, OWN, Head, VideoSpec, known_network
from vidbatch.video_weights import parameter_groups, read_weights, set_frozen, start_from

FRAME = FrameSpec(64, 80)
ORDER_BLIND: tuple[Channel, ...] = ("difference", "energy", "gradient")


def built(
    text: str, inputs: InputSpec | None = None, frame: FrameSpec = FRAME, num_frames: int = 6, **settings: object
) -> WindowNetwork:
    spec = VideoSpec.of(text, **settings)
    return build_video_network(spec, inputs or InputSpec(), frame, num_frames=num_frames, num_classes=5).eval()


def window(num_windows: int = 2, num_frames: int = 6, frame: FrameSpec = FRAME) -> Tensor:
    """A grid that wanders over the picture, and some noise; values 0 to 1."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((num_windows, num_frames, 3, frame.height, frame.width), generator=generator) * 0.3
    for number in range(num_frames):
        images[:, number, :, ::8, 3 * number :: 16] += 0.7
    return images


@torch.no_grad()
def logits(network: WindowNetwork, inputs: InputSpec, images: Tensor, is_real: Tensor | None = None) -> Tensor:
    prepared = InputTransform(inputs, (0.5,) * 3, (0.25,) * 3)(images)
    found: Tensor = network(prepared.images, is_real, prepared.features)
    return found


# --- order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["rgb", "grey", *ORDER_BLIND])
def test_the_mean_over_frames_or_over_absolute_differences_cannot_see_their_order(channel: Channel) -> None:
    inputs = InputSpec(channels=(channel,))
    network = built("small+mean", inputs)
    there, back = (logits(network, inputs, images) for images in (window(), window().flip(1)))
    assert there.allclose(back, atol=1e-5)
    assert not there.allclose(logits(network, inputs, window() / 2), atol=1e-3), "blind to everything proves nothing"


@pytest.mark.parametrize("channels", [("rgb", "difference"), ("signed_difference",)])
def test_the_mean_can_see_it_with_a_difference_beside_the_frame_or_with_its_sign(channels: tuple[Channel, ...]) -> None:
    inputs = InputSpec(channels=channels)
    network = built("small+mean", inputs)
    there, back = (logits(network, inputs, images) for images in (window(), window().flip(1)))
    assert (there - back).abs().max() > 1e-4


def test_features_of_cells_join_the_frames() -> None:
    inputs = InputSpec(features=("energy",), cells=4)
    network = built("small+mean", inputs)
    there, back = (logits(network, inputs, images) for images in (window(), window().flip(1)))
    assert (there - back).abs().max() > 1e-5, "as a difference beside the frame does"
    assert there.allclose(logits(network, inputs, window()))


def test_correlation_is_the_dot_product_with_what_is_so_many_places_away() -> None:
    maps, others = torch.rand(2, 3, 5, 7), torch.rand(2, 3, 5, 7)
    found = correlation(maps, others, 2).unflatten(1, (5, 5))
    assert found.shape == (2, 5, 5, 5, 7)
    assert found[1, 0, 3, 4, 2].isclose(maps[1, :, 4, 2] @ others[1, :, 2, 3]), "two rows above, one column right"
    assert found[:, :, 0, :, 1].eq(0).all(), "beyond the border"
    assert found[:, 2, 2].allclose((maps * others).sum(1))


def test_shifts_say_where_things_were_in_the_frame_before() -> None:
    picture = torch.rand(1, 16, 12, 20, generator=torch.Generator().manual_seed(1)) - 0.5
    maps = torch.stack([picture, picture, picture.roll(2, dims=3), picture.roll((3, -1), dims=(2, 3))], dim=1)
    likeliest = Shifts()(maps)[0, :, :, 4:-4, 4:-4].argmax(1)
    for frame, (rows, columns) in enumerate([(0, 0), (0, 0), (0, -2)]):
        assert likeliest[frame].eq(7 * (rows + 3) + columns + 3).all(), frame
    assert likeliest[3].eq(7 * (-3 + 3) + 3 + 3).all(), "from two to the right to one to the left"


def test_correlation_sees_the_order_with_any_head() -> None:
    network = built("correlation+mean")
    there, back = (logits(network, InputSpec(), images) for images in (window(), window().flip(1)))
    assert (there - back).abs().max() > 1e-4


@pytest.mark.parametrize("head", ["lstm", "gru", "attention"])
def test_a_head_for_order_sees_it(head: Head) -> None:
    network = built(f"small+{head}")
    there, back = (logits(network, InputSpec(), images) for images in (window(), window().flip(1)))
    assert (there - back).abs().max() > 1e-3


# --- padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("body", "layers"), [("small", 1), ("small", 2), ("correlation", 1)])
def test_padding_does_not_change_the_answer_whatever_it_shows(head: Head, body: str, layers: int) -> None:
    inputs = InputSpec(channels=("rgb", "difference"), features=("energy",))
    network = built(f"{body}+{head}", inputs, layers=layers)
    images = window()
    is_real = torch.ones(2, 6, dtype=torch.bool)
    is_real[0, 4:] = False
    other = images.clone()
    other[0, 4:] = torch.rand(2, 3, 64, 80)
    found = logits(network, inputs, images, is_real)
    assert logits(network, inputs, other, is_real).allclose(found, atol=1e-5)
    assert logits(network, inputs, images[:1, :4]).allclose(found[:1], atol=1e-5)
    assert logits(network, inputs, images[1:]).allclose(found[1:], atol=1e-5)
    assert not logits(network, inputs, other).allclose(found, atol=1e-4)


@pytest.mark.parametrize("body", OWN)
@pytest.mark.parametrize("head", HEADS)
def test_padding_gets_no_gradient(head: Head, body: str) -> None:
    network = built(f"{body}+{head}")
    images = window().requires_grad_()
    is_real = torch.tensor([[True] * 3 + [False] * 3] * 2)
    network(images, is_real).square().sum().backward()
    assert images.grad is not None
    assert images.grad[:, :3].abs().sum() > 0
    assert images.grad[:, 3:].abs().max() == 0


# --- what there is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "frame", "num_frames"),
    [
        *((f"small+{head}", FRAME, 6) for head in HEADS),
        ("correlation+gru", FRAME, 6),
        ("resnet18+gru", FrameSpec(128, 128), 3),
        ("inception_v3+gru", FrameSpec(176, 176), 2),
        ("regnet_y_400mf+gru", FrameSpec(128, 128), 2),
        ("efficientnet-lite0+attention", FrameSpec(128, 160), 2),
        ("timm:test_vit.r160_in1k+lstm", FrameSpec(160, 160), 3),
        ("r3d_18", FrameSpec(48, 48), 6),
    ],
)
def test_a_network_gives_a_score_a_class_and_trains_every_weight(text: str, frame: FrameSpec, num_frames: int) -> None:
    inputs = InputSpec(channels=("rgb", "difference"))
    network = built(text, inputs, frame, num_frames).train()
    found = network(torch.rand(2, num_frames, 4, frame.height, frame.width))
    assert found.shape == (2, 5)
    found.square().sum().backward()
    unused = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert unused == [], "a weight without a gradient makes data-parallel training wait for ever"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("resnet50+attention", 224),
        ("inception_v3+gru", 299),
        ("googlenet+gru", 224),
        ("efficientnet_b0+lstm", 224),
        ("mobilenet_v3_small+mean", 224),
        ("convnext_tiny+gru", 224),
        ("densenet121+gru", 224),
        ("shufflenet_v2_x0_5+gru", 224),
        ("swin_t+gru", 224),
        ("vit_b_16+attention", 224),
        ("vgg11+gru", 224),
        ("timm:resnet18+gru", 224),
        ("timm:mobilenetv3_small_050+gru", 224),
        ("timm:swin_tiny_patch4_window7_224+gru", 224),
        ("timm:vit_tiny_patch16_224+gru", 224),
        ("r3d_18", 112),
        ("mc3_18", 112),
        ("r2plus1d_18", 112),
        ("s3d", 224),
        ("mvit_v2_s", 224),
        ("swin3d_t", 224),
    ],
)
def test_a_network_of_a_library_is_known_by_name(text: str, size: int) -> None:
    inputs = InputSpec(channels=("difference", "rgb"))
    with torch.device("meta"):  # shapes only: nothing is computed
        network = built(text, inputs, FrameSpec(size, size), num_frames=16)
        assert network(torch.empty(2, 16, 4, size, size)).shape == (2, 5)


def test_the_same_seed_builds_the_same_network_whatever_was_drawn_before() -> None:
    spec = VideoSpec.of("small+attention")
    torch.manual_seed(1)
    drawn = torch.rand(1)

    def weights(seed: int) -> Tensor:
        network = build_video_network(spec, InputSpec(), FRAME, num_frames=6, num_classes=5, seed=seed)
        return torch.cat([weight.flatten() for weight in network.parameters()])

    torch.manual_seed(1)
    first = weights(0)
    assert torch.rand(1).equal(drawn), "building must leave the global random state alone"
    assert weights(0).equal(first)
    assert not weights(1).equal(first)


def test_the_small_network_is_small_and_keeps_where_things_are() -> None:
    network = built("small+gru")
    assert sum(weight.numel() for weight in network.body.parameters()) < 100_000
    assert network.body(torch.rand(3, 3, 96, 128)).shape == (3, 64, 6, 8)


def test_the_network_for_motion_is_small_too_and_sees_a_quarter_of_the_places() -> None:
    network = built("correlation+gru")
    assert sum(weight.numel() for weight in network.body.parameters()) < 10_000
    assert network.body(torch.rand(3, 3, 96, 128)).shape == (3, 16, 24, 32)


def test_a_frame_that_is_too_small_for_the_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="small sees frames of 64 x 48 as 4 x 3 cells, less than the grid of 4 x 4"):
        built("small+gru", frame=FrameSpec(48, 64))
    built("small+gru", frame=FrameSpec(48, 64), grid=3)


def test_a_window_that_is_too_small_for_a_video_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="s3d cannot take windows of 4 frames of 112 x 112"):
        built("s3d", frame=FrameSpec(112, 112), num_frames=4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("resnet18", "add a head, such as torchvision:resnet18"),
        ("r3d_18+gru", "takes no head"),
        ("small+rnn", "head 'rnn' is not allowed: mean, lstm, gru, attention"),
        ("resnet19+gru", "did you mean resnet18"),
        ("r3d_19", "did you mean r3d_18"),
        ("stamp+gru", "no features to train a head on"),
        ("fasterrcnn_resnet50_fpn+gru", "is a detection model"),
    ],
)
def test_a_network_that_cannot_be_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        VideoSpec.of(text)


def test_a_width_that_attention_cannot_share_out_is_refused() -> None:
    with pytest.raises(ValueError, match="width: 100 is not a multiple of attention_heads, 8"):
        VideoSpec.of("small+attention", width=100, attention_heads=8)


def test_a_video_network_takes_no_features() -> None:
    with pytest.raises(ConfigError, match="r3d_18 takes images only"):
        built("r3d_18", InputSpec(features=("energy",)))


def test_a_spec_survives_json_and_has_a_name() -> None:
    for text, name in (("resnet18+gru", "torchvision:resnet18+gru"), ("r3d_18", "torchvision:r3d_18")):
        spec = VideoSpec.of(text, layers=2)
        assert spec.name == name
        assert VideoSpec.model_validate_json(spec.model_dump_json()) == spec == VideoSpec.of(name, layers=2)
    assert get_args(Head) == HEADS
    assert [known_network(name) for name in OWN] == list(OWN)


# --- start, freeze, rates -------------------------------------------------------------------------------------------


def test_a_network_starts_from_an_image_networks_weights_and_sees_what_that_saw() -> None:
    trained = make_module("torchvision:resnet18", 1000, FrameSpec(128, 128))
    inputs = InputSpec(channels=("difference", "rgb"))
    network = built("resnet18+mean", inputs, FrameSpec(128, 128))
    start_from(network, trained.state_dict(), inputs, "resnet18")
    seen: list[Tensor] = []
    trained.get_submodule("layer4").register_forward_hook(lambda _part, _inputs, output: seen.append(output))
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        trained(images)
        maps = network.body(torch.cat([torch.rand(2, 1, 128, 128), images], dim=1))
    assert maps.allclose(seen[0], atol=1e-4)


def test_without_rgb_a_network_starts_from_the_average_of_its_weights() -> None:
    trained = make_module("torchvision:resnet18", 1000, FrameSpec(128, 128)).state_dict()
    inputs = InputSpec(channels=("difference", "gradient"))
    network = built("resnet18+mean", inputs, FrameSpec(128, 128))
    start_from(network, trained, inputs, "resnet18")
    found = network.body_state()["conv1.weight"]
    assert found.shape[1] == 2
    assert found[:, 0].allclose(trained["conv1.weight"].sum(1) / 2)


def test_our_default_model_is_a_start_too() -> None:
    from vidbatch.models import find_model

    ref = find_model("efficientnet-lite0")
    assert ref.weights is not None
    frame = FrameSpec(128, 128)
    network = built("efficientnet-lite0+gru", frame=frame)
    before = network.body(torch.ones(1, 3, 128, 128))
    start_from(network, read_weights("efficientnet-lite0", ref.weights, frame, "lite0"), InputSpec(), "lite0")
    assert not network.body(torch.ones(1, 3, 128, 128)).allclose(before)


def test_a_video_network_starts_from_weights_for_other_classes_with_a_last_layer_of_its_own() -> None:
    trained = build_video_network(VideoSpec.of("r3d_18"), InputSpec(), FRAME, num_frames=6, num_classes=400, seed=9)
    network = built("r3d_18")
    last = network.body_state()["fc.weight"].clone()
    start_from(network, trained.body_state(), InputSpec(), "r3d_18")
    assert network.body_state()["fc.weight"].equal(last)
    assert network.body_state()["stem.0.weight"].equal(trained.body_state()["stem.0.weight"])


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    network = built("small+gru")
    state = dict(network.body_state())
    with pytest.raises(ModelError, match=r"w\.pth: 'layers.2.weight', which the network needs, has another shape"):
        start_from(network, state | {"layers.2.weight": torch.zeros(3)}, InputSpec(), "w.pth")
    del state["layers.2.weight"]
    with pytest.raises(ModelError, match=r"w\.pth: 'layers.2.weight', which the network needs, is missing"):
        start_from(network, state, InputSpec(), "w.pth")


def test_weights_from_a_file_are_read_as_tensors() -> None:
    network = built("small+gru")
    file = io.BytesIO()
    torch.save({"state_dict": network.body_state()}, file)
    assert read_weights("small", file.getvalue(), FRAME, "w.pth").keys() == network.body_state().keys()


@pytest.mark.parametrize("text", ["small+attention", "r3d_18"])
def test_a_frozen_body_stays_as_it_is_while_the_rest_is_trained(text: str) -> None:
    network = built(text).train()
    set_frozen(network, True)
    groups = parameter_groups(network, learning_rate=0.1)
    assert {group["name"] for group in groups} <= {"head", "head_no_decay"}
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = torch.optim.SGD(groups)
    network(window()).square().sum().backward()
    optimizer.step()
    changed = {name for name, weight in network.named_parameters() if not weight.equal(before[name])}
    assert changed
    assert all(not name.startswith("body.") or name.startswith("body.fc.") for name in changed)
    set_frozen(network, False)
    assert all(weight.requires_grad for weight in network.parameters())


def test_every_weight_is_in_one_group_with_its_own_rate_and_decay() -> None:
    network = built("small+attention")
    groups = parameter_groups(network, learning_rate=0.1, body_factor=0.01, weight_decay=0.05)
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {
        "body": (pytest.approx(0.001), 0.05),
        "body_no_decay": (pytest.approx(0.001), 0.0),
        "head": (0.1, 0.05),
        "head_no_decay": (0.1, 0.0),
    }
    members = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(members) == sorted(id(weight) for weight in network.parameters())
    no_decay = {id(weight) for group in groups if not group["weight_decay"] for weight in group["params"]}
    named = {name for name, weight in network.named_parameters() if id(weight) in no_decay}
    assert {"head.class_token", "project.0.bias", "project.1.weight", "body.module.layers.3.weight"} <= named
    assert "project.0.weight" not in named


def test_frozen_batch_norms_ignore_the_batch_in_training_too() -> None:
    frame = FrameSpec(128, 128)
    image = torch.rand(1, 1, 3, 128, 128)
    batch = torch.cat([image, 5 * torch.rand(1, 1, 3, 128, 128)])
    for is_frozen in (True, False):
        network = built("resnet18+mean", frame=frame, dropout=0.0, freeze_batch_norm=is_frozen).train()
        with torch.no_grad():
            alone, among = network(image), network(batch)[:1]
        assert alone.allclose(among, atol=1e-4) == is_frozen
