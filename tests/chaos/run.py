"""Whole runs in, disturbed at random; out, whether any row was lost, doubled or wrong: `make chaos`.

    python tests/chaos/run.py                  all of it, about 45 minutes
    python tests/chaos/run.py driver=2 stuck   two kills of the driver and one stuck node only
    python tests/chaos/run.py --again          forget what an earlier, broken off call has done

Half of the scenarios are waited for rather than worked at, so that they go on beside the others, in a process of their
own. What is done is kept in .cache/chaos.json: a call that was broken off goes on; when vidbatch has changed since, all
begins anew. Exit code 0 only if all is well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import queue
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "chaos")]
from hosts import OnHosts  # noqa: E402  # the tests are no package
from kills import Kills  # noqa: E402
from storage import Storage  # noqa: E402

SIDES: list[list[Any]] = [[Kills], [OnHosts, Storage]]
"""What goes on side by side, and the places of each in turn: context managers with `planned` (scenario -> how often),
`once(scenario, number)` and, where a machine may lack what they need, `forbidden()`, the reason or None."""

STATE = REPOSITORY / ".cache" / "chaos.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO[=N]")
    parser.add_argument("--again", action="store_true", help="forget what was done before")
    options = parser.parse_args()
    sides = possible()
    todo = wanted(options.scenarios, [place for side in sides for place in side])
    done = {} if options.again else load()
    for name, at, result in results_of(sides, [one for one in todo if f"{one[0]}-{one[1]}" not in done]):
        print(f"{len(done) + 1:>3} of {len(todo)}  {result}", flush=True)
        done[f"{name}-{at}"] = result
        STATE.parent.mkdir(parents=True, exist_ok=True)
        STATE.write_text(json.dumps({"code": code_digest(), "done": done}, indent=1))
    missing = [f"{name}-{at}" for name, at in todo if f"{name}-{at}" not in done]
    failed = report([done[f"{name}-{at}"] for name, at in todo if f"{name}-{at}" in done])
    sys.exit(f"not tried, see above: {', '.join(missing)}" if missing else failed)


def results_of(sides: list[list[Any]], left: list[tuple[str, int]]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Scenario, number and result of each that is left to do, from a process for each side."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    apart = multiprocessing.get_context("spawn")
    results: Any = apart.Queue()
    processes = [apart.Process(target=play, args=(side, left, results)) for side in sides]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes) or not results.empty():
            with suppress(queue.Empty):
                yield results.get(timeout=1)
    finally:
        for process in processes:
            process.terminate()  # its clusters are shut down then
            process.join()


def play(places: list[Any], left: list[tuple[str, int]], results: Any) -> None:
    """One side: all that is left to do in its places."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for place in places:
        here = [(name, at) for name, at in left if name in place.planned]
        if here:
            with place() as scene:
                for name, at in here:
                    results.put((name, at, {"scenario": name, **scene.once(name, at)}))


def possible() -> list[list[Any]]:
    """The places that this machine lets us make; says which not, and fails where the network ones are required."""
    found: list[list[Any]] = [[] for _ in SIDES]
    for side, place in ((side, place) for side, places in zip(found, SIDES, strict=True) for place in places):
        reason = place.forbidden() if hasattr(place, "forbidden") else None
        if reason is None:
            side.append(place)
        elif os.environ.get("VIDBATCH_REQUIRE_NETNS") == "1":
            sys.exit(f"VIDBATCH_REQUIRE_NETNS=1, but {reason}")
        else:
            print(f"not tried: {', '.join(place.planned)}: {reason}", flush=True)
    return found


def wanted(words: list[str], places: list[Any]) -> list[tuple[str, int]]:
    """(scenario, number) of what was asked for, all that is planned where nothing was."""
    planned = {name: times for place in places for name, times in place.planned.items()}
    asked = {name: int(times or 1) for name, _, times in (word.partition("=") for word in words)} or planned
    unknown = sorted(asked.keys() - planned.keys())
    if unknown:
        sys.exit(f"there is no scenario {unknown[0]!r}; allowed: {', '.join(planned)}")
    return [(name, number) for name, times in asked.items() for number in range(times)]


def code_digest() -> str:
    """Of everything that is tried here."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted((REPOSITORY / "vidbatch").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load() -> dict[str, Any]:
    state = json.loads(STATE.read_text()) if STATE.exists() else {}
    done: dict[str, Any] = state["done"] if state.get("code") == code_digest() else {}
    return done


def report(results: list[dict[str, Any]]) -> int:
    """Print a table by scenario; 1 if anything went wrong, 0 otherwise."""
    names = ("struck", "lost", "doubled", "wrong")
    print("\nscenario      tried struck  lost doubled wrong  seconds  seeds of what went wrong")
    bad = 0
    for scenario in dict.fromkeys(result["scenario"] for result in results):
        of = [result for result in results if result["scenario"] == scenario]
        sums = {name: sum(result[name] for result in of) for name in names}
        wrong = [result["seed"] for result in of if result["lost"] or result["doubled"] or result["wrong"]]
        bad += len(wrong)
        seconds = sum(result["seconds"] for result in of)
        print(f"{scenario:<13} {len(of):>5} {sums['struck']:>6} {sums['lost']:>5} {sums['doubled']:>7} "
              f"{sums['wrong']:>5} {seconds:>8.0f}  {', '.join(wrong)}")  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    main()
