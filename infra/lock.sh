#!/usr/bin/env bash
# Regenerates the locks from pyproject.toml and dags/requirements.in. Versions that are locked stay; --upgrade moves them.
#   infra/locks/cuda.txt        everything but torch, with torch's CUDA libraries
#   infra/locks/cpu.txt         the same without those libraries
#   dags/requirements.lock.txt  Airflow's own environment
set -euo pipefail
cd "$(dirname "$0")/.."
torch_pin=infra/locks/torch.txt # by hand: pip takes torch from where TORCH_INDEX says, so it has no hash

workdir=$(mktemp -d)
trap 'rm -rf "$workdir"' EXIT
"${PYTHON:-python3}" -m venv "$workdir/venv"
"$workdir/venv/bin/pip" --quiet --quiet install "uv==0.13.9"
compile() {
    "$workdir/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command "make lock" --no-annotate "$@"
}

echo "lock: infra/locks/cuda.txt"
compile pyproject.toml --group dev --constraints "$torch_pin" --no-emit-package torch --output-file infra/locks/cuda.txt "$@"

echo "lock: infra/locks/cpu.txt"
awk '/^[a-z]/ { cuda = /^(nvidia-|cuda-|triton==)/ } !cuda' infra/locks/cuda.txt >infra/locks/cpu.txt

echo "lock: dags/requirements.lock.txt"
compile dags/requirements.in --output-file dags/requirements.lock.txt "$@"
