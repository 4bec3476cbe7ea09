"""A real etcd of one member on free loopback ports, with its data in a directory of its own."""

import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from .processes import PATIENCE, Process, wait_until


class Etcd:
    """One member. `options` are etcd's."""

    def __init__(self, directory: Path, *options: str):
        assert shutil.which("etcd"), "etcd is missing; scripts/prepare test installs it"
        self.directory = directory
        directory.mkdir()
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.client, peer = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets)
        for each in sockets:
            each.close()
        self.process = Process(
            [
                "etcd", "--name", "one", "--data-dir", directory / "data", "--listen-client-urls", self.client, "--advertise-client-urls", self.client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}", "--log-level", "error", *options,
            ],
            directory / "etcd.log", env={"PATH": os.environ["PATH"]},
        )
        wait_until(self.healthy, "etcd is healthy", self.process)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.client}/health", timeout=2) as answer:
                return b'"true"' in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def ctl(self, *words: str) -> str:
        done = subprocess.run(
            ["etcdctl", "--endpoints", self.client, *words], capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
        )
        assert done.returncode == 0, done
        return done.stdout

    def stop(self) -> None:
        self.process.kill()
