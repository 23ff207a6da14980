#!/bin/sh
# Names what the machine lacks to build onepass, with the apt line that brings it.
# `preflight.sh --packages` prints only the packages, for .ci/run.
PYTHON=${PYTHON:-python3}
packages=
need() { packages="$packages $1"; [ "$list" ] || echo "missing: $2  (apt-get install $1)" >&2; }
py() { "$PYTHON" -c "$1" 2>/dev/null; }

[ "$1" = --packages ] && list=1
if ! py 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    need python3 "Python 3.10 or newer as $PYTHON"
fi
py 'import venv, ensurepip' || need python3-venv "Python's venv module"
py 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' ||
    need python3-dev Python.h
major=$(${CXX:-g++} -dumpversion 2>/dev/null | cut -d. -f1)
[ "${major:-0}" -ge 11 ] || need g++ "g++ 11 or newer as ${CXX:-g++}"
command -v make >/dev/null || need make make

if [ "$list" ]; then
    echo $packages
elif [ "$packages" ]; then
    echo "all at once: apt-get install$packages" >&2
    exit 1
fi
