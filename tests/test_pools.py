"""Actors of all stages find a place on any set of nodes; one that does not would stop the others for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vidbatch
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError
from vidbatch.growth import Joined
from vidbatch.pools import Pools, blocks_not_picked_up, pool_sizes, sizes_now
from vidbatch.schema import FrameSpec
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

LISTING_CPUS = 0.01


def pools_of(nodes: list[dict[str, float]], **settings: object) -> Pools:
    config = LabelConfig.model_validate({"inputs": ("in",), "output": "out", **settings})
    return pool_sizes(config, nodes)


def places(nodes: list[dict[str, float]], cpus_each: float) -> int:
    """How many actors fit, wherever the scheduler puts the listing's share."""
    return sum(int((round(100 * node.get("CPU", 0)) - 100 * LISTING_CPUS) // round(100 * cpus_each)) for node in nodes)


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("num_nodes", [1, 2, 3, 16])
def test_every_decoder_and_every_model_fits_on_nodes_of_any_size(cpus: int, num_nodes: int) -> None:
    nodes = [{"CPU": float(cpus)}] * num_nodes
    pools = pools_of(nodes)
    assert pools.decode_workers == cpus * num_nodes
    assert pools.model_workers == max(num_nodes, cpus * num_nodes // 4)
    assert pools.decode_cpus == pools.model_cpus <= 1
    assert places(nodes, pools.decode_cpus) >= pools.decode_workers + pools.model_workers


@pytest.mark.parametrize(("num_nodes", "num_lost"), [(2, 1), (3, 1), (10, 1), (40, 4)])
def test_all_actors_find_a_place_when_a_tenth_of_the_nodes_is_lost(num_nodes: int, num_lost: int) -> None:
    nodes = [{"CPU": 4.0}] * (num_nodes - num_lost) + [{"CPU": 8.0}] * num_lost
    pools = pools_of(nodes)
    assert places(nodes[: num_nodes - num_lost], pools.decode_cpus) >= pools.decode_workers + pools.model_workers


def test_a_single_node_has_room_for_the_actors_of_a_second_one_that_may_join_and_be_lost_again() -> None:
    nodes = [{"CPU": 8.0}]
    assert places(nodes, pools_of(nodes).decode_cpus) == 2 * 10


def test_a_head_without_cpus_and_unequal_nodes_hold_all_actors() -> None:
    nodes = [{"CPU": 0.0}, {}, {"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 7.0}]
    pools = pools_of(nodes)
    assert places(nodes[2:], pools.decode_cpus) >= pools.decode_workers + pools.model_workers == 13


def test_more_workers_than_cpus_share_them() -> None:
    nodes = [{"CPU": 2.0}, {"CPU": 2.0}]
    pools = pools_of(nodes, decode_workers=30, model_workers=5)
    assert (pools.decode_workers, pools.model_workers) == (30, 5)
    assert places(nodes, pools.decode_cpus) >= 35


def test_decoders_cannot_take_the_place_of_a_model_on_a_gpu() -> None:
    nodes = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}]
    pools = pools_of(nodes)
    assert (pools.decode_workers, pools.model_workers) == (16, 1)
    assert (pools.model_cpus, pools.model_gpus) == (0.0, 1.0)
    assert places(nodes, pools.decode_cpus) >= 16


def test_small_nodes_have_a_model_each_so_that_models_alone_can_use_every_cpu() -> None:
    """What one pool leaves of a node's CPUs, the other takes: nothing has to be moved between them."""
    for nodes in (
        [{"CPU": 2.0}] * 4,
        [{"CPU": 1.0}] * 2,
        [{"CPU": 8.0}] * 2,
        [{"CPU": 8.0}, {"CPU": 1.0}, {"CPU": 1.0}],
    ):
        pools = pools_of(nodes)
        cpus = sum(node["CPU"] for node in nodes)
        assert pools.decode_workers == cpus
        assert pools.model_workers >= len(nodes)
        assert pools.model_workers * pools.model_threads >= 0.9 * cpus
    assert pools_of([{"CPU": 2.0}, {"CPU": 0.0}, {}]).model_workers == 1


def test_several_models_share_a_gpu() -> None:
    pools = pools_of([{"CPU": 8.0, "GPU": 2.0}], model_workers=4)
    assert (pools.model_workers, pools.model_gpus) == (4, 0.5)


def test_a_gpu_is_left_alone_when_the_cpu_is_asked_for() -> None:
    pools = pools_of([{"CPU": 8.0, "GPU": 2.0}], device="cpu")
    assert (pools.model_gpus, pools.model_workers) == (0.0, 2)


def test_cuda_without_a_gpu_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="device"):
        pools_of([{"CPU": 8.0}], device="cuda")


def test_blocks_that_wait_to_be_picked_up_have_room_in_the_store() -> None:
    gib = 2**30
    assert blocks_not_picked_up(7 * gib, 2) == 8  # a small machine with Ray's usual share of its memory
    assert blocks_not_picked_up(64 * 0.6 * gib, 64) == 8  # two gigabytes a core
    assert blocks_not_picked_up(0.5 * gib, 2) == 4
    assert blocks_not_picked_up(0.1 * gib, 2) == 2
    assert blocks_not_picked_up(0.0, 8) == 2  # not known


# --- while a run goes on ----------------------------------------------------------------------------------------------


def sizes_after(before: list[dict[str, float]], after: list[dict[str, float]], **settings: object) -> tuple[int, int]:
    config = LabelConfig.model_validate({"inputs": ("in",), "output": "out", **settings})
    return sizes_now(config, pool_sizes(config, before), after)


@pytest.mark.parametrize("cpus", [1, 2, 4, 64])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 8), (2, 3), (2, 16), (3, 4), (10, 32), (2, 1), (16, 12)])
def test_pools_get_the_size_of_a_run_that_begins_now_and_all_find_a_place_with_a_node_lost(
    cpus: int, before: int, after: int
) -> None:
    nodes = [{"CPU": float(cpus)}] * after
    begun = pools_of([{"CPU": float(cpus)}] * before)
    sizes = sizes_after([{"CPU": float(cpus)}] * before, nodes)
    now = pools_of(nodes)
    assert sizes[1] == now.model_workers
    assert 0.95 * now.decode_workers <= sizes[0] <= now.decode_workers  # shares of a CPU are whole hundredths
    num_lost = 0 if after == 1 else max(1, after // 10)
    assert places(nodes[num_lost:], begun.decode_cpus) >= sum(sizes)


def test_small_nodes_that_join_large_ones_get_no_more_actors_than_find_a_place_when_a_large_one_is_lost() -> None:
    large, small = [{"CPU": 8.0}] * 2, [{"CPU": 1.0}] * 4
    begun = pools_of(large)
    decoders, models = sizes_after(large, large + small)
    assert decoders + models <= places([*small, large[0]], begun.decode_cpus)


def test_numbers_that_the_settings_name_stay_whatever_joins() -> None:
    one, four = [{"CPU": 4.0}], [{"CPU": 4.0}] * 4
    assert sizes_after(one, four, decode_workers=3) == (3, 4)
    assert sizes_after(one, four, model_workers=2) == (16, 2)
    assert sizes_after(one, four, decode_workers=3, model_workers=2) == (3, 2)


def test_a_gpu_that_joins_gets_a_model_in_a_run_on_gpus_only() -> None:
    gpu, cpu = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}
    assert sizes_after([gpu], [gpu, gpu]) == (8, 2)
    assert sizes_after([gpu], [gpu, cpu]) == (8, 1)
    assert sizes_after([cpu], [cpu, gpu]) == (8, 2)
    assert sizes_after([gpu, cpu], [cpu], device="cuda") == (8, 1)  # the model waits for another GPU


def test_what_joins_gets_the_actors_that_were_added_for_it() -> None:
    first, second, third = ({"NodeID": name, "Resources": {"CPU": 2.0, "GPU": 1.0}} for name in ("1", "2", "3"))
    joined = Joined([first])
    assert joined.place({"CPU": 0.5}) is None
    joined.see([first, second])
    assert [joined.place({"CPU": 0.9}) for _ in range(3)] == ["2", "2", None]
    joined.see([first, second, third])
    assert [joined.place({"GPU": 1.0}) for _ in range(3)] == ["2", "3", None]
    joined.see([first, second])
    assert joined.place({"CPU": 0.9}) is None
    assert joined.place({"CPU": 0.2}) == "2"


@pytest.mark.long
@pytest.mark.timeout(200)
def test_stages_beside_a_gpu_are_chains_that_ray_data_takes(tmp_path: Path) -> None:
    """Ray believes in any GPU that it is told of. What runs there finds none: models take the CPU, networks fail."""
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "3.mp4", video_number=3, num_frames=10)
    make_stamp_bundle(tmp_path / "model", num_classes=8, frame=FrameSpec(64, 64))
    code = (
        "import ray, vidbatch\n"
        "ray.init('local', num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)\n"
        "labelled = vidbatch.label('videos', output='labels', model='file:model', buckets=1)\n"
        "enhanced = vidbatch.enhance('videos', output='enhanced', denoise='network', buckets=1)\n"
        "(row,) = enhanced.enhanced.to_arrow().to_pylist()\n"
        "print(labelled.record.by_status, labelled.record.pools['model_gpus'], enhanced.record.pools['enhance_gpus'])\n"
        "print(row['error_kind'], row['error_message'])\n"
    )
    paths = os.pathsep.join([str(Path(vidbatch.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "63", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *_, label, enhance = done.stdout.splitlines()
    assert label == "{'ok': 1} 1.0 0.5"
    assert enhance.startswith("worker"), "no CUDA in its process"
