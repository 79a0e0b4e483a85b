"""Where an encoder's files are, and which weights they hold."""

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is taken from a hub repository: configuration, weights without pickle, vocabularies, chat templates."""


def locate(setting: str, value: str, *, revision: str | None, allow_download: bool) -> Path:
    """The local folder that a setting names, from the hub's cache if it is a hub id.

    Args:
        setting: Name of the setting, for the error.
        value: A folder, or ``owner/name[/subfolder][@revision]``.
        revision: Pinned revision of a hub id that names none.
        allow_download: Whether the hub may be asked for what its cache lacks.

    Raises:
        ValueError: If nothing is named, or it is neither a folder nor in the cache or on the hub.
    """
    how = f"give {setting} a local folder, or a hub id owner/name[/subfolder]@revision"
    if not value:
        raise ValueError(f"{setting} is empty: {how}")
    if Path(value).is_dir():
        return Path(value)
    hub_id, _, own_revision = value.partition("@")
    owner, name, *subfolders = [*hub_id.split("/"), ""][:2] + hub_id.split("/")[2:]
    pinned = own_revision or revision
    if not (owner and name and pinned):
        raise ValueError(f"{setting}={value!r} is no folder here and no hub id with a revision: {how}")
    root = _snapshot(setting, f"{owner}/{name}", "/".join(subfolders), pinned, allow_download)
    return root.joinpath(*subfolders)


def _snapshot(setting: str, repo: str, subfolder: str, revision: str, allow_download: bool) -> Path:
    patterns = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in FILES]
    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=patterns, local_files_only=not allow_download
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
        hint = (
            "the hub did not give it"
            if allow_download
            else f"set {setting.rpartition('.')[0]}.allow_download=true to fetch it"
        )
        raise ValueError(f"{setting}: {repo} at {revision} is not in the local cache; {hint} ({error})") from error
    return Path(folder)


def weights_sha256(folder: Path) -> str:
    """One hash of a folder's safetensors files and their names.

    Raises:
        ValueError: If there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors: pickled weights are not read")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            digest.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
