"""Starting programs and ending them again, whatever happens."""

import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

BIN = Path(os.environ.get("GRIDKEEP_BIN", Path(__file__).resolve().parents[2] / "target" / "debug")).resolve()
GRIDKEEP = BIN / "gridkeep"
TESTBED = BIN / "gridkeep-testbed"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridkeep"

# No test decides by this: it only bounds how long a broken program can hang the run.
PATIENCE = 60

# Words in front of a program: it is killed when the thread that started it ends, as with a run that is killed itself, and leaves nothing
# behind. The kernel forgets it where the program changes its user or user namespace: who does that in a wrapper says it after.
WITH_US = ["setpriv", "--pdeathsig", "KILL"]


class Process:
    """A background program whose output goes to a file. It lives no longer than the thread that starts it."""

    def __init__(self, arguments, log: Path, env=None, pass_fds=(), **options):
        self.log = log
        with open(log, "ab") as output:
            self.popen = subprocess.Popen(
                [*WITH_US, *[str(argument) for argument in arguments]],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=env, pass_fds=pass_fds, start_new_session=True, **options,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.popen.wait(PATIENCE)
        self._forget()

    def _forget(self) -> None:
        # What libfaketime made to share among processes stays behind where one program starts the other in its place.
        for shared in (f"faketime_shm_{self.pid}", f"sem.faketime_sem_{self.pid}"):
            Path("/dev/shm", shared).unlink(missing_ok=True)

    def stop(self) -> int:
        """Asks it to end and returns its exit code; takes it away when it does not."""
        self.signal(signal.SIGTERM)
        try:
            code = self.popen.wait(PATIENCE)
            self._forget()
            return code
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the program did not end on SIGTERM:\n{self.output()}")


def ended(popen) -> None:
    """Ends a program that runs until its standard input ends; one that does not is taken away, and that is a failure."""
    popen.stdin.close()
    try:
        popen.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait(PATIENCE)
        raise AssertionError(f"{popen.args} did not end with its standard input") from None


def on_small_disk(directory, megabytes):
    """Words that start a program with a file system of its own on `directory`, without being root."""
    script = f'mount -t tmpfs -o size={megabytes}m,mode=0700 tmpfs "{directory}" && exec {" ".join(WITH_US)} "$@"'
    return ["unshare", "-rm", "sh", "-c", script, "sh"]


def hold_port() -> socket.socket:
    """A free port of 127.0.0.1, as a socket that is bound to it. A server that sets SO_REUSEADDR, as they do, can listen there, and start
    again; nobody else is given the port as a free one meanwhile."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def wait_until(condition, what: str, process: Process | None = None, patience: float = PATIENCE):
    """Polls `condition` until it returns something true, and returns that."""
    end = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        if process is not None and process.popen.poll() is not None:
            raise AssertionError(f"the program ended while waiting until {what}:\n{process.output()}")
        if time.monotonic() > end:
            output = process.output() if process else ""
            raise AssertionError(f"waited in vain until {what}\n{output}")
        select.select([], [], [], 0.02)


class NotifySocket:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, path: Path):
        path.unlink(missing_ok=True)
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        # For servers that a test runs as another user.
        path.chmod(0o777)
        self.socket.settimeout(0.05)

    def wait_for(self, wanted: str, process: Process) -> dict:
        """The state message that contains the line `wanted`."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                lines = self.socket.recv(65536).decode().splitlines()
            except TimeoutError:
                if process.popen.poll() is not None:
                    raise AssertionError(f"the server ended with {process.popen.returncode}:\n{process.output()}")
                continue
            if wanted in lines:
                return dict(line.split("=", 1) for line in lines)
        raise AssertionError(f"the server never said {wanted}:\n{process.output()}")

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)
