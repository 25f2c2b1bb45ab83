#!/bin/sh
# Make a virtual environment with everything for training, conversion, checks and tests.
# Usage: scripts/setup.sh FOLDER      PYTHON=python3.12 chooses the interpreter.
set -eu
venv=$1

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if supported "$candidate"; then
            python=$candidate
            break
        fi
    done
fi
if [ -z "$python" ] || ! supported "$python"; then
    echo "edge-dl needs Python 3.10 to 3.13 (TensorFlow has no wheels for others). Received: ${python:-none found}." >&2
    echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2
    exit 2
fi
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        if ! "$python" -m virtualenv --quiet "$venv"; then
            echo "Python's venv module is incomplete. Debian, Ubuntu: apt-get install python3-venv, then again." >&2
            exit 2
        fi
    fi
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip "setuptools>=77" wheel
echo "Installing TensorFlow, LiteRT and the test tools into $venv: about 1 GB of downloads the first time." >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
