"""A real ssh-agent with keys of its own."""

import base64
import os
import socket
import struct
import subprocess
from pathlib import Path

from .processes import PATIENCE, Process, wait_until

# Every kind of key that an ssh-agent signs with without hardware.
KINDS = {"ed25519": [], "ecdsa-256": ["-b", "256"], "ecdsa-384": ["-b", "384"], "ecdsa-521": ["-b", "521"], "rsa-2048": ["-b", "2048"]}


class SshAgent:
    """OpenSSH's agent, in the foreground, on a socket below `directory`."""

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.socket = directory / "agent.sock"
        self.process = Process(["ssh-agent", "-D", "-a", self.socket], directory / "agent.log")
        wait_until(self._listens, "the ssh-agent is ready", self.process)
        self.environment = {"SSH_AUTH_SOCK": str(self.socket)}

    def _listens(self) -> bool:
        """Its socket is there a moment before it listens."""
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.socket)) == 0

    def add(self, kind: str, name: str = "key") -> str:
        """Makes a key, of one of `KINDS` or `rsa-` and another length, adds it, and returns its public half as a line."""
        path = self.directory / f"{name}-{kind}"
        algorithm = kind.split("-")[0]
        self._run("ssh-keygen", "-q", "-t", algorithm, *KINDS.get(kind, ["-b", kind.split("-")[-1]]), "-N", "", "-C", f"{name} of a test", "-f", path)
        self._run("ssh-add", "-q", path)
        return path.with_suffix(".pub").read_text().strip()

    def hold_only(self, kind: str, name: str = "key") -> None:
        """Takes all keys out but this one."""
        self._run("ssh-add", "-q", "-D")
        self._run("ssh-add", "-q", self.directory / f"{name}-{kind}")

    def lock(self, password: str) -> None:
        """Locked, an agent shows no keys and signs nothing."""
        ask = self.directory / "ask"
        ask.write_text(f"#!/bin/sh\necho {password}\n")
        ask.chmod(0o700)
        self._run("ssh-add", "-x", env={"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"})

    def fingerprints(self) -> list[str]:
        return [line.split()[1] for line in self._run("ssh-add", "-l").splitlines()]

    def _run(self, *words, env=None) -> str:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environment, **(env or {})}, start_new_session=True,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        self.process.signal(15)
        self.process.popen.wait(PATIENCE)


def sign(agent, public_key: str, text: str) -> bytes:
    """The second string of the agent's signature, as clients of the original send it."""
    def string(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    request = bytes([13]) + string(base64.b64decode(public_key.split()[1])) + string(text.encode()) + struct.pack(">I", 0)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(agent.socket))
        connection.sendall(string(request))
        (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
        answer = connection.recv(length, socket.MSG_WAITALL)
    assert answer[0] == 14, answer
    parts, rest = [], answer[5:]
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        parts.append(rest[4:4 + length])
        rest = rest[4 + length:]
    return parts[1]


def proof(agent, role: str, public_key: str, nonce: str, signed: str | None = None) -> dict:
    """The body of a login: the nonce that is shown and, unless it is another, the one that is signed."""
    return {
        "role": role, "public_key": public_key, "nonce": base64.b64encode(nonce.encode()).decode(),
        "signature": base64.b64encode(sign(agent, public_key, signed or nonce)).decode(), "metadata": {"issuer": "dune", "group": "default"},
    }
