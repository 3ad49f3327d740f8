#!/usr/bin/env bash
# What a machine with a GPU is asked in one go, within 8 minutes: a build for its chip, the results of all functions,
# errors of memory and order that compute-sanitizer finds, and speed, in this order.
#     tests/cuda/on_gpu.sh [FOLDER]              # where the JSON file with the times goes; bench/results if not given
#     tests/cuda/on_gpu.sh --dry-run [FOLDER]    # the CPU in the GPU's place: every step runs that can
# Nothing is fetched. It needs nvcc, CMake 3.24, a C++ compiler, and a Python (PYTHON, or python3) with NumPy, ml_dtypes,
# pybind11, pytest, pytest-timeout and hypothesis. What PyTorch, CuPy, JAX, pytest-xdist and compute-sanitizer would add
# is skipped, and said, where they are not there. A step that fails does not stop the next one.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
dry_run='' results=bench/results
for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=1 ;;
        *) results=$argument ;;
    esac
done
python=${PYTHON:-python3} build=build/gpu failed=0 notes=()
mkdir -p "$results" "$build"
unset BNFAST_TARGET BNFAST_NUM_THREADS BNFAST_CUDA_LIBRARY
export PYTHONPATH=$PWD/$build/site:$PWD/tests:$PWD/tests/cuda XLA_PYTHON_CLIENT_PREALLOCATE=false
[[ -n "$dry_run" ]] && export BNFAST_GPU_DRY_RUN=1

# step TITLE SECONDS LINES COMMAND...: runs a command for so long at most, shows the end of what it says, and notes how
# it ended.
step() {
    local title=$1 limit=$2 lines=$3 started=$SECONDS ended log
    shift 3
    log=$build/${title// /-}.log
    printf '\n=== %s\n' "$title"
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
    case $? in
        0) ended='passed' ;;
        124 | 137) ended="stopped after $limit s" failed=1 ;;
        *) ended='FAILED' failed=1 ;;
    esac
    tail -n "$([[ "$ended" == passed ]] && echo "$lines" || echo 60)" "$log"
    printf -- '--- %s: %s, %d s; all it said is in %s\n' "$title" "$ended" $((SECONDS - started)) "$log"
    notes+=(--note "$title: $ended: $(tail -n 1 "$log")")
    [[ "$ended" == passed ]]
}
has() { "$python" -c "import $1" 2>/dev/null; }

for module in numpy ml_dtypes pybind11 pytest pytest_timeout hypothesis; do
    has "$module" || { echo "$python has no $module, without which nothing can be tested" >&2; exit 2; }
done
if [[ -z "$dry_run" ]]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader ||
        { echo 'nvidia-smi shows no GPU' >&2; exit 2; }
fi

# --- build: for this chip and this processor alone ----------------------------------------------------------------

build_all() {
    local cuda=(-DBNFAST_CUDA=ON -DBNFAST_CUDA_ARCHITECTURES=native -DCMAKE_CUDA_FLAGS=-lineinfo) targets='' ninja=()
    [[ -n "$dry_run" ]] && cuda=(-DBNFAST_CUDA=OFF)
    if grep -qw avx512vl /proc/cpuinfo; then targets='^x86_64_v4'; elif grep -qw avx2 /proc/cpuinfo; then targets='^x86_64_v3'; fi
    command -v ninja >/dev/null && ninja=(-G Ninja)
    cmake -S . -B "$build" "${ninja[@]}" -DCMAKE_BUILD_TYPE=Release -DSKBUILD=2 "-DBNFAST_ONLY_TARGETS=$targets" \
        "-DPython_EXECUTABLE=$(command -v "$python")" "-Dpybind11_DIR=$("$python" -m pybind11 --cmakedir)" "${cuda[@]}" &&
        cmake --build "$build" --parallel "$(nproc)" &&
        cmake --install "$build" --prefix "$build/site" >/dev/null &&
        cp -r python/bnfast/. "$build/site/bnfast/" &&
        "$python" -m bnfast
}
export -f build_all
export build dry_run python
step 'build' 240 12 bash -c build_all || exit 1

# --- results ------------------------------------------------------------------------------------------------------

pytest=("$python" -m pytest -q -p no:cacheprovider --no-header)
workers=()
if has xdist; then workers=(-n "$(($(nproc) < 8 ? $(nproc) : 8))"); else echo 'SKIPPED: pytest-xdist: one process tests'; fi
for library in torch cupy jax; do
    has "$library" || echo "SKIPPED: the tests with $library, which is not installed"
done
step 'results' 180 20 "${pytest[@]}" "${workers[@]}" -rs --durations=5 tests/cuda \
    'tests/test_documents.py::test_python_blocks_run[docs/cuda.md]'

# --- memory and order: of little data, as each access is watched --------------------------------------------------

if command -v compute-sanitizer >/dev/null && [[ -z "$dry_run" ]]; then
    for tool in memcheck racecheck synccheck; do
        BNFAST_GPU_EXAMPLES=6 step "$tool" 60 3 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "${pytest[@]}" tests/cuda/test_gpu_results.py -k 'batch_norm and not larger or norms or memory or cpu or none'
    done
else
    echo 'SKIPPED: compute-sanitizer is not here'
fi

# --- speed --------------------------------------------------------------------------------------------------------

if has torch; then
    step 'speed' 170 60 "$python" bench/gpu.py --results "$results" ${dry_run:+--dry-run} --seconds 120 "${notes[@]}"
else
    echo 'SKIPPED: the benchmark, whose tensors and peers are those of PyTorch, which is not installed'
fi
printf '\n=== %d s in all\n' "$SECONDS"
printf '%s\n' "${notes[@]}" | grep -v '^--note$'
exit "$failed"
