"""Whole runs in, disturbed at random; out, whether any row was lost, doubled or wrong: `make chaos`.

    python tests/chaos/run.py                  all of it, about 55 minutes
    python tests/chaos/run.py driver=2 stuck   two kills of the driver and one stuck node only
    python tests/chaos/run.py --again          forget what an earlier, broken off call has done

What is done is kept in .cache/chaos.json, so that a call that was broken off goes on; when vidbatch has changed since,
all begins anew. Exit code 0 only if all is well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "chaos")]
from hosts import OnHosts  # noqa: E402  # the tests are no package
from kills import Kills  # noqa: E402
from storage import Storage  # noqa: E402

PLACES: list[Any] = [Kills, OnHosts, Storage]
"""Context managers with `planned` (scenario -> how often), `once(scenario, number)` and, where a machine may lack what
they need, `forbidden()`, the reason or None."""

STATE = REPOSITORY / ".cache" / "chaos.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO[=N]")
    parser.add_argument("--again", action="store_true", help="forget what was done before")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clusters are to be shut down then, too
    places = possible()
    todo = wanted(options.scenarios, places)
    done = {} if options.again else load()
    for place in places:
        left = [(name, at) for name, at in todo if name in place.planned and f"{name}-{at}" not in done]
        if not left:
            continue
        with place() as scene:
            for name, at in left:
                result = {"scenario": name, **scene.once(name, at)}
                print(f"{len(done) + 1:>3} of {len(todo)}  {result}", flush=True)
                done[f"{name}-{at}"] = result
                STATE.parent.mkdir(parents=True, exist_ok=True)
                STATE.write_text(json.dumps({"code": code_digest(), "done": done}, indent=1))
    sys.exit(report([done[f"{name}-{at}"] for name, at in todo]))


def possible() -> list[Any]:
    """The places that this machine lets us make; says which not, and fails where the network ones are required."""
    found = []
    for place in PLACES:
        reason = place.forbidden() if hasattr(place, "forbidden") else None
        if reason is None:
            found.append(place)
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
