from pathlib import Path

import pytest

from preprocessing.folders import refuse_file


def test_a_folder_and_what_may_become_one_are_taken(tmp_path: Path) -> None:
    refuse_file(tmp_path)
    refuse_file(tmp_path / "new" / "newer")


def test_a_file_is_refused_as_a_folder_and_above_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=f"^{file} is a file; expected a folder$"):
        refuse_file(file)
    with pytest.raises(ValueError, match=f"^{file} is a file; expected a folder for {file / 'below'}$"):
        refuse_file(file / "below")
    with pytest.raises(ValueError, match=f"^{file} is a file; expected a folder for v.mp4$"):
        refuse_file(file, holds="v.mp4")
