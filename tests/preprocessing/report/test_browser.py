import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocessing.dataset import Dataset
from preprocessing.report.write import write_report
from tests.preprocessing.report.test_write import SETTINGS, dataset  # noqa: F401 - a fixture

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def screenshot(page: Path, out: Path, *, dark: bool) -> np.ndarray:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1600", *scheme]
    subprocess.run([*command, f"--screenshot={out}", page.as_uri()], check=True, capture_output=True, timeout=120)
    return np.asarray(Image.open(out).convert("RGB"))


def test_the_page_follows_light_and_dark(dataset: Dataset, tmp_path: Path) -> None:  # noqa: F811
    write_report(dataset, SETTINGS)
    page = tmp_path / "data" / "report" / "index.html"
    light, dark = (screenshot(page, tmp_path / f"{dark}.png", dark=dark) for dark in (False, True))
    assert light[5, 5].mean() > 230
    assert dark[5, 5].mean() < 60
    assert len(np.unique(light.reshape(-1, 3), axis=0)) > 50  # bars, pictures and letters
