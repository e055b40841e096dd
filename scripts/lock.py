"""pyproject.toml in, requirements.lock out: every package of `vidbatch[dev]` in the version of one clean resolve.

Nothing is installed. The file names no index and no file, so it works with whatever index pip is set up for.
Run it by `make lock`, on the oldest supported Python, then read the diff.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LINUX_ONLY = re.compile(r"(nvidia|cuda)-.*|triton")  # what torch brings along for its GPU


def resolve() -> dict[str, str]:
    """Versions by package name, vidbatch itself left out."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "-qq"]
        subprocess.run([*command, "--report", str(report), f"{REPOSITORY}[dev]"], check=True)
        found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {entry["name"]: entry["version"] for entry in found if entry["name"] != "vidbatch"}


def main() -> None:
    """Write requirements.lock."""
    major, minor, _ = platform.python_version_tuple()
    lines = [
        f"# Every package of vidbatch[dev], resolved together by `make lock` (Python {major}.{minor}, {sys.platform} "
        f"{platform.machine()}).",
        "# Install: pip install -r requirements.lock && pip install --no-deps -e .",
    ]
    for name, version in sorted(resolve().items(), key=lambda item: item[0].lower()):
        marker = ' ; sys_platform == "linux"' if LINUX_ONLY.fullmatch(name) else ""
        lines.append(f"{name}=={version}{marker}")
    (REPOSITORY / "requirements.lock").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
