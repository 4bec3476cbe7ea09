"""Three hosts, each with a member of etcd and a gridkeep node, and a host for clients and the issuer, all in network namespaces."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from .issuers import Issuer
from .namespaces import Network
from .processes import GRIDKEEP, PATIENCE, Process, ended, wait_until
from .servers import Server

NODES = ["n1", "n2", "n3"]
CLIENTS = "10.77.0.100"
PORT = 8200


def node_address(name: str) -> str:
    return f"10.77.0.{name[1:]}"


def etcd_address(name: str) -> str:
    """etcd has an address of its own on each host, so that the way to it can be cut alone."""
    return f"10.77.1.{name[1:]}"


class Member:
    """A member of etcd."""

    def __init__(self, cluster, name: str):
        self.cluster, self.name, self.process = cluster, name, None

    def start(self, flush_takes: float = 0) -> None:
        """`flush_takes`: seconds that every flush to the disk takes longer than it does."""
        address = etcd_address(self.name)
        # The kernel's own tracing holds up these calls alone; -D leaves the member the child that can be killed.
        calls = "fsync,fdatasync"
        slow = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:delay_enter={round(flush_takes * 1e6)}"]
        initial = ",".join(f"{name}=http://{etcd_address(name)}:2380" for name in NODES)
        self.process = Process(
            [
                *self.cluster.network[self.name].enter, *(slow if flush_takes else []), "etcd", "--name", self.name,
                "--data-dir", self.cluster.directory / f"etcd-{self.name}",
                "--listen-client-urls", f"http://{address}:2379", "--advertise-client-urls", f"http://{address}:2379",
                "--listen-peer-urls", f"http://{address}:2380", "--initial-advertise-peer-urls", f"http://{address}:2380",
                "--initial-cluster", initial, "--initial-cluster-token", "test", "--logger", "zap", "--log-level", "error",
                # As from 3.5 on: a member that comes back makes nobody vote while the others have a leader.
                "--pre-vote",
            ],
            self.cluster.directory / f"etcd-{self.name}.log",
        )

    def stop(self) -> None:
        if self.process:
            self.process.signal(signal.SIGCONT)
            self.process.kill()


class Cluster:
    """`nodes`: servers by name. The clients' program runs on a host of its own: see `ask`."""

    def __init__(self, directory: Path, authority, entry, own=None, **issuer_options):
        self.directory, self.authority = directory, authority
        self.network = self.issuer = self.talker = None
        self.members, self.nodes = {}, {}
        try:
            self._build(entry, own or {}, issuer_options)
        except BaseException:
            self.stop()
            raise

    def _build(self, entry, own, issuer_options) -> None:
        hosts = {name: [node_address(name), etcd_address(name)] for name in NODES}
        self.network = Network({**hosts, "clients": [CLIENTS]})
        for name in NODES:
            self.members[name] = Member(self, name)
            self.members[name].start()
        self.issuer = Issuer(
            self.directory, wrapper=self.network["clients"].enter, listen=f"{CLIENTS}:0", **issuer_options
        )
        self.issuers = [entry(self.issuer)]
        endpoints = [f"http://{etcd_address(name)}:2379" for name in NODES]
        log = self.directory / "log"
        log.mkdir()
        for name in NODES:
            place = self.directory / name
            place.mkdir()
            # The audit log has the same path on all nodes, and is each one's own.
            self.network[name].run("mount", "--bind", place, log)
            server = Server(
                place, self.authority, self.issuers if name == "n1" else [],
                own={
                    "listen": [f"0.0.0.0:{PORT}"], "advertise": f"{node_address(name)}:{PORT}",
                    "store": {"etcd": {"endpoints": endpoints}}, **own,
                },
                extra={"cluster": {
                    "name": "localhost", "myname": f"{name}.test", "master": "n1.test",
                    "auditlog": str(log / "audit.log"),
                }},
                wrapper=self.network[name].enter,
            )
            self.nodes[name] = server
            if name != "n1":
                # The second node has of the first what it needs to read the store, and nothing else.
                shutil.copy(self.directory / "n1" / "etc" / "root.key", place / "etc" / "root.key")
            server.start()
        self.talker = Talker(self)

    def status(self, name: str) -> tuple[dict, int]:
        """`gridkeep cluster status` on a node, and its exit code."""
        done = subprocess.run(
            [*self.network[name].enter, GRIDKEEP, "cluster", "status", "--json", "--config", self.nodes[name].etc / "config.d"],
            capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]},
        )
        assert done.returncode < 2, done.stderr
        return json.loads(done.stdout), done.returncode

    def etcdctl(self, *words: str):
        endpoints = ",".join(f"http://{etcd_address(name)}:2379" for name in NODES)
        return subprocess.run(
            [*self.network["clients"].enter, "etcdctl", "--endpoints", endpoints, "--command-timeout", "2s", *words],
            capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
        )

    def leader(self) -> str | None:
        """The host whose member leads etcd, if all members are there and say the same."""
        done = self.etcdctl("endpoint", "status", "-w", "json")
        found = json.loads(done.stdout) if done.stdout.strip() else []
        if done.returncode or len(found) != len(NODES):
            return None
        ids = {each["Status"]["header"]["member_id"]: each["Endpoint"] for each in found}
        leaders = {each["Status"].get("leader") for each in found}
        (leader,) = leaders if len(leaders) == 1 else (None,)
        return next((name for name in NODES if etcd_address(name) in ids.get(leader, "")), None)

    def members_are_whole(self) -> None:
        """Waits until all members of etcd answer and follow one leader, so that a fault is the only one."""
        wait_until(lambda: self.etcdctl("endpoint", "health").returncode == 0 and self.leader(), "etcd is whole")

    def lead(self, name: str) -> None:
        """Makes the member on this host the leader of etcd."""
        def leads():
            if self.leader() == name:
                return True
            members = json.loads(self.etcdctl("member", "list", "-w", "json").stdout or "{}").get("members", [])
            for member in members:
                if member["name"] == name:
                    self.etcdctl("move-leader", f"{member['ID']:x}")
            return False

        wait_until(leads, f"the member of {name} leads etcd")

    def settled(self) -> None:
        """Waits until etcd is whole, and every node has its store and sees all others."""
        self.members_are_whole()

        def all_live():
            for name in NODES:
                try:
                    status, _ = self.status(name)
                except AssertionError:  # its socket is being made anew
                    return False
                states = [node["state"] for node in status["nodes"]]
                if not status["fresh"] or states != ["live"] * 3:
                    return False
            return True

        wait_until(all_live, "the cluster is whole")

    def ask(self, do: str, **what):
        return self.talker.ask(do, **what)

    def stop(self) -> None:
        things = [self.talker, *self.nodes.values(), self.issuer, *self.members.values(), self.network]
        for thing in things:
            if thing is None:
                continue
            try:
                if isinstance(thing, Server) and thing.process:
                    thing.process.signal(signal.SIGCONT)
                    thing.kill()
                else:
                    thing.stop()
            except Exception as trouble:  # the next must be ended too
                print(f"{thing}: {trouble}", file=sys.stderr)


class Talker:
    """The clients' program, on their host: one order and one answer a line."""

    def __init__(self, cluster: Cluster):
        program = Path(__file__).with_name("cluster_clients.py")
        addresses = json.dumps([node_address(name) for name in NODES])
        self.popen = subprocess.Popen(
            [*cluster.network["clients"].enter, sys.executable, program, addresses, cluster.authority.path, cluster.issuer.admin_url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )

    def ask(self, do: str, **what):
        self.popen.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self.popen.stdin.flush()
        line = self.popen.stdout.readline()
        assert line, "the clients' program has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def stop(self) -> None:
        ended(self.popen)


def pause(seconds: float) -> None:
    """Lets a fault last. Nothing is decided by it: what is judged are the recorded answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(0.1, end - time.monotonic()))
