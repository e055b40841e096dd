"""Two frames and how they move in, the picture at a time between them out.

    flows, both ways ──> laid where things are at that time ──> which of both or none, and what is wrong with it
    frames ──> drawn from both along these flows ──> which of both or their blend, value by value, and what to add

It begins as what it builds on: the blend of what both frames are along DIS flows (flow.py), because the last layer of
each part begins as zeros; things that speed up are believed by half. Frames are cells of 2 x 2 pixels: four samples of
luma, one of either chroma. The flows of two frames are laid at a time after Niklaus and Liu, "Softmax splatting for
video frame interpolation" (2020), how things speed up is told by the frames around both after Xu et al., "Quadratic
video interpolation" (2019), and the parts are after Huang et al., "Real-time intermediate flow estimation" (2022).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch.restoring.planes import start_evenly

CHANNELS: Final = 6
"""Of a cell."""
_MULTIPLE: Final = 8
"""Of cells: the smallest scale is an eighth of theirs."""
_STRICTNESS: Final = 25.0
"""How little a flow counts that leads to something else: exp of minus so much a unit of difference."""
_UNLIKELY: Final = -6.0
"""Log of what things that do not move at all are trusted before anything was learnt, and a mere blend."""
_BEND: Final = 0.5
"""Share of what things speed up by that is believed before anything was learnt."""
_UNIT: Final = 16.0
"""Pixels of flow that the network sees as 1."""


class Interpolated(NamedTuple):
    """What the network makes of N pairs."""

    picture: Tensor
    """Cells (N, 6, h, w)."""
    drawn: Tensor
    """The same before anything is added: what both frames are along the flows."""


class Between(NamedTuple):
    """How things move that are at a time between two frames, at half the resolution of cells."""

    motion: Tensor
    """From the first frame to the last (N, 2, 2, h, w): as the flow forward has it, as the one back has it."""
    bend: Tensor
    """How much faster things get from one frame to the next, likewise."""
    trust: Tensor
    """(N, 2, h, w): how much of either flow led there, and to the same thing; 0 where nothing does."""


def to_cells(luma: Tensor, chroma: Tensor) -> Tensor:
    """Cells (N, 6, H/2, W/2) of luma (N, 1, H, W) and chroma (N, 2, H/2, W/2)."""
    return torch.cat([functional.pixel_unshuffle(luma, 2), chroma], dim=1)


def from_cells(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Luma and chroma of cells."""
    return functional.pixel_shuffle(cells[:, :4], 2), cells[:, 4:]


def warped(pictures: Tensor, flow: Tensor) -> Tensor:
    """What pictures (N, C, h, w) show where flows (N, 2, h, w), x and y in pixels, lead; beyond the edge, the edge."""
    height, width = pictures.shape[-2:]
    rows = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=flow.device, dtype=torch.float32)
    x = (flow[:, 0] + columns) * (2 / max(1, width - 1)) - 1
    y = (flow[:, 1] + rows) * (2 / max(1, height - 1)) - 1
    grid = torch.stack([x, y], dim=-1)
    return functional.grid_sample(pictures.float(), grid, padding_mode="border", align_corners=True)


def twice(flow: Tensor) -> Tensor:
    """Flows at twice the resolution, in its pixels."""
    return 2 * functional.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)


def thumbnails(frames: Tensor) -> Tensor:
    """Y, U and V (N, 3, h/2, w/2) of cells (N, 6, h, w)."""
    return functional.avg_pool2d(torch.cat([frames[:, :4].mean(1, keepdim=True), frames[:, 4:]], dim=1), 2)


def splat(values: Tensor, weights: Tensor, flow: Tensor) -> Tensor:
    """Values (N, C, h, w) times weights (N, 1, h, w), and the weights, laid where flows lead: (N, C + 1, h, w)."""
    n, _, height, width = flow.shape
    rows = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=flow.device, dtype=torch.float32)
    x, y = flow[:, 0] + columns, flow[:, 1] + rows
    left, top = x.floor(), y.floor()
    what = torch.cat([values * weights, weights], dim=1).flatten(2)
    laid = torch.zeros_like(what)
    for right in (0, 1):
        for below in (0, 1):
            share = (1 - (x - left - right).abs()) * (1 - (y - top - below).abs())
            to_x, to_y = (left + right).long(), (top + below).long()
            share = share * ((to_x >= 0) & (to_x < width) & (to_y >= 0) & (to_y < height))
            places = to_y.clamp(0, height - 1) * width + to_x.clamp(0, width - 1)
            laid.scatter_add_(2, places.view(n, 1, -1).expand_as(what), what * share.view(n, 1, -1))
    return laid.view(n, -1, height, width)


def between(pictures: Tensor, flows: Tensor, times: Tensor) -> Between:
    """Where things are at a time. Args: thumbnails (N, 2, 3, h, w), flows (N, 4, 2, h, w), times (N, 1, 1, 1)."""
    found = []
    for at, since in ((0, times), (1, 1 - times)):
        flow = flows[:, at]
        wrong = (warped(pictures[:, 1 - at], flow) - pictures[:, at]).abs().mean(1, keepdim=True)
        weights = (-_STRICTNESS * wrong).exp() + 1e-3
        motion = torch.cat([flow if at == 0 else -flow, flow + flows[:, 2 + at]], dim=1)
        found.append((motion, splat(motion, weights, since * flow)))
    (forward, laid), (back, laid_back) = found
    # Where one flow leaves a hole the other may not; where both do, what is there anyway has to do.
    spare = (laid[:, :4] + laid_back[:, :4] + 0.01 * (forward + back) / 2) / (laid[:, 4:] + laid_back[:, 4:] + 0.01)
    both = torch.stack([(each[:, :4] + 0.05 * spare) / (each[:, 4:] + 0.05) for each in (laid, laid_back)], dim=1)
    return Between(both[:, :, :2], both[:, :, 2:], torch.cat([laid[:, 4:], laid_back[:, 4:]], dim=1))


def beginning(frames: Tensor, flows: Tensor, times: Tensor) -> Tensor:
    """Cells (N, 6, h, w) as the network begins; `dis` as a method of its own. Args: see Interpolator.forward."""
    times = times.view(-1, 1, 1, 1)
    frames, flows, (height, width) = _padded(frames, flows)
    pictures = _paired(thumbnails(frames.flatten(0, 1)))
    known = between(pictures, _halved(flows), times)
    motion = _mixed(_shares(known, 0.0), known.motion)
    to_first, to_last = twice(-times * motion), twice((1 - times) * motion)
    drawn = (1 - times) * drawn_from(frames[:, 0], to_first) + times * drawn_from(frames[:, 1], to_last)
    return drawn[..., :height, :width]


def drawn_from(frame: Tensor, flow: Tensor) -> Tensor:
    """Cells of a frame along flows (N, 2, h, w) in cells."""
    luma, chroma = from_cells(frame)
    return to_cells(warped(luma, twice(flow)), warped(chroma, flow))


def _shares(known: Between, leaning: Tensor | float) -> Tensor:
    """Of either motion and of none (N, 3, h, w), by trust and by what a network adds to it, likewise."""
    trust = (known.trust + 0.05).log()
    trust = torch.cat([trust, torch.full_like(trust[:, :1], _UNLIKELY)], dim=1)
    return (trust + leaning).softmax(1)


def _mixed(shares: Tensor, both: Tensor) -> Tensor:
    """One value (N, 2, h, w) of those of either motion (N, 2, 2, h, w)."""
    return shares[:, :1] * both[:, 0] + shares[:, 1:2] * both[:, 1]


def _halved(flows: Tensor) -> Tensor:
    """Flows (N, 4, 2, h, w) at half their resolution, in its pixels."""
    return functional.avg_pool2d(flows.flatten(1, 2), 2).reshape(len(flows), 4, 2, flows.shape[-2] // 2, -1) / 2


def _fused(drawn: tuple[Tensor, Tensor, Tensor], fusion: Tensor, change: Tensor) -> Tensor:
    """One picture of three: along the flow to the first frame, to the last, and both frames blended.

    Args: `fusion` (N, 1 or 5, h, w) leans to the first; `change`: 10 of what the network makes, for luma and chroma.
    """
    choice = torch.stack([(fusion + change[:, :5]), torch.zeros_like(change[:, :5]), _UNLIKELY + change[:, 5:]])
    shares = choice.softmax(0)
    shares = torch.cat([shares, shares[:, :, 4:]], dim=2)  # both kinds of chroma
    return shares[0] * drawn[0] + shares[1] * drawn[1] + shares[2] * drawn[2]


def _paired(values: Tensor) -> Tensor:
    """(2 N, ...) as (N, 2, ...)."""
    return values.reshape(-1, 2, *values.shape[1:])


def _padded(frames: Tensor, flows: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Frames and flows of a multiple of cells, and how many they were."""
    height, width = frames.shape[-2:]
    more = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
    if any(more):
        frames = _paired(functional.pad(frames.flatten(0, 1), more, mode="replicate"))
        flows = functional.pad(flows.flatten(1, 2), more, mode="replicate")
        flows = flows.reshape(len(flows), 4, 2, *flows.shape[-2:])
    return frames, flows, (height, width)


class _Conv(nn.Sequential):
    def __init__(self, given: int, made: int, stride: int = 1) -> None:
        layer = nn.Conv2d(given, made, 3, stride, 1)
        start_evenly(layer)
        super().__init__(layer, nn.LeakyReLU(0.1, inplace=True))


def _last(given: int, made: int) -> nn.Conv2d:
    layer = nn.Conv2d(given, made, 3, 1, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _larger(values: Tensor) -> Tensor:
    return functional.interpolate(values, scale_factor=2.0, mode="bilinear", align_corners=False)


class _Coarse(nn.Module):
    """Pictures along both motions in, at 1/4; four values of flow, three of leaning, bend and fusion out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = width * 3 // 2
        self.begin = nn.Sequential(_Conv(29 * 4, width), _Conv(width, width))
        self.down = nn.Sequential(_Conv(width, wide, 2), _Conv(wide, wide), _Conv(wide, wide))
        self.up = _Conv(wide, width)
        self.end = nn.Sequential(_Conv(2 * width, width), _last(width, 9 * 4))

    def forward(self, seen: Tensor) -> Tensor:
        fine = self.begin(functional.pixel_unshuffle(seen, 2))
        coarse = self.up(_larger(self.down(fine)))
        found: Tensor = self.end(torch.cat([fine, coarse], dim=1))
        return functional.pixel_shuffle(found, 2)


class _Synthesis(nn.Module):
    """Frames along the flows in, and what the part before saw at half their resolution; 16 values of each cell out."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.begin = nn.Sequential(_Conv(3 * CHANNELS + 5, fine), _Conv(fine, fine))
        self.down = _Conv(fine, middle, 2)
        self.join = _Conv(2 * middle, middle)
        self.deep = nn.Sequential(_Conv(middle, coarse, 2), _Conv(coarse, coarse), _Conv(coarse, middle))
        self.join_deep = nn.Sequential(_Conv(2 * middle, middle), _Conv(middle, fine))
        self.end = nn.Sequential(_Conv(2 * fine, fine), _last(fine, CHANNELS + 10))

    def forward(self, seen: Tensor, known: Tensor) -> Tensor:
        fine = self.begin(seen)
        middle = self.join(torch.cat([self.down(fine), known], dim=1))
        middle = torch.cat([middle, _larger(self.deep(middle))], dim=1)
        found: Tensor = self.end(torch.cat([fine, _larger(self.join_deep(middle))], dim=1))
        return found


class Interpolator(nn.Module):
    """See above. Args: `widths` are channels at 1/2, 1/4 and 1/8 of a frame's resolution."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.features = nn.Sequential(_Conv(CHANNELS, fine, 2), _Conv(fine, fine))
        self.coarse = _Coarse(coarse)
        self.look = nn.Sequential(_Conv(2 * fine + 2 * 3 + 4 + 1 + 2 + 1, middle), _Conv(middle, middle))
        self.correct = _last(middle, 5 * 4)
        self.synthesis = _Synthesis((fine, middle, coarse))

    def forward(self, frames: Tensor, flows: Tensor, times: Tensor) -> Interpolated:
        """The pictures between.

        Args: frames: cells (N, 2, 6, h, w), 0 to 1; flows (N, 4, 2, h, w) as flow.between has them; times (N,),
        between 0 (the first frame) and 1.
        """
        times = times.view(-1, 1, 1, 1)
        frames, flows, (height, width) = _padded(frames, flows)
        first, last = frames.unbind(1)
        to_first, to_last, fusion, known = self._flows(first, last, flows, times)
        drawn = drawn_from(first, to_first), drawn_from(last, to_last), (1 - times) * first + times * last
        seen = torch.cat([*drawn, fusion, to_first / _UNIT, to_last / _UNIT], dim=1)
        made = self.synthesis(seen, known).float()
        fused = _fused(drawn, fusion, made[:, :10])
        return Interpolated((fused + made[:, 10:])[..., :height, :width], fused[..., :height, :width])

    def _flows(
        self, first: Tensor, last: Tensor, flows: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Flows to either frame and fusion of cells, and what was seen at half their resolution."""
        n = len(first)
        frames = torch.cat([first, last])
        pictures = thumbnails(frames)
        one, other = pictures.chunk(2)
        known = between(torch.stack([one, other], dim=1), _halved(flows), times)
        before, after = -times, 1 - times
        seen = [warped(one, before * motion) for motion in known.motion.unbind(1)]
        seen += [warped(other, after * motion) for motion in known.motion.unbind(1)]
        place = times.expand(n, 1, *one.shape[-2:])
        seen += [one, other, known.motion.flatten(1, 2) / _UNIT, known.bend.flatten(1, 2) / (_UNIT / 8)]
        seen += [known.trust, place]
        found = self.coarse(torch.cat(seen, dim=1)).float()
        shares = _shares(known, found[:, 4:7])
        motion = _mixed(shares, known.motion)
        bend = (times * after / 2) * (_BEND + found[:, 7:8]) * _mixed(shares, known.bend)
        to_first, to_last = before * motion + bend + found[:, :2], after * motion + bend + found[:, 2:4]
        fusion = found[:, 8:9] + (after / times).log()
        features = self.features(frames).float()
        seen = [warped(torch.cat([pictures[:n], features[:n]], dim=1), to_first)]
        seen += [warped(torch.cat([pictures[n:], features[n:]], dim=1), to_last)]
        seen += [to_first / _UNIT, to_last / _UNIT, fusion, known.trust, place]
        looked = self.look(torch.cat(seen, dim=1))
        corrected = functional.pixel_shuffle(self.correct(looked).float(), 2)
        to_first, to_last = twice(to_first) + corrected[:, :2], twice(to_last) + corrected[:, 2:4]
        return to_first, to_last, _larger(fusion) + corrected[:, 4:], looked
