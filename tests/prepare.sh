#!/bin/sh
# Installs what tests need and pip cannot bring: Debian packages (as root) and npm packages (where npm is). What
# cannot be installed is said here; the tests that need it say so too, and are skipped. `prepare.sh venv` brings only
# Python's own venv module, which Debian packages apart; `prepare.sh compiler` a C compiler and Python's headers.
set -eu
cd "$(dirname "$0")/.."

missing_packages() {
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

install_packages() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "missing Debian packages: $* (as root: apt-get install $*)"
        return 1
    fi
    echo "installing Debian packages: $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@"; } \
        >/dev/null || { echo "apt-get could not install: $*"; return 1; }
}

if [ "${1-}" = venv ]; then
    if command -v apt-get >/dev/null && install_packages python3-venv; then exit 0; fi
    echo "Python's venv module is missing: install it (Debian: python3-venv) and run make again"
    exit 1
fi

if [ "${1-}" = compiler ]; then
    python=.venv/bin/python
    headers=$($python -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if command -v cc >/dev/null && [ -e "$headers/Python.h" ]; then exit 0; fi
    if command -v apt-get >/dev/null && install_packages gcc libc6-dev python3-dev; then exit 0; fi
    echo "the byte path cannot be compiled: that takes a C compiler and Python's headers (Debian: gcc, python3-dev)"
    exit 1
fi

if command -v dpkg-query >/dev/null; then
    # shellcheck disable=SC2046 # one word per package is the point
    missing=$(missing_packages $(sed 's/#.*//' tests/packages.txt))
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install_packages $missing || echo "tests that need these packages are skipped"
else
    echo "this is no Debian: tests that need the packages in tests/packages.txt are skipped where these are missing"
fi

stamp=tests/npm/node_modules/.installed
if ! command -v npm >/dev/null; then
    echo "npm is not installed: tests that need Node are skipped"
elif [ ! -e $stamp ] || [ tests/npm/package.json -nt $stamp ]; then
    echo "installing npm packages (the first time only)"
    if (cd tests/npm && npm install --no-package-lock --no-audit --no-fund --loglevel error); then
        mkdir -p tests/npm/node_modules && touch $stamp
    else
        echo "npm could not install them: tests that need them are skipped"
    fi
fi
