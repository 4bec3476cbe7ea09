"""What the tests themselves start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.processes import on_small_disk, wait_until

STARTS = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from support.processes import Process
print(Process(sys.argv[3:], Path(sys.argv[2])).pid, flush=True)
signal.pause()
"""


def state(pid: int) -> tuple[str, str]:
    """A process's program and state; both empty when it is gone."""
    try:
        name, _, rest = (Path("/proc") / str(pid) / "stat").read_text().partition("(")[2].rpartition(") ")
    except (FileNotFoundError, ProcessLookupError):
        # The latter when it goes between opening and reading.
        return "", ""
    return name, rest[0]


def test_a_run_that_is_killed_leaves_nothing(tmp_path):
    """Neither what it has started itself nor what it has started in a user namespace."""
    (tmp_path / "disk").mkdir()
    for number, wrapper in enumerate(([], on_small_disk(tmp_path / "disk", 1))):
        run = subprocess.Popen(
            [sys.executable, "-c", STARTS, Path(__file__).parent, tmp_path / f"log-{number}", *wrapper, "sleep", "1000"], stdout=subprocess.PIPE,
        )
        pid = int(run.stdout.readline())
        try:
            wait_until(lambda: state(pid)[0] == "sleep", "the program runs")
            run.kill()
            run.wait()
            # Whoever inherits it may be slow to take notice of its end.
            wait_until(lambda: state(pid)[1] in ("", "Z"), "the program is gone")
        finally:
            run.stdout.close()
            if state(pid)[0] == "sleep" and state(pid)[1] != "Z":
                os.kill(pid, signal.SIGKILL)
