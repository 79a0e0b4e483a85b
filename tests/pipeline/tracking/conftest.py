"""An MLflow database to track in."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.uris import default_uri


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, a copy of it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(migrated_database: Path, tmp_path: Path) -> str:
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return default_uri(tmp_path)
