from pathlib import Path

import pytest

from pipeline.jobs.access import connect, refuse_open_cluster, refuse_secrets, token_headers

FAR = "http://192.0.2.1:8265"  # an address that no machine has
NEAR = "http://127.0.0.1:8265"


def test_a_cluster_that_serves_everybody_is_refused_unless_only_this_machine_reaches_it() -> None:
    with pytest.raises(ValueError, match="without a token"):
        refuse_open_cluster(FAR, answers=lambda _: True)
    refuse_open_cluster(FAR, answers=lambda _: False)
    refuse_open_cluster(NEAR, answers=lambda _: True)
    refuse_open_cluster("http://localhost:8265", answers=lambda _: True)


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "auto", "ray://127.0.0.1:10001", "http://", ""])
def test_an_address_that_is_no_dashboard_is_the_users_mistake(address: str) -> None:
    with pytest.raises(ValueError, match=r"expected one like http://127\.0\.0\.1:8265"):
        connect(address)


def test_a_password_in_the_command_is_refused() -> None:
    with pytest.raises(ValueError, match="password") as error:
        refuse_secrets(["longtake", "train", "--tracking-uri", "https://me:hunter2@mlflow.example"])
    assert "hunter2" not in str(error.value)
    refuse_secrets(["longtake", "scan", "s3://bucket/a:b@c/d.mp4", "https://mlflow.example:5000/x"])


def test_the_token_is_shown_to_this_machine_and_elsewhere_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("secret\n")
    home = {"HOME": str(tmp_path)}
    bearer = {"Authorization": "Bearer secret"}
    assert token_headers(NEAR, environ=home) == bearer
    assert token_headers(FAR, environ=home) == {}
    assert token_headers(FAR, environ={**home, "RAY_AUTH_MODE": "token"}) == bearer
    assert token_headers(NEAR, environ={**home, "RAY_AUTH_MODE": "disabled"}) == {}
    assert token_headers(NEAR, environ={**home, "RAY_AUTH_TOKEN": "other"}) == {"Authorization": "Bearer other"}


def test_token_mode_without_a_token_is_refused(tmp_path: Path) -> None:
    assert token_headers(NEAR, environ={"HOME": str(tmp_path)}) == {}
    with pytest.raises(ValueError, match="holds a token"):
        token_headers(NEAR, environ={"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"})
