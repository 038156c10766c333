#!/bin/sh
# Install what labd needs on Debian or Ubuntu: system packages, then a virtual environment from the
# locked requirements. Safe to run again: a stamp makes the second run take no time.
#
#   tools/setup.sh            packages and .venv
#   tools/setup.sh --lock     write requirements*.lock afresh from pyproject.toml
set -eu
umask 022
cd "$(dirname "$0")/.."

# The programs labd runs, then what its build and its tests run.
PACKAGES="qemu-system-x86 qemu-utils ovmf mosquitto dnsmasq-base nftables iproute2 util-linux
 tcpdump
 python3-venv ca-certificates
 mosquitto-clients cpio zstd xz-utils mmdebstrap e2fsprogs openssh-client socat iputils-ping make git jq curl
 tshark strace rsync man-db bash fish zsh"
VENV=.venv
STAMP=$VENV/.labd-setup

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

missing_packages() {
    command -v dpkg-query >/dev/null || { say "not a Debian family host: install by hand:" $PACKAGES; return; }
    for name in $PACKAGES; do
        case $(dpkg-query -W -f '${Status}' "$name" 2>/dev/null || true) in
            "install ok installed") ;;
            *) printf '%s ' "$name" ;;
        esac
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "not root and no sudo: as root, run: apt-get install --no-install-recommends $missing"
    fi
}

# Debian's mosquitto package starts a system-wide broker on port 1883, which nobody asked for: labd
# runs its own. policy-rc.d is Debian's documented way to say so; one that exists is respected.
install_packages() {
    say "installing $missing"
    policy=/usr/sbin/policy-rc.d
    as_root env DEBIAN_FRONTEND=noninteractive POLICY="$policy" sh -euc '
        if [ ! -e "$POLICY" ]; then
            trap "rm -f \"$POLICY\"" EXIT INT TERM
            printf "#!/bin/sh\n# Left by the labd set-up while it installs packages; safe to delete.\nexit 101\n" >"$POLICY"
            chmod 755 "$POLICY"
        fi
        apt-get -qq update
        apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "$@" >/dev/null
    ' setup $missing
}

# The system's interpreter first: one in a person's home may be closed to the users that plugins run as.
find_python() {
    for name in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
        then printf '%s' "$name"; return; fi
    done
    die "labd needs Python 3.11 or newer with its venv module; install python3-venv, or put one on PATH"
}

make_venv() {
    python=$(find_python)
    say "making $VENV with $($python --version)"
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$VENV"
    pip="$VENV/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input"
    $pip install --require-hashes -r requirements.lock
    # hatchling comes from the lock, so no build environment is fetched behind its back.
    $pip install --no-deps --no-build-isolation -e .
}

lock() {
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT INT TERM
    "$(find_python)" -m venv "$scratch"
    "$scratch/bin/python" -m pip --quiet --quiet --disable-pip-version-check install uv
    "$scratch/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-annotate --extra dev --custom-compile-command "make lock" \
        -o requirements.lock pyproject.toml
    # What builds the site has nothing to do with labd and is in no environment of labd's.
    "$(find_python)" - <<'END' >"$scratch/docs.in"
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["docs"], sep="\n")
END
    "$scratch/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-annotate --custom-compile-command "make lock" -o requirements-docs.lock "$scratch/docs.in"
    # What a package brings along: labd's own libraries, at the versions that are tested.
    sed 's/ \\$//; /^ *--hash/d; /^#/d' requirements.lock >"$scratch/constraints"
    "$scratch/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-annotate --custom-compile-command "make lock" -c "$scratch/constraints" \
        -o requirements-package.lock pyproject.toml
    say "wrote requirements.lock, requirements-docs.lock and requirements-package.lock"
}

case ${1:-} in
    --lock) lock; exit ;;
    "") ;;
    *) die "usage: tools/setup.sh [--lock]" ;;
esac

# The settings of the linters in pyproject.toml do not matter here.
want=$(sed '/^\[tool\./,$d' pyproject.toml | cat - requirements.lock tools/setup.sh | sha256sum)
if [ "$(cat "$STAMP" 2>/dev/null || true)" = "$want" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
    exit 0
fi
missing=$(missing_packages)
[ -z "$missing" ] || install_packages
make_venv
printf '%s\n' "$want" >"$STAMP"
say "ready"
