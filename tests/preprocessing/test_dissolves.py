import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.dissolves import Dissolve, DissolveDetector
from preprocessing.likeness import small_picture
from preprocessing.rendering.edits import dissolve as mixed
from preprocessing.rendering.footage import footage, random_place, seconds
from preprocessing.rendering.leaves import leaves, palette
from preprocessing.residue import MotionResidue, small_gray


def still(seed: int) -> NDArray[np.float64]:
    """A picture of soft blocks, (54, 96, 3)."""
    return np.random.default_rng(seed).uniform(0, 255, (9, 16, 3)).repeat(6, 0).repeat(6, 1)


def dissolve(num_mixed: int, num_before: int = 60, num_after: int = 60) -> list[NDArray[np.uint8]]:
    shares = np.concatenate([np.zeros(num_before), (np.arange(num_mixed) + 1) / (num_mixed + 1), np.ones(num_after)])
    return [((1 - share) * still(1) + share * still(2)).astype(np.uint8) for share in shares]


def found(frames: list[NDArray[np.uint8]]) -> tuple[Dissolve, ...]:
    detector = DissolveDetector(MotionResidue())
    for frame in frames:
        detector.add(small_picture(frame), small_gray(frame))
    return detector.result()


@pytest.mark.parametrize("num_mixed", [6, 10, 16, 24, 36, 48])
def test_a_dissolve_is_found_with_its_ends(num_mixed: int) -> None:
    (only,) = found(dissolve(num_mixed))
    assert abs(only.start_frame - 60) <= 2
    assert abs(only.end_frame - (60 + num_mixed)) <= 2


def test_a_cut_and_a_cut_with_one_mixed_frame_are_none() -> None:
    assert found(dissolve(0)) == ()
    assert found(dissolve(1)) == ()


def test_a_flash_and_a_change_of_brightness_are_none() -> None:
    flash = [*[still(1)] * 40, *[still(1) * 0 + 255] * 3, *[still(1)] * 40]
    pumping = [still(1) * (0.7 + 0.3 * np.cos(i / 9)) for i in range(120)]
    assert found([frame.astype(np.uint8) for frame in flash]) == ()
    assert found([frame.astype(np.uint8) for frame in pumping]) == ()


@pytest.mark.parametrize("step_px", [0.3, 1.0, 3.0, 9.0])
@pytest.mark.parametrize("wave_px", [24.0, 60.0, 150.0])
def test_a_pan_over_waves_is_none_though_every_frame_is_a_sum_of_its_neighbours(step_px: float, wave_px: float) -> None:
    x = np.arange(96)
    frames = [127 + 100 * np.sin((x + step_px * i) * 2 * np.pi / wave_px) for i in range(160)]
    assert found([np.broadcast_to(row[None, :, None], (54, 96, 3)).astype(np.uint8) for row in frames]) == ()


def test_lettering_that_appears_over_a_shot_is_none() -> None:
    letters = still(1)
    letters[20:34, 10:80] = 255
    frames = [(1 - s) * still(1) + s * letters for s in [*[0.0] * 40, *np.linspace(0, 1, 16), *[1.0] * 40]]
    assert found([frame.astype(np.uint8) for frame in frames]) == ()


@pytest.mark.parametrize("num_mixed", [12, 24, 48])
def test_a_dissolve_is_found_though_things_and_cameras_move_in_it(num_mixed: int) -> None:
    rng = np.random.default_rng(7)
    first, second = (
        footage(random_place(rng, palette(rng), speed=0.06, num_walkers=2), seconds(60 + num_mixed)) for _ in range(2)
    )
    (only,) = found(list(mixed(first, second, num_mixed)))
    assert 60 <= (only.start_frame + only.end_frame) / 2 < 60 + num_mixed


@pytest.mark.parametrize("step_px", [1, 4, 9, 25])
def test_a_pan_over_one_place_is_none(step_px: int) -> None:
    rng = np.random.default_rng(3)
    tile = np.tile(leaves(rng, palette(rng)), (1, 6, 1))
    assert found([tile[:144, step_px * k : step_px * k + 256] for k in range(100)]) == ()
