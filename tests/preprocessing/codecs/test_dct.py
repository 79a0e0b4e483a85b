import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.codecs.base import Frame, Latents
from preprocessing.codecs.dct import CHANNELS, GREY, SLOPES, DctCodec, dct_basis, patterns

VIDEOS = Path(__file__).parents[4] / "shared" / "videos"


@pytest.fixture
def codec() -> DctCodec:
    return DctCodec()


def moving_gradient(num_frames: int, height_px: int = 32, width_px: int = 48) -> list[Frame]:
    y, x = np.mgrid[:height_px, :width_px]
    planes = [
        np.stack([128 + 60 * np.sin((x + t) / 16), 100 + 40 * np.cos(y / 12), 90 + 0 * x], -1)
        for t in range(num_frames)
    ]
    return [np.rint(plane).astype(np.uint8) for plane in planes]


def decoded(codec: DctCodec, latents: Latents) -> np.ndarray:
    return np.stack(list(codec.decode_stream([latents[:, :1], latents[:, 1:]])))


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((a.astype(np.float64) - b) ** 2).mean()))


@pytest.mark.parametrize("k", [0, 1, 9, 18])
def test_one_and_four_k_frames_become_one_and_k_latents(codec: DctCodec, k: int) -> None:
    latents = codec.encode_video(iter(moving_gradient(1 + 4 * k)))
    assert latents.shape == (codec.record.latent_channels, 1 + k, 32 // 8, 48 // 8)
    assert latents.dtype == np.float32


@pytest.mark.parametrize("num_frames", [0, 2, 36, 40])
def test_any_other_number_of_frames_is_refused(codec: DctCodec, num_frames: int) -> None:
    with pytest.raises(ValueError, match="1 \\+ 4k"):
        codec.encode_video(iter(moving_gradient(num_frames)))


@pytest.mark.parametrize("shape", [(60, 64, 3), (64, 64, 4), (64, 64)])
def test_pictures_that_do_not_divide_into_cells_are_refused(codec: DctCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        codec.encode_image(np.zeros(shape, np.uint8))


def test_a_start_latent_gives_one_frame_and_a_segment_of_t_latents_gives_4_t(codec: DctCodec) -> None:
    latents = codec.encode_video(iter(moving_gradient(73)))
    counts: list[int] = []

    def chunks() -> Iterator[Latents]:
        yield latents[:, :1]
        counts.append(len(frames))
        yield latents[:, 1:10]
        counts.append(len(frames))
        yield latents[:, 10:]

    frames: list[Frame] = []
    for frame in codec.decode_stream(chunks()):
        frames.append(frame)
    assert [*counts, len(frames)] == [1, 37, 73]


def test_decoding_starts_with_one_start_latent(codec: DctCodec) -> None:
    with pytest.raises(ValueError, match="start latent"):
        next(codec.decode_stream([np.zeros((16, 9, 4, 4), np.float32)]))
    with pytest.raises(ValueError, match="no chunk"):
        next(codec.decode_stream([]))


def test_a_lone_frame_has_the_latent_that_begins_its_clip(codec: DctCodec) -> None:
    frames = moving_gradient(37)
    latents = codec.encode_video(iter(frames))
    np.testing.assert_array_equal(latents[:, :1], codec.encode_image(frames[0]))
    temporal = [c.t > 0 for c in CHANNELS]
    assert np.abs(latents[temporal, 0]).max() < 1e-6
    assert np.abs(latents[temporal, 1:]).max() > 0.1


def test_the_patterns_of_kept_and_predicted_coefficients_are_orthonormal() -> None:
    kept_and_predicted = patterns((*CHANNELS, *SLOPES), np.eye(3))
    np.testing.assert_allclose(kept_and_predicted @ kept_and_predicted.T, np.eye(20), atol=1e-12)
    np.testing.assert_allclose(dct_basis(8) @ dct_basis(8).T, np.eye(8), atol=1e-12)


def test_latents_survive_pixels_up_to_their_rounding(codec: DctCodec) -> None:
    latents = codec.encode_video(iter(moving_gradient(37)))
    again = codec.encode_video(iter(decoded(codec, latents)))
    # Rounding moves a pixel by at most half a level; a unit-norm pattern over 256 of them, by about 0.3 of one.
    std = np.array([c.std for c in CHANNELS])[:, None, None, None]
    assert np.abs((again - latents) * std).max() < 0.02


def test_encoding_is_one_linear_map(codec: DctCodec) -> None:
    grey = np.full((16, 16, 3), GREY)
    a, b = moving_gradient(2, 16, 16)
    mixed = np.clip((a.astype(float) + b) / 2, 0, 255).astype(np.uint8)
    parts = (codec.encode_image(a) + codec.encode_image(b)) / 2
    np.testing.assert_allclose(codec.encode_image(mixed), parts, atol=0.05)
    assert np.abs(codec.encode_image(grey.astype(np.uint8))[1:10]).max() < 1e-6


def test_smooth_motion_comes_back_at_40_db(codec: DctCodec) -> None:
    frames = moving_gradient(37, 64, 64)
    assert psnr_db(np.stack(frames), decoded(codec, codec.encode_video(iter(frames)))) > 40


def test_a_constant_colour_comes_back_exactly(codec: DctCodec) -> None:
    for colour in [(0, 0, 0), (255, 255, 255), (200, 30, 90)]:
        frame = np.broadcast_to(np.array(colour, np.uint8), (16, 16, 3)).copy()
        (back,) = codec.decode_stream([codec.encode_image(frame)])
        assert np.abs(back.astype(int) - frame).max() <= 1


def natural_clip(name: str, side_px: int, num_frames: int) -> list[Frame]:
    path = VIDEOS / name
    if not path.exists():
        pytest.skip(f"{path} is absent: the test needs real video")
    capture, frames = cv2.VideoCapture(str(path)), []
    while len(frames) < num_frames:
        ok, bgr = capture.read()
        assert ok, f"{name} ended after {len(frames)} frames"
        side = min(bgr.shape[:2])
        top, left = (bgr.shape[0] - side) // 2, (bgr.shape[1] - side) // 2
        crop = bgr[top : top + side, left : left + side, ::-1]
        frames.append(cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA))
    return frames


@pytest.mark.parametrize(("name", "floor_db"), [("coffee_pour.mp4", 23), ("bunny_1080p60.mp4", 25)])
def test_natural_video_is_watchable_and_near_unit_scale(codec: DctCodec, name: str, floor_db: float) -> None:
    frames = natural_clip(name, 128, 37)
    latents = codec.encode_video(iter(frames))
    assert psnr_db(np.stack(frames), decoded(codec, latents)) > floor_db
    assert 0.3 < latents.std() < 2
    assert abs(latents.mean()) < 0.5


def test_pixels_of_a_long_clip_never_pile_up(codec: DctCodec) -> None:
    num_frames, frame = 1 + 36 * 8, np.zeros((128, 128, 3), np.uint8)
    tracemalloc.start()
    latents = codec.encode_video(frame.copy() for _ in range(num_frames))
    count = sum(1 for _ in codec.decode_stream([latents[:, :1], latents[:, 1:]]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == num_frames
    assert peak < num_frames * frame.nbytes / 2
