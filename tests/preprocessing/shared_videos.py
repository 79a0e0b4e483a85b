from pathlib import Path

import pytest

VIDEOS = Path(__file__).parents[3] / "shared" / "videos"


def shared_video(name: str) -> Path:
    if not VIDEOS.is_dir():
        pytest.skip(f"the shared test videos are not at {VIDEOS}")
    return VIDEOS / name
