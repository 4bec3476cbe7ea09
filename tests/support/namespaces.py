"""Hosts in network and mount namespaces of their own, on one bridge. Needs no root, and all of it goes when its processes do."""

import os
import subprocess
import time
from pathlib import Path

from .processes import PATIENCE, WITH_US, ended

# A hardware address that nobody has: what is sent there is lost, as on a broken way.
NOWHERE = "02:00:00:00:ff:ff"


def with_hosts(hosts: Path) -> list[str]:
    """Words that start a program for which `hosts` is /etc/hosts, without being root."""
    script = f"mount --bind '{hosts}' /etc/hosts && exec {' '.join(WITH_US)} \"$@\""
    return ["unshare", "-rm", "sh", "-c", script, "sh"]


class Holder:
    """A process that does nothing but keep a namespace alive, until its standard input ends."""

    def __init__(self, words):
        self.popen = subprocess.Popen([*words, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        before = os.readlink("/proc/self/ns/net")
        end = time.monotonic() + PATIENCE
        while True:
            assert self.popen.poll() is None, "no network namespace: are user namespaces switched off on this host?"
            try:
                held = Path(f"/proc/{self.popen.pid}/comm").read_text().strip() == "cat" and os.readlink(f"/proc/{self.popen.pid}/ns/net") != before
            except OSError:
                held = False
            if held:
                return
            assert time.monotonic() < end, "the namespace was never made"
            time.sleep(0.01)

    @property
    def enter(self) -> list[str]:
        """Words in front of a program that shall run there."""
        return ["nsenter", "-t", str(self.popen.pid), "-U", "-n", "-m", "--preserve-credentials", "--", *WITH_US]

    def run(self, *words) -> None:
        done = subprocess.run([*self.enter, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{words}: {done.stderr}"

    def stop(self) -> None:
        ended(self.popen)


class Network:
    """`hosts`: name to addresses of 10.77.0.0/16, the first of which is its own."""

    def __init__(self, hosts: dict[str, list[str]]):
        self.addresses, self.hosts = hosts, {}
        self.hub = Holder(["unshare", "-r", "-n", "-m"])
        try:
            self.hub.run("ip", "link", "add", "hub", "type", "bridge")
            self.hub.run("ip", "link", "set", "hub", "up")
            for name, addresses in hosts.items():
                host = self.hosts[name] = Holder([*self.hub.enter, "unshare", "-n", "-m"])
                self.hub.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host.popen.pid)
                self.hub.run("ip", "link", "set", name, "master", "hub", "up")
                host.run("ip", "link", "set", "lo", "up")
                for address in addresses:
                    host.run("ip", "address", "add", f"{address}/16", "dev", "eth0")
                host.run("ip", "link", "set", "eth0", "up")
        except BaseException:
            self.stop()
            raise

    def __getitem__(self, name: str) -> Holder:
        return self.hosts[name]

    def unplug(self, name: str) -> None:
        """The host is away, as when its power fails: nothing answers for it."""
        self.hub.run("ip", "link", "set", name, "down")

    def plug(self, name: str) -> None:
        self.hub.run("ip", "link", "set", name, "up")

    def cut(self, name: str, addresses) -> None:
        """What the host sends to these addresses is lost."""
        for address in addresses:
            self[name].run("ip", "neighbour", "replace", address, "lladdr", NOWHERE, "nud", "permanent", "dev", "eth0")

    def mend(self, name: str, addresses) -> None:
        for address in addresses:
            self[name].run("ip", "neighbour", "delete", address, "dev", "eth0")

    def part(self, some, others) -> None:
        """Nothing passes between `some` and `others`."""
        self._both(self.cut, some, others)

    def join(self, some, others) -> None:
        self._both(self.mend, some, others)

    def _both(self, act, some, others) -> None:
        for one in some:
            for other in others:
                act(one, self.addresses[other])
                act(other, self.addresses[one])

    def stop(self) -> None:
        for holder in [*self.hosts.values(), self.hub]:
            holder.stop()
