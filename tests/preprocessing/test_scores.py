import numpy as np
import pytest

from preprocessing.scores import constancy, quantiles


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_numpy_without_what_was_not_measured(share: float) -> None:
    rng = np.random.default_rng(4)
    values = rng.random((6, 11)).astype(np.float32)
    values[2, [1, 5, 6]] = values[3, :10] = np.nan
    (found,) = quantiles(values, (share,))
    assert found == pytest.approx(np.nanquantile(values.astype(np.float64), share, axis=1))


def test_a_row_that_was_never_measured_has_no_quantile() -> None:
    ((found,),) = quantiles(np.full((1, 3), np.nan, np.float32), (0.5,))
    assert np.isnan(found)


def test_a_way_that_is_kept_is_constant_whatever_its_speed_and_a_shake_is_not() -> None:
    rng = np.random.default_rng(5)
    speeds = rng.uniform(1, 60, 24)
    pan = np.stack([speeds, 0.2 * speeds, 0 * speeds, 0 * speeds]).astype(np.float32)
    zoom = np.stack([0 * speeds, 0 * speeds, speeds, 0 * speeds]).astype(np.float32)
    shake = rng.normal(0, 10, (4, 24)).astype(np.float32)
    assert constancy(pan) > 0.99
    assert constancy(zoom) > 0.99
    assert constancy(shake) < 0.5


def test_moments_without_a_camera_do_not_count_and_none_at_all_is_no_constancy() -> None:
    way = np.array([[1, np.nan, 1], [0, np.nan, 0], [0, np.nan, 0], [0, np.nan, 0]], np.float32)
    assert constancy(way) == 1.0
    assert constancy(np.full((4, 3), np.nan, np.float32)) == 0.0
