#!/bin/sh
# Install what prediction needs into a virtual environment, as small as it gets.
# sh install.sh requirements/predict.txt /opt/venv [further packages]
set -eu
requirements=$1 venv=$2
shift 2
python3 -m venv "$venv"
# Of nilearn the template alone is read: what it needs for the rest would be another 200 MB.
grep -v '^nilearn' "$requirements" > "$venv/wanted.txt"
nilearn=$(grep -o '^nilearn[^ ]*' "$requirements")
"$venv/bin/pip" install --no-cache-dir --disable-pip-version-check -r "$venv/wanted.txt" "$@"
"$venv/bin/pip" install --no-cache-dir --disable-pip-version-check --no-deps "$nilearn"
"$venv/bin/pip" uninstall -y setuptools pip
find "$venv" -name __pycache__ -type d -prune -exec rm -r {} +
