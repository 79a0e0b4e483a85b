from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation.film import StillRoll, contact_sheet, lay_out, spread
from preprocessing.video_io.frames import Frame
from preprocessing.video_io.probe import UnreadableVideo

MakeTake = Callable[..., Path]


def roll_of(num_frames: int, num_stills: int) -> StillRoll:
    roll = StillRoll(num_stills=num_stills, width_px=16)
    picture = np.zeros((12, 16, 3), np.uint8)
    for index in range(num_frames):
        roll.add(Frame(index=index, timestamp_s=index / 24, rgb_HWC=picture))
    return roll


@pytest.mark.parametrize("num_frames", [1, 2, 10, 97, 1441])
def test_stills_are_even_over_time_and_few_however_long_the_video(num_frames: int) -> None:
    stills = roll_of(num_frames, 11).stills()
    chosen = [still.frame for still in spread(stills, 11)]
    wanted = np.linspace(0, num_frames - 1, min(11, num_frames))
    assert len(stills) <= 8 * 11 + 1
    assert chosen[0] == 0
    assert chosen[-1] == num_frames - 1
    assert np.abs(np.array(chosen) - wanted).max() <= max(1, num_frames / 80)


def test_nothing_seen_gives_no_stills() -> None:
    assert StillRoll(num_stills=3, width_px=16).stills() == ()


def test_a_sheet_has_its_rows_and_columns() -> None:
    sheet = lay_out(roll_of(7, 7).stills(), columns=3)
    assert sheet.shape == (3 * 16 + 4, 3 * 20 + 4, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_contact_sheet_is_a_picture_of_the_video(tmp_path: Path, make_take: MakeTake, suffix: str) -> None:
    out = tmp_path / f"sheet{suffix}"
    contact_sheet(make_take(tmp_path / "a.mp4"), out, columns=4, rows=2)
    sheet = cv2.imread(str(out))
    assert sheet is not None
    assert sheet.shape == (2 * 100 + 4, 4 * 132 + 4, 3)
    assert sheet[50:80, 50:80].std() > 5


def test_a_contact_sheet_of_no_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no")
    with pytest.raises(UnreadableVideo):
        contact_sheet(tmp_path / "a.mp4", tmp_path / "a.jpg", columns=2, rows=2)
    with pytest.raises(ValueError, match="expected a name"):
        contact_sheet(tmp_path / "a.mp4", tmp_path / "a.bmp", columns=2, rows=2)
