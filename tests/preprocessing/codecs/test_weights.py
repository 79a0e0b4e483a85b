from pathlib import Path

import pytest

from preprocessing.codecs.weights import locate, weights_sha256


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    assert locate("encode.hunyuan.vae", str(tmp_path), revision=None, allow_download=False) == tmp_path


@pytest.mark.parametrize("value", ["/no/such/folder", "name", "owner/name", "owner/name/vae"])
def test_what_is_neither_a_folder_nor_a_pinned_hub_id_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"encode\.hunyuan\.vae=.*is no folder here and no hub id with a revision"):
        locate("encode.hunyuan.vae", value, revision=None, allow_download=False)


def make_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache as huggingface_hub lays it out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    snapshot = cache / "models--owner--name" / "snapshots" / ("a" * 40)
    (snapshot / "vae").mkdir(parents=True)
    (snapshot / "vae" / "config.json").write_text("{}")
    return snapshot


@pytest.mark.parametrize(("value", "revision"), [(f"owner/name/vae@{'a' * 40}", None), ("owner/name/vae", "a" * 40)])
def test_a_pinned_hub_id_is_read_from_the_cache_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, revision: str | None
) -> None:
    snapshot = make_cached(tmp_path, monkeypatch)
    assert locate("encode.hunyuan.vae", value, revision=revision, allow_download=False) == snapshot / "vae"


def test_what_the_cache_lacks_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cached(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"encode\.hunyuan\.vae: owner/other at b+ .*allow_download=true"):
        locate("encode.hunyuan.vae", f"owner/other@{'b' * 40}", revision=None, allow_download=False)


def test_the_hash_of_weights_depends_on_their_bytes_and_names_alone(tmp_path: Path) -> None:
    hashes = []
    for name, content in [("a", b"1"), ("b", b"1"), ("c", b"2")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
        (tmp_path / name / "config.json").write_text(name)
        hashes.append(weights_sha256(tmp_path / name))
    assert hashes[0] == hashes[1] != hashes[2]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors"):
        weights_sha256(tmp_path)
