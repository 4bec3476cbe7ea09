"""A real etcd on free loopback ports, with its data in a directory of its own."""

import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from .processes import PATIENCE, Process, wait_until


class Etcd:
    """Members of one cluster, one unless told otherwise. `options` are etcd's."""

    def __init__(self, directory: Path, *options: str, members: int = 1):
        assert shutil.which("etcd"), "etcd is missing; scripts/prepare test installs it"
        self.directory = directory
        directory.mkdir()
        # Bound together, so that they differ.
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * members)]
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        self.clients, peers = urls[:members], urls[members:]
        self.client = self.clients[0]
        cluster = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
        self.processes = [
            Process(
                [
                    "etcd", "--name", f"m{number}", "--data-dir", directory / f"data-{number}", "--listen-client-urls", client, "--advertise-client-urls", client,
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, "--log-level", "error", *options,
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

    @staticmethod
    def healthy(client: str) -> bool:
        try:
            with urllib.request.urlopen(f"{client}/health", timeout=2) as answer:
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
        for process in self.processes:
            process.kill()
