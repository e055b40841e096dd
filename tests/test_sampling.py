"""The arithmetic of sampling, against the plainest way to say the same."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbatch.sampling import (
    CountingSelector,
    Grid,
    KeyframeSelector,
    NearestKeyframeSelector,
    Sampling,
    Selector,
    Times,
    TimeSelector,
    even_ticks,
    is_wanted,
    parse_sampling,
    seconds_of,
    tick_of,
)

TIME_BASES = [Fraction(1, 90_000), Fraction(1, 1000), Fraction(1001, 30_000), Fraction(1, 15_360), Fraction(1, 10**9)]
time_bases = st.sampled_from(TIME_BASES)
rates = st.fractions(Fraction(1, 100), 240, max_denominator=2002)
frame_ticks = st.lists(st.integers(-1000, 100_000), min_size=1, max_size=60).map(sorted)  # with equal ones


def select(selector: Selector, ticks: list[int], end: int | None) -> list[int]:
    """Numbers of the selected frames, as the decoder finds them: one frame late."""
    found = []
    for number, tick in enumerate(ticks):
        if selector.feed(tick, is_keyframe=False):
            found.append(number - 1)
    if selector.finish(end):
        found.append(len(ticks) - 1)
    return found


def shown_at(ticks: list[int], end: int, time: Fraction) -> int | None:
    """The last frame that begins at or before a time, if that is inside the video."""
    if not ticks[0] <= time < end:
        return None
    return max(number for number, tick in enumerate(ticks) if tick <= time)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("fps=1", "fps=1"),
        (" fps = 2.50 ", "fps=2.5"),
        ("fps=.5", "fps=0.5"),
        ("fps=29.97", "fps=29.97"),
        ("fps=30000/1001", "fps=30000/1001"),
        ("fps=50/2", "fps=25"),
        ("nearest_keyframe=1/4", "nearest_keyframe=0.25"),
        ("every=10", "every=10"),
        ("count=008", "count=8"),
        ("keyframes", "keyframes"),
        ("all", "all"),
        ("times=seconds wanted", "times=seconds wanted"),
    ],
)
def test_a_sampling_is_read_and_written_in_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_sampling(text)) == canonical
    assert parse_sampling(canonical) == parse_sampling(text)


WRONG = (
    "|fps|fps=|fps=0|fps=-1|fps=1e3|fps=nan|fps=inf|fps=1/0|fps=10001|fps=1,2|FPS=1|every|every=0|every=1.5|1"
    "|nearest_keyframe|nearest_keyframe=0|count=0|count=-3|count=\u0661|all=1|keyframes=2|times|times="
)


@pytest.mark.parametrize("text", WRONG.split("|"))
def test_a_wrong_sampling_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"fps|nearest|every|count") as refusal:
        parse_sampling(text)
    assert "\n" not in str(refusal.value)


@given(rates)
def test_every_rate_survives_being_written(rate: Fraction) -> None:
    assert parse_sampling(str(Sampling("fps", rate))).frames_per_second == rate


def test_only_the_times_sampling_has_a_column() -> None:
    assert parse_sampling("times=t").column == "t"
    assert parse_sampling("fps=1").column is None
    assert parse_sampling("count=3").number == 3


@given(frame_ticks, rates, time_bases, st.integers(1, 5000))
def test_a_grid_selects_the_frame_shown_at_each_of_its_times(
    ticks: list[int], rate: Fraction, base: Fraction, last_duration: int
) -> None:
    end = ticks[-1] + last_duration
    step = 1 / (rate * base)
    times = [ticks[0] + k * step for k in range(math.ceil((end - ticks[0]) / step))] if step > 1 else []
    if len(times) > 20_000 or step <= 1:
        return
    expected = {shown_at(ticks, end, time) for time in times} - {None}
    selector = TimeSelector(Grid.of_rate(ticks[0], rate, base))
    assert select(selector, ticks, end) == sorted(expected)


@given(frame_ticks, st.lists(st.integers(-2000, 110_000), max_size=20), st.integers(1, 5000))
def test_explicit_times_select_the_frame_shown_and_clamp_at_both_ends(
    ticks: list[int], times: list[int], last_duration: int
) -> None:
    end = ticks[-1] + last_duration
    clamped = {shown_at(ticks, 10**9, Fraction(time)) or 0 for time in times}
    inside = {shown_at(ticks, end, Fraction(time)) for time in times} - {None}
    assert select(TimeSelector(Times(times), clamp_low=True), ticks, None) == sorted(clamped)
    assert select(TimeSelector(Times(times)), ticks, end) == sorted(inside)


@given(frame_ticks, st.lists(st.integers(-2000, 110_000), max_size=20))
def test_decoding_may_stop_once_the_selector_is_exhausted(ticks: list[int], times: list[int]) -> None:
    whole = select(TimeSelector(Times(times), clamp_low=True), ticks, ticks[-1] + 10)
    selector = TimeSelector(Times(times), clamp_low=True)
    found = []
    for number, tick in enumerate(ticks):
        if selector.feed(tick, is_keyframe=False):
            found.append(number - 1)
        if selector.exhausted:
            assert not selector.finish(10**9)
            break
    else:
        found += [len(ticks) - 1] if selector.finish(ticks[-1] + 10) else []
    assert found == whole


OWN_RATES = [
    (base, rate)
    for base in TIME_BASES
    for rate in (Fraction(30_000, 1001), Fraction(2997, 100), Fraction(24), Fraction(25), Fraction(60_000, 1001))
    if (1 / (rate * base)).denominator == 1  # frames begin on ticks
]


@pytest.mark.parametrize(("base", "rate"), OWN_RATES)
def test_a_grid_of_the_video_s_own_rate_selects_every_frame(base: Fraction, rate: Fraction) -> None:
    duration = int(1 / (rate * base))
    ticks = [7 + k * duration for k in range(5000)]
    assert len(select(TimeSelector(Grid.of_rate(7, rate, base)), ticks, ticks[-1] + duration)) == 5000


@given(st.integers(-1000, 1000), rates, time_bases, st.integers(0, 10**7), st.integers(1, 10**6))
def test_grid_times_rounded_to_ticks_show_the_same_frames(
    origin: int, rate: Fraction, base: Fraction, start: int, length: int
) -> None:
    grid = Grid.of_rate(origin, rate, base)
    start += origin
    if length / grid.step > 2000:
        length = math.ceil(2000 * grid.step)
    ticks = grid.ticks(start, start + length)
    assert ticks == sorted(set(ticks))
    assert all(start <= tick < start + length for tick in ticks)
    for tick in ticks[:50]:
        assert is_wanted(grid, tick, tick + 1)
    between = [later - 1 for earlier, later in pairwise(ticks) if later - earlier > 1][:50]
    assert not any(is_wanted(grid, tick, tick + 1) for tick in between)


@given(st.integers(-(10**6), 2 * 10**9), time_bases)
def test_a_published_time_leads_back_to_its_frame(tick: int, base: Fraction) -> None:
    assert tick_of(seconds_of(tick, base), base) == tick


@given(st.integers(0, 10**8), st.sampled_from([Fraction(1, 90_000), Fraction(1, 1000), Fraction(1001, 30_000)]))
def test_a_time_printed_with_six_decimals_leads_back_to_its_frame(tick: int, base: Fraction) -> None:
    assert tick_of(round(seconds_of(tick, base), 6), base) == tick


@given(st.integers(0, 10**8), st.sampled_from([Fraction(1, 90_000), Fraction(1, 1000)]))
def test_a_time_half_a_tick_before_a_frame_shows_the_one_before(tick: int, base: Fraction) -> None:
    assert tick_of(float((tick - Fraction(1, 2)) * base), base) == tick - 1


@given(st.integers(1, 200), st.integers(-1000, 1000), st.integers(1, 10**6))
def test_even_times_are_the_middles_of_equal_parts(number: int, first: int, length: int) -> None:
    exact = [first + (k + Fraction(1, 2)) * length / number for k in range(number)]
    assert even_ticks(number, first, first + length) == [math.floor(time) for time in exact]


@given(st.integers(1, 12), st.integers(1, 60))
def test_counting_selects_every_nth_frame(every: int, num_frames: int) -> None:
    found = select(CountingSelector(every), list(range(num_frames)), num_frames)
    assert found == list(range(0, num_frames, every))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_keyframe_selector_selects_what_is_flagged(flags: list[bool]) -> None:
    selector = KeyframeSelector()
    fed = [selector.feed(tick, is_keyframe=flag) for tick, flag in enumerate(flags)]
    assert [*fed[1:], selector.finish(len(flags))] == flags


@given(frame_ticks, st.lists(st.integers(-2000, 110_000), max_size=20))
def test_the_keyframe_nearest_to_each_wanted_time_is_selected(ticks: list[int], times: list[int]) -> None:
    ticks = sorted(set(ticks))
    expected = {min(range(len(ticks)), key=lambda number: (abs(ticks[number] - time), number)) for time in times}
    assert select(NearestKeyframeSelector(Times(times)), ticks, None) == sorted(expected)
    selector = NearestKeyframeSelector(Times(times))
    for number, tick in enumerate(ticks):
        selector.feed(tick, is_keyframe=True)
        if selector.exhausted:
            assert all(chosen < number for chosen in expected)


def test_a_gap_of_a_day_costs_no_time() -> None:
    base = Fraction(1, 90_000)
    selector = TimeSelector(Grid.of_rate(0, Fraction(10_000), base))
    assert select(selector, [0, 86_400 * 90_000], None) == [0, 1]


def test_no_frames_select_nothing() -> None:
    for selector in (TimeSelector(Grid(0, Fraction(5))), CountingSelector(1), KeyframeSelector()):
        assert not selector.finish(None)
