"""Fixtures that several test files share."""

from __future__ import annotations

import pytest
from clips import LazyClips


@pytest.fixture(scope="session")
def clips() -> LazyClips:
    """Real clips by name (`clips["bikes.mp4"]` is a Path), see CLIPS.md; fetched when first asked for."""
    return LazyClips()
