"""Who is busy with what goes in, by actors; what takes long is said to the user, and what hangs a model is stopped.

One `Watch` a run, an actor of its own, so that a process that hangs in native code and holds its interpreter's lock is
still seen and killed. Ray starts a killed actor anew and repeats its call; by then the watch knows which chunks the
call hung on. They are tried one by one, and one that hangs again, alone, is a failure of its video.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

SLOW_SECONDS: Final = 60.0
"""What keeps an actor for so long is spoken of, and again each time it has doubled."""

MOST_HANGS: Final = 2
"""Of a chunk: in company and then alone."""

_LOOK_SECONDS: Final = 0.5
_ASK_SECONDS: Final = 5.0


class _Call(NamedTuple):
    worker: Any
    chunks: list[str]
    urls: list[str]
    began: float
    deadline: float
    say_at: float


class Watch:
    """Calls of model actors in; out, which chunks one hung on before, and notes for the user."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, _Call] = {}
        self._hangs: Counter[str] = Counter()
        self._notes: list[str] = []
        threading.Thread(target=self._look, name="vidbatch-watch", daemon=True).start()

    def begin(self, worker_id: str, worker: Any, chunks: list[str], urls: list[str], seconds: float) -> None:
        """A worker starts on chunks of videos with these URLs, and may take so many seconds."""
        now = time.monotonic()
        with self._lock:
            self._calls[worker_id] = _Call(worker, chunks, urls, now, now + seconds, now + SLOW_SECONDS)

    def end(self, worker_id: str) -> None:
        """A worker is through with what it began."""
        with self._lock:
            self._calls.pop(worker_id, None)

    def hangs(self, chunks: list[str]) -> list[int]:
        """How often each chunk was among those that a worker hung on."""
        with self._lock:
            return [self._hangs[chunk] for chunk in chunks]

    def say(self, note: str) -> None:
        """Keep a note for the user."""
        with self._lock:
            self._notes.append(note)

    def take_notes(self) -> list[str]:
        """What there is to tell the user since the last time of asking."""
        with self._lock:
            taken, self._notes = self._notes, []
        return taken

    def _look(self) -> None:
        import ray

        while True:
            time.sleep(_LOOK_SECONDS)
            for call in self._overdue():
                with suppress(ray.exceptions.RayError):  # it is gone already
                    ray.kill(call.worker, no_restart=False)

    def _overdue(self) -> list[_Call]:
        now = time.monotonic()
        overdue = []
        with self._lock:
            for worker_id, call in list(self._calls.items()):
                taken = now - call.began
                if now >= call.deadline:
                    overdue.append(self._calls.pop(worker_id))
                    self._hangs.update(call.chunks)
                    self._notes.append(
                        f"the model gave no answer within {call.deadline - call.began:g} s for {_some(call.urls)}: "
                        "its actor is started anew"
                    )
                elif now >= call.say_at:
                    self._calls[worker_id] = call._replace(say_at=now + taken)
                    self._notes.append(f"the model is busy for {taken:.0f} s with {_some(call.urls)}")
        return overdue


def _some(urls: list[str]) -> str:
    names = list(dict.fromkeys(urls))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


class Watched:
    """The side of a model actor: what it is busy with, told to the run's watch. Made inside that actor.

    Args: `watch` is the actor's handle, None where nobody watches.
    """

    def __init__(self, watch: Any) -> None:
        self._watch = watch
        self._worker_id, self._worker = "", None
        if watch is not None:
            import ray

            context = ray.get_runtime_context()
            self._worker_id, self._worker = context.get_actor_id(), context.current_actor
            watch.end.remote(self._worker_id)  # what it was busy with when it was killed, by whomever

    def hangs(self, chunks: list[str]) -> list[int]:
        """How often each chunk was among those that a worker hung on."""
        if self._watch is None:
            return [0] * len(chunks)
        import ray

        counts: list[int] = ray.get(self._watch.hangs.remote(chunks))
        return counts

    @contextmanager
    def on(self, chunks: list[str], urls: list[str], seconds: float) -> Iterator[None]:
        """While the model works on these chunks, which may take so many seconds."""
        if self._watch is None:
            yield
            return
        self._watch.begin.remote(self._worker_id, self._worker, chunks, urls, seconds)
        try:
            yield
        finally:
            self._watch.end.remote(self._worker_id)


@contextmanager
def over_run(note: Callable[[str], None]) -> Iterator[Any]:
    """A watch for as long as a run goes on, an actor that takes no CPU's place; its notes are given to the user."""
    import ray

    watch = ray.remote(Watch).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    over = threading.Event()

    def ask() -> None:
        is_over = False
        while not is_over:
            is_over = over.wait(_ASK_SECONDS)
            with suppress(ray.exceptions.RayError):
                for said in ray.get(watch.take_notes.remote(), timeout=_ASK_SECONDS):
                    note(said)

    thread = threading.Thread(target=ask, name="vidbatch-notes", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        with suppress(Exception):  # Ray may have gone; actors of its own may keep a handle, and the watch, for good
            ray.kill(watch)
