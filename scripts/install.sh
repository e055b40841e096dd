#!/usr/bin/env bash
# What `make` needs on a bare machine, installed once: `install.sh python` makes .venv from requirements.lock,
# `install.sh debian` brings the programs that the tests call (ffmpeg, ffprobe, ip, chromium and, by npm, azurite),
# `install.sh peers` makes .venv-peers (other decoders, for benchmarks/decode.py and train.py) from benchmarks/peers.lock.
# Safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf '\nmake: %s\n' "$1" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

apt_install() {
    command -v apt-get >/dev/null || fail "$1 is missing and this is no Debian or Ubuntu; install it, then repeat."
    as_root true || fail "$1 is missing; run 'sudo apt-get install $1', then repeat."
    echo "make: installing $1 with apt-get" >&2
    as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$1" >/dev/null ||
        fail "apt-get could not install $1 (its message is above); it needs Debian's package index once."
}

# make_venv FOLDER LOCK SIZE
make_venv() {
    local python=${PYTHON:-python3} wanted='import sys; sys.exit(sys.version_info < (3, 11))'
    command -v "$python" >/dev/null || fail "there is no $python; install Python 3.11 or newer, or set PYTHON=…"
    "$python" -c "$wanted" || fail "vidbatch needs Python 3.11 or newer, this is $("$python" --version); set PYTHON=…"
    if ! "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install "python3-venv"
        "$python" -m venv --clear "$1" || fail "'$python -m venv' failed; its message is above."
    fi
    echo "make: installing the packages of $2 into $1 (once; some $3, minutes)" >&2
    "$1/bin/python" -m pip install -qq --disable-pip-version-check --no-input -r "$2" ||
        fail "pip could not install $2 (its message is above); it needs a Python package index once."
}

install_python() {
    make_venv .venv requirements.lock "7 GB"
    # setuptools is in the lock, so the build needs no index of its own
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable . ||
        fail "vidbatch itself could not be installed; pip's message is above."
    touch .venv/.installed
}

install_debian() {
    command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null || apt_install ffmpeg
    command -v chromium >/dev/null || apt_install chromium # tests/test_ladder.py plays in it
    install_azurite
    # tests/chaos/hosts.py makes networks with it, which only root may
    [ "$(id -u)" != 0 ] || command -v ip >/dev/null || apt_install iproute2
}

# Microsoft's stand-in for Azure's store, in .node; the last version that Debian 12's node can run
install_azurite() {
    [ ! -x .node/node_modules/.bin/azurite-blob ] || return 0
    command -v npm >/dev/null || apt_install npm
    echo "make: installing azurite into .node (once; some 100 MB)" >&2
    npm install --silent --no-save --no-audit --no-fund --prefix .node azurite@3.35.0 >/dev/null ||
        fail "npm could not install azurite (its message is above); it needs npm's package index once."
}

install_peers() {
    install_debian # torchcodec opens the FFmpeg libraries that come with ffmpeg
    ! cmp -s benchmarks/peers.lock .venv-peers/.installed || return 0
    make_venv .venv-peers benchmarks/peers.lock "6 GB"
    cp benchmarks/peers.lock .venv-peers/.installed
}

case ${1:-} in
python) install_python ;;
debian) install_debian ;;
peers) install_peers ;;
*) fail "usage: scripts/install.sh python|debian|peers" ;;
esac
