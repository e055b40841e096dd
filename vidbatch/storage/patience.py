"""A request in; its answer, however often it has to be asked for, out.

A store that answers that something is wrong with itself is waited for, a connection that broke is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Final, Literal, TypeVar

from vidbatch.storage.types import ANSWER_SECONDS, BUSY_SECONDS

TRIES: Final = 4
_PAUSE_SECONDS: Final = 0.2

Ailment = Literal["busy", "broken"]
Answer = TypeVar("Answer")


def is_busy(status: int) -> bool:
    """Whether an HTTP status says that the store cannot answer now, and may later."""
    return status in (408, 425, 429) or (status >= 500 and status != 501)


def patiently(
    call: Callable[[], Answer],
    errors: type[Exception] | tuple[type[Exception], ...],
    ailment_of: Callable[[Exception], Ailment | None],
) -> Answer:
    """What the call gives in the end. Raises the last of its `errors`.

    Args: `ailment_of` an error: the store is `busy`, the connection `broken`, or None if asking again is of no use.
    """
    began, num_broken = time.monotonic(), 0
    for retry in count():
        try:
            return call()
        except errors as error:
            ailment, spent = ailment_of(error), time.monotonic() - began
            num_broken += ailment == "broken"
            is_over = spent > BUSY_SECONDS if ailment == "busy" else num_broken == TRIES or spent > ANSWER_SECONDS
            if ailment is None or is_over:
                raise
        time.sleep(_PAUSE_SECONDS * 2 ** min(retry, 5))
    raise AssertionError("unreachable")
