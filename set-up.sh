#!/usr/bin/env bash
# Bring this folder to a state in which everything runs: a virtual environment in .venv with the pinned packages, and the
# Debian packages. Run by make; running it again changes nothing. PYTHON names an interpreter, else the best is searched.
set -euo pipefail
cd "$(dirname "$0")"

PROGRAMS=(ffmpeg fluidsynth)
SOUNDFONT=/usr/share/sounds/sf2/FluidR3_GM.sf2
PACKAGES=(ffmpeg fluidsynth fluid-soundfont-gm)
BROWSER=(chromium chromium-driver) # wanted by a few tests only

stop() {
    echo "sonograph: $*" >&2
    exit 4
}

have() {
    local program
    for program; do command -v "$program" >/dev/null || return; done
}

suits() { # a Python of the right version that can make environments
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null
}

find_python() {
    local name
    for name in ${PYTHON:-python3.11 python3.12 python3 python}; do
        if suits "$name"; then
            echo "$name"
            return
        fi
    done
    stop "Python 3.11 or 3.12 with venv is needed and ${PYTHON:-$(python3 -V 2>&1 || echo 'no Python')} is not" \
        "that, so nothing was installed. Install one (apt-get install python3.11-dev python3.11-venv), or name one:" \
        "make PYTHON=/path/to/python3.11"
}

debian_packages() {
    have "${PROGRAMS[@]}" && [ -e "$SOUNDFONT" ] || apt_install "${PACKAGES[@]}" ||
        stop "ffmpeg, fluidsynth or the FluidR3 SoundFont is missing and could not be installed from here. Run:" \
            "sudo apt-get update && sudo apt-get install ${PACKAGES[*]}"
    have chromium chromedriver || apt_install "${BROWSER[@]}" ||
        echo "sonograph: without ${BROWSER[*]} the browser tests are skipped" >&2
}

apt_install() { # when it may
    [ "$(id -u)" = 0 ] && have apt-get && apt-get update -q &&
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

python_packages() {
    local wanted
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] && return # a checkout touched the files and changed nothing
    [ -x .venv/bin/python ] || "$1" -m venv .venv
    echo "sonograph: installing the pinned packages into .venv, about three minutes" >&2
    pip_install torch # first and alone, so that its build is chosen by the pin and by nothing that depends on it
    pip_install --editable '.[dev]'
    pip_install --no-deps vit-pytorch # one module is compared with ours; its torchvision would not fit this torch
    echo "$wanted" >.venv/installed
}

pip_install() {
    .venv/bin/python -m pip install -qq --constraint constraints.txt "$@" && return
    local advice="Repeat the command to continue where it stopped"
    have "${CXX:-c++}" || advice="There is no C++ compiler here; if pip had to build a package, install one" \
        advice+=" (apt-get install g++ python3-dev) and repeat the command"
    stop "pip could not install '$*', for the reason above, so the set-up is not complete. $advice."
}

python=$(find_python)
debian_packages
python_packages "$python"
touch .venv/ready
