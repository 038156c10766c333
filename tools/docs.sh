#!/bin/sh
# Build the documentation as a site, in a virtual environment of its own from the locked requirements.
#
#   tools/docs.sh [FOLDER]    into FOLDER, else build/site; warnings are errors
#   tools/docs.sh --serve     ... and serve it at http://127.0.0.1:8000/ until Ctrl-C
set -eu
umask 022
cd "$(dirname "$0")/.."

VENV=.venv-docs
STAMP=$VENV/.labd-docs
want=$(sha256sum <requirements-docs.lock)
if [ "$(cat "$STAMP" 2>/dev/null || true)" != "$want" ] || ! "$VENV/bin/python" -c '' 2>/dev/null; then
    printf 'docs: making %s\n' "$VENV" >&2
    .venv/bin/python -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip --quiet --quiet --disable-pip-version-check --no-input \
        install --require-hashes -r requirements-docs.lock
    printf '%s\n' "$want" >"$STAMP"
fi

case ${1:-} in
    --serve) folder=build/site ;;
    *) folder=${1:-build/site} ;;
esac
# Not --quiet: a warning that is not logged is not counted by --strict.
NO_MKDOCS_2_WARNING=1 "$VENV/bin/mkdocs" build --strict --clean \
    --site-dir "$(realpath -m "$folder")" >"$VENV/log" 2>&1 || { cat "$VENV/log" >&2; exit 1; }
.venv/bin/python -m tools.site_assets "$folder"
[ "${1:-}" != --serve ] || exec .venv/bin/python -m http.server --bind 127.0.0.1 --directory "$folder" 8000
