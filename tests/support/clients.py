"""htgettoken, the original and ours, run the same way in a home of their own."""

import errno
import os
import pty
import re
import select
import subprocess
import tty
from dataclasses import dataclass, field
from pathlib import Path

from .processes import CACHE, GRIDKEEP, PATIENCE


@dataclass
class Outcome:
    """What a run left behind."""

    code: int
    out: str
    err: str
    pages: list = field(default_factory=list)

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Client:
    """One user's home and one htgettoken. `kind` is `original` (PyPI) or `ours`."""

    def __init__(self, kind: str, directory: Path, server):
        self.kind = kind
        self.server = server
        self.home = directory / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.names = directory / "bin"
        self.names.mkdir(exist_ok=True)
        if kind == "ours":
            for name in ("htgettoken", "httokensh", "htdecodetoken", "httokendecode", "htdestroytoken"):
                link = self.names / name
                if not link.is_symlink():
                    link.symlink_to(GRIDKEEP)
            self.program = [str(self.names / "htgettoken")]
        else:
            self.program = [str(CACHE / "venv" / "bin" / "htgettoken")]
        # Ways to log in that a test leaves out; one that is about such a way takes its word away.
        self.left_out = ["--nokerberos", "--nossh"]
        self.vault_token = self.home / "vt"
        self.bearer = self.home / "bt"

    def environment(self, more: dict | None = None) -> dict:
        return {"HOME": str(self.home), "PATH": f"{self.names}:{os.environ['PATH']}", "BEARER_TOKEN_FILE": str(self.bearer), **(more or {})}

    def arguments(self, words, issuer: str, own_files: bool = True) -> list[str]:
        """With `own_files`, the vault token goes to this home unless `words` say otherwise; without it, where the program wants it."""
        fixed = ["-a", f"localhost:{self.server.port}", "-i", issuer, "--cafile", str(self.server.authority.path), *self.left_out]
        words = [str(word) for word in words]
        if own_files and not any(word.startswith("--vaulttokenfile") for word in words):
            fixed.append(f"--vaulttokenfile={self.vault_token}")
        return [*self.program, *fixed, "--web-open-command=", *words]

    def run(
        self, *words, issuer: str = "dune", terminal: bool = True, stdin: str | None = None, env: dict | None = None, own_files: bool = True
    ) -> Outcome:
        """Runs htgettoken to its end. With `terminal`, standard input is a terminal, as the original asks before it lets a person log in."""
        return self.execute(self.arguments(words, issuer, own_files), terminal, stdin, self.environment(env))

    def execute(self, arguments, terminal: bool = False, stdin: str | None = None, env: dict | None = None) -> Outcome:
        """Runs any program of the family to its end."""
        master = slave = None
        if terminal and stdin is None:
            master, slave = pty.openpty()
        try:
            done = subprocess.run(
                [str(word) for word in arguments], capture_output=True, text=True, timeout=PATIENCE * 3,
                env=self.environment() if env is None else env, start_new_session=True,
                **({"input": stdin} if stdin is not None else {"stdin": slave if slave is not None else subprocess.DEVNULL}),
            )
        finally:
            for descriptor in (master, slave):
                if descriptor is not None:
                    os.close(descriptor)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *words, issuer: str = "dune", env: dict | None = None, apart: bool = False, own_files: bool = True):
        """Starts htgettoken on a terminal and returns the process; `read_url` then finds the login address.

        With `apart`, standard output and standard error stay two things, as for a caller who reads data from the former.
        """
        master, slave = pty.openpty()
        # Nothing is to be translated on the way.
        tty.setraw(slave)
        # The original tells its login address at once only to a terminal or on standard error.
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if apart else {"stdout": slave, "stderr": slave}
        process = subprocess.Popen(
            self.arguments(words, issuer, own_files), stdin=slave, text=True, env=self.environment(env), start_new_session=True, **streams
        )
        os.close(slave)
        process.terminal = master
        process.seen = ""
        return process

    def log_in(self, person, *words, decision: str = "allow", **options) -> Outcome:
        """Runs htgettoken while `person` does what it asks for; the pages they saw are in `pages` of what is returned."""
        process = self.start(*words, **options)
        try:
            pages = person.follow(read_url(process), decision)
        finally:
            outcome = finish(process)
        outcome.pages = pages
        return outcome

    def log_in_elsewhere(self, testbed, user: str, *words, **options) -> Outcome:
        """Runs htgettoken while `user` approves at the issuer, in a browser on another machine, the code that it shows."""
        process = self.start(*words, **options)
        try:
            # An address may have the code in it; if not, it is shown beside.
            code = read_url(process).partition("user_code=")[2] or read_line(process, r"enter code (\S+)\n").group(1)
            assert testbed.admin("approve", {"user_code": code, "user": user}) == {"done": 1}
        finally:
            outcome = finish(process)
        return outcome


def read_url(process) -> str:
    """The login address that a started htgettoken prints, alone on an indented line."""
    return read_line(process, r"^ +(https://\S+)\n").group(1)


def read_line(process, pattern: str) -> re.Match:
    """Waits until a started htgettoken has printed what fits."""
    while not (found := re.search(pattern, process.seen, re.MULTILINE)):
        assert _read_more(process), f"ended without {pattern}: {process.seen}"
    return found


def finish(process) -> Outcome:
    """Waits for a started htgettoken."""
    try:
        if process.stderr:
            out, err = process.communicate(timeout=PATIENCE * 3)
            return Outcome(process.returncode, out, process.seen + err)
        while _read_more(process):
            pass
        return Outcome(process.wait(PATIENCE), process.seen, "")
    finally:
        os.close(process.terminal)
        if process.poll() is None:
            process.kill()
            process.wait()


def _read_more(process) -> bool:
    """Reads what the program says next to a person; false at its end."""
    descriptor = process.stderr.fileno() if process.stderr else process.terminal
    ready, _, _ = select.select([descriptor], [], [], PATIENCE)
    assert ready, f"nothing more is said: {process.seen}"
    try:
        # Not through a stream object: what it read ahead would hide from select.
        more = os.read(descriptor, 65536)
    except OSError as error:
        # A terminal whose other end is closed.
        if error.errno != errno.EIO:
            raise
        return False
    process.seen += more.decode()
    return bool(more)
