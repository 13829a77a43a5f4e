#!/bin/sh
# Starts the page on Linux. Finds a Python; chatglm_backend/launcher does the rest. See: ./launch.sh --help
set -eu

say() { printf 'launch: %s\n' "$*" >&2; }

# The folder of this file, also when it was started through a symbolic link.
script=$0
while [ -L "$script" ]; do
    target=$(readlink -- "$script")
    case $target in
        /*) script=$target ;;
        *) script=$(dirname -- "$script")/$target ;;
    esac
done
root=$(CDPATH='' cd -- "$(dirname -- "$script")" && pwd -P)

case "$(uname -s) $(uname -m)" in
    "Linux x86_64" | "Linux amd64") ;;
    Darwin*)
        say "macOS is not supported: bigdl-llm has INT4 libraries for Linux and Windows on x86-64 only; start the page on such a machine and open it from here over the network."
        exit 1 ;;
    MINGW* | MSYS* | CYGWIN*)
        say "On Windows, start launch.ps1 in PowerShell instead of this script."
        exit 1 ;;
    *)
        say "$(uname -s) on $(uname -m) is not supported: bigdl-llm has INT4 libraries for Linux and Windows on x86-64 only; start the page on such a machine and open it from here over the network."
        exit 1 ;;
esac

# Prints one line: "ok", or why this Python does not count. Runs on any Python from 2.7 on.
probe='
import sys
v = sys.version_info
name = "%d.%d" % (v[0], v[1])
if v < (3, 10) or v >= (3, 15):
    print("version " + name)
elif sys.maxsize < 2 ** 32:
    print("bits " + name)
elif sys.implementation.name != "cpython":
    print("kind " + sys.implementation.name)
else:
    try:
        import ensurepip, venv
        ensurepip.version()
    except Exception:
        print("venv " + name)
    else:
        print("ok " + name)
'

check() { # check PYTHON: prints the verdict
    found=$(command -v -- "$1" 2>/dev/null) || found=
    [ -n "$found" ] || { printf 'missing'; return 0; }
    limit=
    if command -v timeout >/dev/null 2>&1; then limit='timeout 20'; fi
    verdict=$($limit "$found" -I -c "$probe" </dev/null 2>/dev/null | tail -n 1) || verdict=
    [ -n "$verdict" ] || verdict=$($limit "$found" -c "$probe" </dev/null 2>/dev/null | tail -n 1) || verdict=
    case $verdict in
        "ok "* | "version "* | "bits "* | "kind "* | "venv "*) printf '%s' "$verdict" ;;
        *) printf 'broken' ;;
    esac
}

explain() { # explain PYTHON VERDICT: one sentence with the fix
    detail=${2#* }
    case $2 in
        missing) printf '%s is not there' "$1" ;;
        venv*) printf "%s (Python %s) cannot make environments: run 'sudo apt install python%s-venv' and start again" "$1" "$detail" "$detail" ;;
        version*) printf '%s is Python %s: 3.10 to 3.14 is needed; install one, or set PYTHON to its path' "$1" "$detail" ;;
        bits*) printf '%s is a 32-bit Python: install a 64-bit one, or set PYTHON to its path' "$1" ;;
        kind*) printf '%s is %s: install the usual CPython, or set PYTHON to its path' "$1" "$detail" ;;
        *) printf "%s does not run (a version manager's shim without a version?): choose a version in that manager, for example 'pyenv global 3.12', or set PYTHON to a real Python" "$1" ;;
    esac
}

venv=${CHATGLM_VENV:-$root/.venv}
python=
if [ -z "${PYTHON:-}" ] && [ -f "$venv/chatglm-setup.json" ] && [ ! -e "$venv/chatglm-unfinished" ]; then
    case $(check "$venv/bin/python") in ok*) python=$venv/bin/python ;; esac
fi
if [ -z "$python" ]; then
    # The reason worth telling: a Python that only lacks venv, else the first that is there but does not count.
    reason=
    urgent=
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python3.14; do
        [ -n "$candidate" ] || continue
        verdict=$(check "$candidate")
        case $verdict in
            ok*) python=$(command -v -- "$candidate"); break ;;
            venv*) [ -n "$urgent" ] || urgent=$(explain "$candidate" "$verdict") ;;
            missing) ;;
            *) [ -n "$reason" ] || reason=$(explain "$candidate" "$verdict") ;;
        esac
        if [ "$candidate" = "${PYTHON:-}" ]; then
            say "PYTHON=$candidate cannot be used ($(explain "it" "$verdict")); looking for another."
        fi
    done
    if [ -z "$python" ]; then
        say "${urgent:-${reason:-No Python 3.10 to 3.14 was found: run 'sudo apt install python3 python3-venv', or set PYTHON to one}}."
        exit 1
    fi
fi

exec "$python" -I "$root/chatglm_backend/launcher/start.py" "$@"
