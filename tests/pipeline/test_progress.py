import subprocess
import sys

LOADED = """
import sys
from pipeline.progress import progress
with progress() as meters:
    meters.meter("scan", 2).advance()
print("rich" in sys.modules)
"""


def test_without_a_terminal_no_bar_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert done.stderr == ""
