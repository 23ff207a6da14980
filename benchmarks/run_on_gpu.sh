#!/usr/bin/env bash
# Builds, tests and measures onepass on a machine with a GPU, within 8 minutes.
#
#   benchmarks/run_on_gpu.sh [FOLDER]      default: benchmarks/results/gpu-<date>-<time>
#
# Needs python3 with a CUDA build of torch, nvcc and a C++ compiler; PYTHON names another python3.
# What else is missing is installed into build/gpu-venv where pip can reach an index. No step that
# fails stops the next. FOLDER/report.md is the summary; the exit status is 0 when the build and all
# tests that need a GPU went well. Paths are relative to the repository.
# shellcheck disable=SC2329  # steps call the functions, each in a bash of its own
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

MOST_SECONDS=480
machine_python=${PYTHON:-python3}
folder=${1:-benchmarks/results/gpu-$(date +%Y-%m-%d-%H%M%S)}
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 2
: >"$folder/steps.tsv"
failed=0

# step NAME SECONDS LOG COMMAND...: runs a command for at most so long, as far as there is time left
# of the whole, and notes how it ended.
step() {
    local name=$1 limit=$2 log=$3 start=$SECONDS code=0
    shift 3
    ((limit > MOST_SECONDS - start)) && limit=$((MOST_SECONDS - start))
    if ((limit > 0)); then
        echo "== $name (at most $limit s)"
        # Interrupted rather than terminated, pytest still writes its results.
        timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$folder/$log" 2>&1 || code=$?
    else
        code=124
    fi
    printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - start))" >>"$folder/steps.tsv"
    report
    ((code == 0)) || echo "   ended with $code: see $log"
    return "$code"
}

# Written again after every step: a session that is cut short leaves one, too.
report() {
    "$python" -m benchmarks.gpu_session report "$folder" ||
        echo "no report: $python -m benchmarks.gpu_session report $folder"
}

describe_machine() {
    date -u
    git rev-parse HEAD 2>/dev/null
    nvidia-smi
    nvcc --version
    "$python" -VV
    "$python" -c '
import torch
print("torch", torch.__version__, "for CUDA", torch.version.cuda)
print([torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())])'
}

# An environment that sees all of the machine's packages, also where its python3 is itself one of a
# virtual environment. Without pip of its own: that of the machine serves it.
make_environment() {
    "$machine_python" -m venv --clear --without-pip --system-site-packages build/gpu-venv || return
    "$machine_python" - build/gpu-venv/bin/python <<'PYTHON'
import subprocess, sys
from pathlib import Path

ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
own = subprocess.run([sys.argv[1], "-c", ask], check=True, capture_output=True, text=True)
inherited = [path for path in sys.path if path.endswith("-packages")]
lines = [f"import site; site.addsitedir({path!r})\n" for path in inherited]
Path(own.stdout.strip(), "machine.pth").write_text("".join(lines))
PYTHON
}

install_missing() {
    local requirement code=0
    for requirement in $("$python" -m benchmarks.gpu_session missing); do
        timeout 30 "$python" -m pip install --quiet --disable-pip-version-check --retries 0 \
            --timeout 5 --only-binary :all: "$requirement" ||
            { code=1 && echo "could not be had: $requirement"; }
    done
    return "$code"
}

build() {
    local archs
    archs=$("$python" -c '
import torch
print("%d.%d" % torch.cuda.get_device_capability())') && export TORCH_CUDA_ARCH_LIST=$archs
    ONEPASS_CUDA=1 MAX_JOBS=$(nproc) "$python" setup.py build_ext --inplace
}

sanitizer() {
    # Every tensor an allocation of its own: torch's pool would hide a step outside of it.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$checker" --tool "$1" --error-exitcode 99 --print-limit 20 \
        "$python" -m pytest -q -p no:cacheprovider -m "cuda and sanitize" tests
}

for home in "${CUDA_HOME:-}" /usr/local/cuda; do
    [[ -n $home && -d $home/bin ]] && PATH=$PATH:$home/bin:$home/compute-sanitizer
done
export PATH PYTHONPATH=$PWD/python${PYTHONPATH:+:$PYTHONPATH}
export -f describe_machine make_environment install_missing build sanitizer

python=$machine_python
export machine_python python
step environment 60 environment.log bash -c make_environment &&
    python=$PWD/build/gpu-venv/bin/python
# torch looks for ninja on the path.
PATH=$(dirname "$python"):$(dirname "$(command -v "$machine_python")"):$PATH
step machine 30 environment.log bash -c describe_machine
step packages 90 environment.log bash -c install_missing
step build 240 build.log bash -c build || failed=1
REQUIRE_CUDA=1 step tests 120 tests.log "$python" -m pytest -q -p no:cacheprovider -m cuda \
    --continue-on-collection-errors --junit-xml "$folder/tests.xml" tests || failed=1
left=$((MOST_SECONDS - SECONDS - 30)) # 30: to start, to trace, to draw
((left > 140)) && left=140
((left < 20)) && left=20
step benchmark 180 benchmark.log "$python" -m benchmarks gpu --seconds "$left" --folder "$folder"
if checker=$(command -v compute-sanitizer); then
    export checker
    for tool in memcheck initcheck racecheck; do
        REQUIRE_CUDA=1 step "$tool" 60 "sanitizer-$tool.log" bash -c "sanitizer $tool"
    done
fi
cat "$folder/report.md"
exit "$failed"
