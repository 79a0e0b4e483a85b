"""Which Ray cluster may be spoken to, with which token, and what must not be said to it."""

import ipaddress
import logging
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Where `ray start --head` serves its dashboard."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster's jobs API.

    Raises:
        ValueError: If the address is no URL, the cluster is open to everybody, or it does not take our token.
        ConnectionError: If nobody answers there.
    """
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{address!r} is not the address of Ray's dashboard; expected one like {DEFAULT_ADDRESS}")
    refuse_open_cluster(address, answers=answers_without_token)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)  # it tells of every stream of a log that ends
    try:
        return JobSubmissionClient(address, headers=token_headers(address, environ=os.environ))
    except AuthenticationError as error:
        raise ValueError(
            f"the Ray cluster at {address} does not take our token; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that holds the cluster's"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(f"Ray's jobs API at {address}: {error}") from error


def refuse_open_cluster(address: str, *, answers: Callable[[str], bool]) -> None:
    """Holds to the rule that a cluster which others can reach asks for a token.

    Args:
        address: Of Ray's dashboard.
        answers: Whether the cluster serves who comes without a token.

    Raises:
        ValueError: If the address is not loopback and the cluster serves everybody.
    """
    if not _is_loopback(urlsplit(address).hostname or "") and answers(address):
        raise ValueError(
            f"the Ray cluster at {address} runs anybody's code: it serves requests without a token. "
            "Start its head with RAY_AUTH_MODE=token, and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here"
        )


def token_headers(address: str, *, environ: Mapping[str, str]) -> dict[str, str]:
    """What shows Ray's token to the cluster.

    Ray itself keeps the first ``RAY_AUTH_MODE`` that a process saw, and sends nothing where it is unset, although a local
    head then asks for the token of `~/.ray`; so the token is read here.

    Args:
        address: Of Ray's dashboard; without ``RAY_AUTH_MODE=token`` only loopback is shown the token.
        environ: Where ``RAY_AUTH_MODE``, ``RAY_AUTH_TOKEN`` and ``RAY_AUTH_TOKEN_PATH`` stand, as Ray names them.

    Raises:
        ValueError: If ``RAY_AUTH_MODE=token`` and there is no token.
    """
    mode = environ.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled" or (mode != "token" and not _is_loopback(urlsplit(address).hostname or "")):
        return {}
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or Path(environ.get("HOME", "/")) / ".ray" / "auth_token")
    token = environ.get("RAY_AUTH_TOKEN") or (path.read_text().strip() if path.is_file() else "")
    if mode == "token" and not token:
        raise ValueError(f"RAY_AUTH_MODE=token, but neither RAY_AUTH_TOKEN nor {path} holds a token")
    return {"Authorization": f"Bearer {token}"} if token else {}


def answers_without_token(address: str) -> bool:
    """Whether the jobs API serves a request that carries no token."""
    try:
        with urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=10) as answer:
            return answer.status == 200
    except (HTTPError, URLError, TimeoutError):
        return False


def _is_loopback(host: str) -> bool:
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except socket.gaierror:
        return False
    return bool(found) and all(ipaddress.ip_address(ip.split("%")[0]).is_loopback for ip in found)


def refuse_secrets(command: Iterable[str]) -> None:
    """Ray shows a job's command to all who may list jobs, so that no password may stand in it.

    Raises:
        ValueError: If an argument is a URL with a password.
    """
    for word in command:
        if re.search(r"://[^/\s@]*:[^/\s@]+@", word):
            raise ValueError(
                "a password in the command would be shown to all who list jobs; "
                "give it to the cluster's pods as a secret, in their environment"
            )
