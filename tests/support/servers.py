"""A gridkeep server in a directory of its own, on a free loopback port."""

import json
import os
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from .processes import GRIDKEEP, NotifySocket, Process, PATIENCE, hold_port, wait_until


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, each with its end; one that its writer is still at is not there yet."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Server:
    """`gridkeep server` with its files below `directory`. Issuers are given as dictionaries in the original's schema."""

    def __init__(self, directory: Path, authority, issuers: list[dict], own: dict | None = None, extra: dict | None = None, arguments=(), wrapper=(), program=GRIDKEEP):
        self.directory = directory
        self.authority = authority
        self.etc = directory / "etc"
        (self.etc / "config.d").mkdir(parents=True)
        certificate, key = authority.issue(f"server-{directory.name}")
        self.config = {
            "cluster": {"name": "localhost", "auditlog": str(directory / "audit.log")},
            "issuers": issuers,
            "gridkeep": {
                "listen": ["127.0.0.1:0"],
                "tls": {"certificate": str(certificate), "key": str(key)},
                "data": str(directory / "data"),
                "seal": {"key_file": str(directory / "etc" / "root.key")},
                "run_directory": str(directory / "run"),
                "telemetry": {"metrics": {"listen": []}},
                **(own or {}),
            },
            **(extra or {}),
        }
        self.arguments = list(arguments)
        # Words in front of the program, which must end in becoming it: `unshare`, a shell with exec.
        self.wrapper = list(wrapper)
        self.program = program
        self.write_config()
        self.notify = None
        self.process = None

    def write_config(self) -> None:
        path = self.etc / "config.d" / "10-test.yaml"
        # JSON is YAML; mode 0600 because it holds client secrets.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self.config, file)

    def start(self, env: dict | None = None) -> "Server":
        """Starts it and waits until it serves. A free port is taken at the first start, and kept for later ones."""
        if self.config["gridkeep"]["listen"] == ["127.0.0.1:0"]:
            self.held = hold_port()
            self.config["gridkeep"]["listen"] = [f"127.0.0.1:{self.held.getsockname()[1]}"]
            self.write_config()
        self.notify = NotifySocket(self.directory / "notify.sock")
        environment = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(self.notify.path), **(env or {})}
        self.process = Process(
            [*self.wrapper, self.program, "server", "--config", self.etc / "config.d", *self.arguments], self.directory / "server.log", env=environment
        )
        status = self.notify.wait_for("READY=1", self.process)["STATUS"]
        self.address = status.split()[2]
        self.port = int(self.address.rsplit(":", 1)[1])
        return self

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def reload(self) -> None:
        """SIGHUP, and back when the server says it is done."""
        self.write_config()
        self.process.signal(signal.SIGHUP)
        # A server that was unsealed, or has reached its store late, has said before that it is ready.
        self.notify.wait_for("RELOADING=1", self.process)
        self.notify.wait_for("READY=1", self.process)

    def stop(self) -> None:
        if self.process:
            try:
                code = self.process.stop()
                assert code in (0, -signal.SIGKILL), f"exit code {code}\n{self.process.output()}"
            finally:
                self.notify.close()
                self.process = None

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.notify.close()
        self.process = None

    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")

    def audit(self) -> list[dict]:
        return [json.loads(line) for line in whole_lines(self.directory / "audit.log")]

    def operator_token(self) -> str:
        done = subprocess.run(
            [GRIDKEEP, "operator", "token", "--config", self.etc / "config.d"],
            capture_output=True, text=True, timeout=PATIENCE, check=True, env={"PATH": os.environ["PATH"]},
        )
        return done.stdout.strip()

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.path))

    def call(self, method: str, path: str, token: str | None = None, body=None, headers: dict | None = None):
        """One request; returns status and parsed body, whatever the status."""
        data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
        request = urllib.request.Request(f"{self.url}/v1/{path}", data=data, method=method, headers=headers or {})
        if token:
            request.add_header("X-Vault-Token", token)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self.context()) as answer:
                text, status = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            text, status = error.read(), error.code
        return status, (json.loads(text) if text else None)


def past_later(server, *what, **more):
    """`call`, repeated while a node of a cluster says "later", as one that is late with its heartbeat may: status and body.

    A 503 has to give its reason, and to say nothing that makes clients throw tokens away.
    """
    found = []

    def answered():
        found[:] = server.call(*what, **more)
        if found[0] != 503:
            return True
        assert found[1]["errors"] and "permission denied" not in str(found[1]), found
        return False

    wait_until(answered, "the node serves", server.process)
    return tuple(found)
