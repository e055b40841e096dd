"""A video of HLS played to its end in a real browser without a window, and what the browser has seen of it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from servers import Environ, HttpServer, StartResponse

CHROMIUM = "chromium"
PLAY_SECONDS = 90
PAGE = """<!doctype html><video id="video" muted playsinline></video><script>
const video = document.getElementById("video"), seen = [];
const say = (what) => fetch("%s", {method: "POST", mode: "no-cors", body: JSON.stringify(what)});
video.onerror = () => say({error: video.error.message});
video.ontimeupdate = () => seen.push([video.currentTime, video.videoWidth, video.videoHeight]);
video.onended = () => say({
  seconds: video.currentTime, duration: video.duration, seen,
  frames: video.getVideoPlaybackQuality().totalVideoFrames, sound_bytes: video.webkitAudioDecodedByteCount,
});
video.src = "%s";
video.playbackRate = 2;
video.play().catch((refused) => say({error: String(refused)}));
</script>"""


def play(source: str, folder: Path, publish: Callable[[bytes], str]) -> dict[str, Any]:
    """What a page says that plays a playlist to its end: `seconds`, `duration`, `frames`, `seen`; or `error`.

    Args: `folder` is for the browser's own files; `publish` puts the page where the playlist is and gives its URL.
    """
    server = HttpServer(folder)
    said: list[dict[str, Any]] = []
    has_said = threading.Event()

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] != "POST":
            return None
        said.append(json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
        has_said.set()
        start_response("204 No Content", [])
        return []

    server.gate = answer
    page = publish((PAGE % (server.url, source)).encode())
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required",
             f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
    browser = subprocess.Popen([CHROMIUM, *words, page], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert has_said.wait(PLAY_SECONDS), "the browser says nothing"
        return said[0]
    finally:
        browser.terminate()
        browser.wait()
        server.stop()
