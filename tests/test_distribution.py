from importlib.metadata import packages_distributions
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["pipeline", "preprocessing", "training", "evaluation"])
def test_no_other_distribution_claims_our_package(package: str) -> None:
    assert (Path(package) / "__init__.py").is_file()
    assert set(packages_distributions().get(package, ["longtake"])) == {"longtake"}
