#!/usr/bin/env bash
# Runs the kernel's tests with the address and undefined-behaviour sanitizers; fails on any report.
#
#     benchmarks/sanitize.sh [python]
#
# Needs CMake, nanobind, pytest, hypothesis, and g++ or clang++ with their sanitizer libraries. The
# kernel is built in a temporary folder, beside a copy of the package: nothing in the tree changes.
set -euo pipefail

python=${1:-python}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if command -v g++ >/dev/null; then
  compiler=g++
  runtime=$(g++ -print-file-name=libasan.so)
else
  compiler=clang++
  runtime=$(clang++ -print-file-name="libclang_rt.asan-$(uname -m).so")
fi

mkdir -p "$work/src/mathnas" "$work/build"
# without the kernel that is there: the one under test must be the only one
(cd "$root/src/mathnas" && find . -name '*.py' -o -name '*.json' -o -name '*.pyi') |
  (cd "$root/src/mathnas" && xargs tar cf - --) | tar xf - -C "$work/src/mathnas"

flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"
flags+=" -D_GLIBCXX_ASSERTIONS"
[[ $compiler == clang++ ]] && flags+=" -shared-libasan"
cmake -S "$root" -B "$work/build" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS="$flags" \
  -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dnanobind_ROOT="$("$python" -m nanobind --cmake_dir)" >"$work/log" || { cat "$work/log"; exit 1; }
cmake --build "$work/build" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
cp "$work"/build/_kernel*.so "$work/src/mathnas/search/"

# an editable installation answers imports before the path does, in every process
cat >"$work/src/sitecustomize.py" <<'PYTHON'
import sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
PYTHON
export PYTHONPATH="$work/src" MATHNAS_REQUIRE_KERNEL=1 PYTHONDONTWRITEBYTECODE=1
# the interpreter frees nothing at its end, so leaks are not looked for
# reports go to files: pytest would keep them to itself when a test kills it, and so would the
# processes that tests start
export ASAN_OPTIONS="detect_leaks=0:log_path=$work/report"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$work/report"
# python itself is not linked with libstdc++, whose throw the address sanitizer must find at its start
export LD_PRELOAD="$runtime:$($compiler -print-file-name=libstdc++.so)"
"$python" - "$work" <<'PYTHON'
import sys
from mathnas.search import _kernel
if not _kernel.__file__.startswith(sys.argv[1]):
    sys.exit(f"the kernel under test should be in {sys.argv[1]}, but is {_kernel.__file__}")
PYTHON
status=0
"$python" -m pytest -q -p no:cacheprovider "$root/tests/search/test_kernel.py" || status=$?
unset LD_PRELOAD
for report in "$work"/report*; do
  [[ -e $report ]] || continue
  cat "$report"
  status=1
done
((status == 0)) && echo "no report from the sanitizers ($compiler)"
exit "$status"
