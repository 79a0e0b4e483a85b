#!/usr/bin/env bash
# Runs tests/dags in Airflow's own environment: dags/test.sh PYTHON [pytest options]. .venv-dags is made from the lock when needed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
shift || true
venv=.venv-dags
lock=dags/requirements.lock.txt

if ! cmp --silent "$lock" "$venv/.lock"; then
    echo "dags: $venv from $lock"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    PIP_PROGRESS_BAR=off "$venv/bin/python" -m pip --disable-pip-version-check --no-input \
        install --no-compile --no-deps --only-binary :all: --require-hashes --requirement "$lock" >"$venv/setup.log" 2>&1 || {
        tail -n 15 "$venv/setup.log" >&2
        exit 1
    }
    cp "$lock" "$venv/.lock"
fi

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
export AIRFLOW_HOME=$home AIRFLOW__CORE__DAGS_FOLDER=$PWD/dags AIRFLOW__CORE__LOAD_EXAMPLES=false
export AIRFLOW__CORE__UNIT_TEST_MODE=false PYTHONPATH=$PWD/dags NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
"$venv/bin/airflow" db migrate >"$home/migrate.log" 2>&1 || { tail -n 15 "$home/migrate.log" >&2 && exit 1; }
"$venv/bin/python" -m pytest tests/dags -p no:cacheprovider -c dags/pytest.ini --rootdir . -ra "$@"
