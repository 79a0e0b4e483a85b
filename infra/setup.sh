#!/usr/bin/env bash
# Makes .venv from a lock: infra/setup.sh PYTHON LOCK, LOCK being cpu or cuda. Run again, it repairs what was interrupted.
# TORCH_INDEX: where pip takes torch from; nothing else comes from there. Everything but torch is checked against its hash.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?"usage: infra/setup.sh PYTHON LOCK"}
lock=${2:?"usage: infra/setup.sh PYTHON LOCK"}
venv=.venv
log=$venv/setup.log

say() { printf 'setup: %3d s  %s\n' "$SECONDS" "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

check_machine() {
    [ -f "infra/locks/$lock.txt" ] || fail "there is no infra/locks/$lock.txt; LOCK is cpu or cuda"
    command -v "$python" >/dev/null || fail "$python is not there; make setup PYTHON=/path/to/python3.11 (or newer)"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old: longtake needs 3.11; make setup PYTHON=/path/to/python3.11 (or newer)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make environments; on Debian: apt-get install python3-venv python3-dev"
    for compiler in "${CXX:-c++}" g++ clang++; do
        command -v "$compiler" >/dev/null && return
    done
    fail "no C++ compiler; on Debian: apt-get install g++, on macOS: xcode-select --install"
}

make_venv() {
    if [ -e "$venv/.installing" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say ".venv with $("$python" --version)"
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    rm -f "$venv"/.done-*
    touch "$venv/.installing"
}

# Byte code is left to the first import: compiling all of it took 85 of 250 s, and most is never imported.
pip() {
    PIP_PROGRESS_BAR=off "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@" >>"$log" 2>&1 && return
    grep -v "^WARNING: Location" "$log" | tail -n 15 >&2
    fail "pip failed; the whole of it stands in $log. Run again: what was downloaded is kept"
}

torch_is_for_cuda() { grep -qs "^cuda.*= *'" "$venv"/lib/python*/site-packages/torch/version.py; }

install_torch() {
    say "$(cat infra/locks/torch.txt) (${TORCH_INDEX:+from TORCH_INDEX; }0.2 GB for CPUs, 0.5 GB and more for CUDA)"
    pip install --no-compile --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement infra/locks/torch.txt
    if torch_is_for_cuda && [ "$lock" = cpu ]; then
        lock=cuda
        say "this torch was built for CUDA, so its libraries come too (2 GB); TORCH_INDEX takes torch for CPUs (README)"
    fi
    torch_is_for_cuda || [ "$lock" = cpu ] || say "this torch was built for CPUs, although LOCK=$lock; TORCH_INDEX says where another is"
}

# DeepSpeed comes as source and is built against what the rest of the lock installs.
from_source() { awk -v wanted="$1" '/^[a-z]/ { is = /^deepspeed==/ } is == wanted' "infra/locks/$lock.txt"; }

install_lock() {
    say "$(grep -c '^[a-z]' "infra/locks/$lock.txt") packages of infra/locks/$lock.txt"
    from_source 0 >"$venv/wheels.txt"
    from_source 1 >"$venv/sources.txt"
    pip install --no-compile --no-deps --require-hashes --only-binary :all: --requirement "$venv/wheels.txt"
    say "DeepSpeed and longtake, built here"
    DS_BUILD_OPS=0 pip install --no-compile --no-deps --require-hashes --no-build-isolation --requirement "$venv/sources.txt"
    pip install --no-compile --no-deps --no-build-isolation --editable .
}

wait_for_others() { # among them the pip of a set-up that was killed, which lives on
    exec 9<infra/setup.sh
    command -v flock >/dev/null || return 0
    flock --nonblock 9 || { say "waiting for another set-up to end" && flock 9; }
}

check_machine
wait_for_others
make_venv
install_torch
install_lock
rm "$venv/.installing"
touch "$venv/.done-$2"
say "done"
