import cv2
import numpy as np
import pytest

from preprocessing.rendering.scenes import Camera, Mover, Scene, Shape, render
from preprocessing.rendering.textures import COLOURS, Pattern, texture

TILE = texture(np.random.default_rng(0), Pattern.PATCHES, "navy", "orange")


def _frames(camera: Camera = Camera(), movers: tuple[Mover, ...] = (), *, num_frames: int = 5, fps: float = 24.0) -> np.ndarray:  # fmt: skip
    scene = Scene(tile_HW3=TILE, camera=camera, movers=movers)
    return render(scene, num_frames=num_frames, fps=fps, width_px=120, height_px=80)


def _disc(start: tuple[float, float], velocity: tuple[float, float]) -> Mover:
    return Mover(shape=Shape.DISC, colour="white", radius=0.2, start=start, velocity=velocity)


def _centre(frame: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero((frame == np.array(COLOURS["white"])).all(axis=2))
    return np.array([columns.mean() / 120, rows.mean() / 80])


def test_a_panning_camera_shows_the_tile_shifted_by_its_path() -> None:
    frames = _frames(Camera(velocity=(0.2, 0.0)), fps=24.0)

    np.testing.assert_array_equal(
        frames[1][:, :-1], frames[0][:, 1:]
    )  # 0.2 of 120 pixels in 24 frames: 1 pixel a frame


def test_a_zooming_camera_keeps_the_middle_and_enlarges() -> None:
    frames = _frames(Camera(zoom_per_s=0.5), num_frames=25)

    still = cv2.getRectSubPix(frames[0], (int(120 / np.exp(0.5)), int(80 / np.exp(0.5))), (60, 40))
    enlarged = cv2.resize(still, (120, 80))

    assert np.abs(enlarged.astype(int) - frames[24]).mean() < np.abs(frames[0].astype(int) - frames[24]).mean() / 3


def test_a_still_scene_stands_still() -> None:
    frames = _frames()

    assert (frames == frames[0]).all()


def test_a_thing_moves_by_its_velocity() -> None:
    frames = _frames(movers=(_disc((0.3, 0.5), (0.25, 0.125)),), num_frames=25)

    np.testing.assert_allclose(_centre(frames[24]) - _centre(frames[0]), [0.25, 0.125], atol=0.01)


@pytest.mark.parametrize("shape", Shape)
def test_a_thing_never_leaves_the_picture(shape: Shape) -> None:
    mover = Mover(shape=shape, colour="white", radius=0.2, start=(0.5, 0.5), velocity=(0.7, 0.45))
    frames = _frames(movers=(mover,), num_frames=200)

    areas = (frames == np.array(COLOURS["white"])).all(axis=3).sum(axis=(1, 2))

    assert areas.min() > 0.8 * areas.max()


def test_the_same_time_gives_the_same_picture_at_any_rate() -> None:
    camera, movers = Camera(velocity=(0.1, 0.05), turn_deg_per_s=10), (_disc((0.3, 0.5), (0.4, 0.1)),)
    slow, fast = _frames(camera, movers, fps=12.0), _frames(camera, movers, num_frames=9, fps=24.0)

    np.testing.assert_array_equal(slow, fast[::2])
