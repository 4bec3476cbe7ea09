"""htgettoken, the original and ours, run the same way in a home of their own."""

import os
import pty
import select
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .processes import CACHE, GRIDKEEP, PATIENCE


@dataclass
class Outcome:
    """What a run left behind."""

    code: int
    out: str
    err: str

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
        self.vault_token = self.home / "vt"
        self.bearer = self.home / "bt"

    def environment(self, more: dict | None = None) -> dict:
        return {"HOME": str(self.home), "PATH": f"{self.names}:{os.environ['PATH']}", "BEARER_TOKEN_FILE": str(self.bearer), **(more or {})}

    def arguments(self, words, issuer: str) -> list[str]:
        fixed = ["-a", f"localhost:{self.server.port}", "-i", issuer, "--cafile", str(self.server.authority.path), "--nokerberos", "--nossh"]
        words = [str(word) for word in words]
        if not any(word.startswith("--vaulttokenfile") for word in words):
            fixed.append(f"--vaulttokenfile={self.vault_token}")
        return [*self.program, *fixed, "--web-open-command=", *words]

    def run(self, *words, issuer: str = "dune", terminal: bool = True, stdin: str | None = None, env: dict | None = None) -> Outcome:
        """Runs htgettoken to its end. With `terminal`, standard input is a terminal, as the original asks before it lets a person log in."""
        arguments = self.arguments(words, issuer)
        master = slave = None
        if terminal and stdin is None:
            master, slave = pty.openpty()
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=PATIENCE * 3, env=self.environment(env), start_new_session=True,
                **({"input": stdin} if stdin is not None else {"stdin": slave if slave is not None else subprocess.DEVNULL}),
            )
        finally:
            for descriptor in (master, slave):
                if descriptor is not None:
                    os.close(descriptor)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *words, issuer: str = "dune", env: dict | None = None):
        """Starts htgettoken on a terminal and returns the process; `read_url` then finds the login address."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            self.arguments(words, issuer), stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**self.environment(env), "PYTHONUNBUFFERED": "1"}, start_new_session=True,
        )
        os.close(slave)
        process.terminal = master
        return process


def read_url(process) -> str:
    """The login address that a started htgettoken prints, alone on an indented line."""
    seen = []
    while True:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert ready, f"no login address: {''.join(seen)}"
        line = process.stdout.readline()
        assert line, f"ended without a login address: {''.join(seen)}"
        seen.append(line)
        if line.startswith(" ") and line.strip().startswith("https://"):
            return line.strip()


def finish(process) -> Outcome:
    """Waits for a started htgettoken."""
    try:
        out, _ = process.communicate(timeout=PATIENCE * 3)
    finally:
        os.close(process.terminal)
        if process.poll() is None:
            process.kill()
            process.wait()
    return Outcome(process.returncode, out, "")
