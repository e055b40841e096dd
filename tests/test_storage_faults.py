"""Whole runs on a store that misbehaves: archive and tables on S3 behind faults, tables compared with a clean run's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.storage import MOST_RUNS, SCENARIOS, Place, is_well, make_place, play
from disks import small_disk
from faulty_s3 import Wire
from runs import VIDBATCH, differences, rows
from servers import MotoServer, SeaweedServer

from vidbatch import storage
from vidbatch.errors import TRANSIENT_KINDS
from vidbatch.publish import staged_parts

pytestmark = pytest.mark.usefixtures("local_ray")

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")


@pytest.fixture(scope="module")
def made(_moto: MotoServer, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _moto.env.items():
            patch.setenv(name, value)
        _moto.forget()
        return make_place(_moto, tmp_path_factory.mktemp("faults"))


@pytest.fixture
def place(made: Place, moto_s3: MotoServer) -> Place:
    """The one archive of this file, with an environment that says where it is."""
    return made


@pytest.mark.long
def test_every_fault_of_an_object_is_waited_out_or_is_a_row_that_a_rerun_makes_right(place: Place) -> None:
    result = play(place, "each_its_own", 1)
    assert is_well(result), result
    assert {"reset", "truncated", "internal", "slow_down", "stall_in_body", "missing", "forbidden"} <= set(
        result["faults"]
    )
    assert result["runs"][0] == {"changed": 1, "permission": 2, "missing": 1, "storage": 1}


@pytest.mark.long
def test_bursts_of_errors_at_every_kind_of_request_lose_and_double_nothing(place: Place) -> None:
    result = play(place, "storm", 1)
    assert is_well(result), result
    assert sum(result["faults"].values()) >= 10


@pytest.mark.long
def test_access_that_ends_in_the_middle_of_a_run_is_made_good_by_the_next(place: Place) -> None:
    result = play(place, "expired", 1)
    assert is_well(result), result
    assert result["faults"]["forbidden"] >= 1
    assert result["runs"][0] != "finished"


@NEEDS_ROOT
@pytest.mark.long
def test_a_full_disk_is_one_sentence_and_a_rerun_with_room_completes(
    place: Place, vidbatch_command: Callable[..., tuple[int, str]]
) -> None:
    output = place.folder / "disk"
    words = place.command(str(output))
    words = words[words.index("label") :]
    with small_disk(output, 60) as grow:
        code, printed = vidbatch_command(*words)
        assert code == 1
        said = printed.splitlines()
        assert [line for line in said if "No space left on device" in line] == said[-1:]
        assert "Traceback" not in "".join(said)
        left = [path.name for path in output.rglob("*") if path.is_file()]
        assert not [name for name in left if name.endswith(".tmp")]
        rows(output)  # every file that is there is whole
        grow(64_000)
        assert vidbatch_command(*words)[0] == 0
        assert differences(place.clean, rows(output)) == {"lost": 0, "doubled": 0, "wrong": 0}
        assert staged_parts(str(output)) == []


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whatever_the_store_does_the_tables_are_those_of_a_clean_run(place: Place, scenario: str, seed: int) -> None:
    if scenario == "full_disk" and os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    result = play(place, scenario, seed)
    assert is_well(result), result


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_a_wire_that_breaks_and_stands_still_before_a_real_server_changes_no_row(
    made: Place, seaweed_s3: SeaweedServer, tmp_path: Path, seed: int
) -> None:
    bucket = seaweed_s3()
    for name, data in made.objects.items():
        storage.put(f"{bucket}/archive/{name}", data)
    settings = (made.folder / "settings.yaml").read_text().replace(made.bucket, bucket)
    (tmp_path / "settings.yaml").write_text(settings)
    words = [*VIDBATCH, "label", "--config", str(tmp_path / "settings.yaml"), "--output"]
    subprocess.run([*words, f"{bucket}/clean"], check=True, capture_output=True, timeout=200)
    host, port = seaweed_s3.endpoint.removeprefix("http://").split(":")
    wire = Wire(host, int(port), seed=seed, reset_share=0.1, wait_share=0.03, wait_seconds=25)
    env = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{wire.port}"}
    try:
        for _ in range(MOST_RUNS):
            done = subprocess.run([*words, f"{bucket}/out"], env=env, capture_output=True, text=True, timeout=280)
            kinds = {row["error_kind"] for row in rows(f"{bucket}/out")[0]}
            if done.returncode == 0 and not kinds & TRANSIENT_KINDS:
                break
    finally:
        wire.stop()
    assert done.returncode == 0, done.stderr
    assert wire.struck["reset"] > 0
    assert differences(rows(f"{bucket}/clean"), rows(f"{bucket}/out")) == {"lost": 0, "doubled": 0, "wrong": 0}
