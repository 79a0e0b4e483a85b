import contextlib
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.video_io.write import Mp4Writer


def picture(k: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:96, 0:128]
    return np.stack([(x + 3 * k) % 256, 2 * y, np.full_like(x, 40 + k)], axis=-1).astype(np.uint8)


def write(path: Path, num_frames: int, fps: float = 24, codec: str = "libx264") -> None:
    with Mp4Writer(path, fps=fps, width_px=128, height_px=96, codec=codec, crf=12) as writer:
        for k in range(num_frames):
            writer.write(picture(k))


def decode(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def decode_until_broken(path: Path) -> list[int]:
    frames: list[int] = []
    with av.open(str(path)) as container, contextlib.suppress(av.error.FFmpegError):
        frames.extend(frame.pts for frame in container.decode(video=0))
    return frames


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "mjpeg"])
def test_every_frame_comes_back_in_order(tmp_path: Path, codec: str) -> None:
    write(tmp_path / "a.mp4", 11, codec=codec)
    frames = decode(tmp_path / "a.mp4")
    assert len(frames) == 11
    for k, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - picture(k)).mean() < 6


@pytest.mark.parametrize("fps", [24, 23.976, 30000 / 1001, 12.5])
def test_frame_k_is_shown_at_k_over_fps(tmp_path: Path, fps: float) -> None:
    write(tmp_path / "a.mp4", 40, fps=fps)
    with av.open(str(tmp_path / "a.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(40) / fps, atol=2e-4)


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", 30)
    write(tmp_path / "b.mp4", 30)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_file_cut_off_while_it_grows_plays_from_its_beginning(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", 96)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    assert 24 <= len(decode_until_broken(tmp_path / "cut.mp4")) < 96


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both must be even"):
        Mp4Writer(tmp_path / "a.mp4", fps=24, width_px=127, height_px=96)
    with pytest.raises(ValueError, match="expected one of libx264"):
        Mp4Writer(tmp_path / "a.mp4", fps=24, width_px=128, height_px=96, codec="h264_nvenc")
    with (
        Mp4Writer(tmp_path / "a.mp4", fps=24, width_px=128, height_px=96) as writer,
        pytest.raises(ValueError, match=r"expected \(96, 128, 3\) uint8"),
    ):
        writer.write(picture(0)[:, :, :2])
