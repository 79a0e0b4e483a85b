import numpy as np
import pytest

from preprocessing.scores import quantiles


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
