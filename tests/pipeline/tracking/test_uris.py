from importlib.metadata import EntryPoint, EntryPoints

import pytest

from pipeline.tracking import uris
from pipeline.tracking.uris import OFF, STORES, refuse_unknown_store, without_secrets


def test_passwords_leave_urls() -> None:
    assert without_secrets("at http://user:secret@host:5000/x?y=1") == "at http://host:5000/x?y=1"


@pytest.mark.parametrize(
    "uri",
    [
        None, OFF, "databricks", "databricks://profile", "sqlite:///work/mlflow.db", "mlruns", "/abs/mlruns", "file:///mlruns",
        "http://host:5000", "https://me:secret@host", "postgresql+psycopg2://db/x", "mysql://db/x", "mssql://db/x",
    ],
)  # fmt: skip
def test_what_mlflow_has_a_store_for_is_taken_as_it_is(uri: str | None) -> None:
    assert refuse_unknown_store(uri) == uri


@pytest.mark.parametrize("uri", ["bogus://x", "localhost:5000", "postgres://db/x", "http+tls://host", "s3://bucket/x"])
def test_a_scheme_that_mlflow_has_no_store_for_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="MLflow tracks nothing in"):
        refuse_unknown_store(uri)


def test_a_refused_uri_keeps_its_password() -> None:
    with pytest.raises(ValueError, match="bogus://host") as error:
        refuse_unknown_store("bogus://me:secret@host")
    assert "secret" not in str(error.value)


def test_a_plugin_of_mlflow_adds_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EntryPoint(name="bogus", value="bogus_store:Store", group=uris.PLUGINS)
    monkeypatch.setattr(uris, "entry_points", EntryPoints([plugin]).select)
    assert refuse_unknown_store("bogus://x") == "bogus://x"
    with pytest.raises(ValueError, match="other://"):
        refuse_unknown_store("other://x")


def test_the_stores_are_those_that_mlflow_registers() -> None:
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    unity_catalog = {"uc", "databricks-uc"}  # registered to say that they cannot be tracked to
    assert set(STORES) == set(_tracking_store_registry._registry) - unity_catalog
