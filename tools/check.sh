#!/bin/sh
# Every check runs, even when an earlier one failed; the exit status tells whether all passed.
cd "$(dirname "$0")/.." || exit 1
bin=.venv/bin
failed=
typed=hatch_build.py
for folder in labd plugins tests tools bench; do
    [ -n "$(find "$folder" -name '*.py' -print -quit 2>/dev/null)" ] && typed="$typed $folder"
done

step() {
    name=$1
    shift
    if "$@"; then printf 'check: %s: ok\n' "$name"
    else printf 'check: %s: FAILED\n' "$name"; failed="$failed $name"; fi
}

step lint "$bin/ruff" check --quiet .
step format "$bin/ruff" format --check --output-format concise .
# shellcheck disable=SC2086 # a list of folders
step types "$bin/mypy" --no-error-summary $typed
step imports "$bin/lint-imports" --no-logo
step site tools/docs.sh
[ -z "$failed" ] || { printf 'check: failed:%s\n' "$failed"; exit 1; }
