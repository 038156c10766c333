#!/bin/sh
# test.sh WORKERS [PYTEST OPTION...]: the whole suite; what keeps all CPUs busy first, by itself.
cd "$(dirname "$0")/.." || exit 1
workers=$1
shift
began=$(date +%s)
.venv/bin/python -m pytest -m alone tests/system "$@"
status=$?
[ $status = 5 ] && status=0 # the options left none of them
if [ $status = 0 ]; then
    .venv/bin/python -m pytest -m "not alone and not packages" -n "$workers" --dist loadgroup \
        --no-loadscope-reorder --durations 15 "$@"
    status=$?
fi
took=$(($(date +%s) - began))
printf 'test: %s in %d min %02d s, with %s workers, ended at %s\n' \
    "$([ $status = 0 ] && echo passed || echo FAILED)" $((took / 60)) $((took % 60)) "$workers" "$(date +%H:%M:%S)"
exit $status
