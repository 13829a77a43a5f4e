#!/bin/sh
# Runs every check of the project: formatting, types, unit, integration and browser tests.
#   tests/run.sh              everything
#   tests/run.sh -k words     arguments go to pytest
# CHROMIUM=/path chooses the browser; CHATGLM_TEST_TOKENIZERS=dir adds the tests on the real vocabularies.
set -u
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
root=$(dirname -- "$here")
cd "$root" || exit 1
exec </dev/null

failed=
chosen=${1:+yes}
note() { printf '\n== %s\n' "$*"; }

limit() { # limit SECONDS COMMAND...
    seconds=$1
    shift
    if command -v timeout >/dev/null 2>&1; then timeout -k 10 "$seconds" "$@"; else "$@"; fi
}

step() { # step NAME SECONDS COMMAND...
    name=$1
    shift
    note "$name"
    code=0
    limit "$@" || code=$?
    # pytest's 5 is "no tests chosen", which is fine when the caller chose some words
    if [ "$code" -ne 0 ] && ! { [ "$code" -eq 5 ] && [ -n "$chosen" ]; }; then
        printf '%s: failed (exit code %s)\n' "$name" "$code"
        failed="$failed $name"
    fi
}

find_chromium() {
    # the first does without the windows of a desktop and takes a third less time
    for name in "${CHROMIUM:-}" chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable; do
        if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

has_chinese_font() {
    command -v fc-list >/dev/null 2>&1 && [ -n "$(fc-list :lang=zh 2>/dev/null | head -n 1)" ]
}

packages='chromium fonts-noto-cjk'
if ! { find_chromium >/dev/null && has_chinese_font; }; then
    if [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null 2>&1; then
        note "installing $packages"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086  # a list of package names
        { limit 120 apt-get -qq update && limit 240 apt-get -qq install -y --no-install-recommends $packages; } >/dev/null 2>&1 ||
            printf 'could not install them: going on without\n'
    else
        printf "For the browser tests: sudo apt install %s\n" "$packages"
    fi
fi
if browser=$(find_chromium); then export CHROMIUM="$browser"; fi

note 'environment'
limit 500 "$root/launch.sh" --setup-only --dev || exit 1
python=${CHATGLM_VENV:-$root/.venv}/bin/python

# Compiled once for all steps.
CHATGLM_TEST_KERNELS=$(mktemp -d) || exit 1
export CHATGLM_TEST_KERNELS
trap 'rm -rf "$CHATGLM_TEST_KERNELS"' EXIT

# Few threads that do not spin: two test processes run beside each other, also on machines of two cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

step format 60 "$python" -m ruff format --check .
step lint 60 "$python" -m ruff check .
step types 300 "$python" -m mypy
step unit 400 "$python" -m pytest -q -n 2 --dist loadfile tests/unit "$@"
step integration 900 "$python" -m pytest -q -n 2 --dist loadfile tests/integration "$@"
if [ -n "${CHROMIUM:-}" ]; then
    step browser 900 "$python" -m pytest -q -n 2 --dist worksteal tests/browser "$@"
else
    note "browser: skipped, there is no Chromium (sudo apt install $packages, or set CHROMIUM)"
fi

if [ -n "$failed" ]; then
    note "failed:$failed"
    exit 1
fi
note 'all passed'
