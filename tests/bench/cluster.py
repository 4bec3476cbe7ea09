"""Reads of cached credentials from a cluster of three: one node loaded, then all at once, beside a server alone on the same processors.

Three members of etcd and three nodes are processes of this host, on loopback. The load generator is the same for all: three threads of wrk,
which go to one server or to one each.
"""

import shutil
import socket
from pathlib import Path

import reads
from support.etcd import Etcd
from support.processes import WITH_US, wait_until
from support.servers import Server

NODES = ("n1", "n2", "n3")
THREADS = 3
CONNECTIONS = 66
# Time for every node to have read what it is asked for once.
WARM_SECONDS = 4


class Nodes:
    """Three nodes with what they share."""

    def __init__(self, directory: Path, authority, bench: Path, people: int):
        self.tokens = directory / "tokens"
        self.servers: list[Server] = []
        self.etcd = Etcd(directory / "etcd", members=3)
        try:
            self._start(directory, authority, bench, people)
        except BaseException:
            self.stop()
            raise

    def _start(self, directory: Path, authority, bench: Path, people: int) -> None:
        log = directory / "log"
        log.mkdir()
        for name, port in zip(NODES, free_ports(len(NODES))):
            place = directory / name
            place.mkdir()
            # The audit log has the same path on all nodes, and is each one's own.
            own_log = ["unshare", "-rm", "sh", "-c", f'mount --bind "{place}" "{log}" && exec {" ".join(WITH_US)} "$@"', "sh"]
            server = Server(
                place, authority, [reads.ISSUER] if not self.servers else [],
                own={
                    "listen": [f"127.0.0.1:{port}"], "advertise": f"127.0.0.1:{port}",
                    "store": {"etcd": {"endpoints": self.etcd.clients}},
                },
                extra={"cluster": {"name": "localhost", "myname": f"{name}.test", "master": "n1.test", "auditlog": str(log / "audit.log")}},
                wrapper=own_log,
            )
            if not self.servers:
                members = [word for client in self.etcd.clients for word in ("--etcd", client)]
                reads.fill(bench, server, self.tokens, 0, people, *members)
            else:
                shutil.copy(directory / NODES[0] / "etc" / "root.key", server.etc / "root.key")
            self.servers.append(server)
            server.start()
        wait_until(self._whole, "every node sees the others")

    def _whole(self) -> bool:
        for server in self.servers:
            status, body = server.call("GET", "sys/ha-status", token=server.operator_token())
            if status != 200 or len(body["data"]["nodes"]) != len(NODES):
                return False
        return True

    def read(self, servers: list[Server], seconds: int, people: int) -> dict:
        reads.wrk(servers, self.tokens, people, WARM_SECONDS, connections=CONNECTIONS, threads=THREADS)
        processes = [server.process.pid for server in self.servers] + [process.pid for process in self.etcd.processes]
        before = {pid: reads.processor_seconds(pid) for pid in processes}
        audited = [self._audited(server) for server in self.servers]
        found = reads.wrk(servers, self.tokens, people, seconds, connections=CONNECTIONS, threads=THREADS)
        spent = {pid: (reads.processor_seconds(pid) - before[pid]) / found["requests"] * 1e6 for pid in processes}
        # Who was meant to be asked was asked, and left its lines.
        asked = [self._audited(server) - size > found["requests"] * 100 / len(servers) for server, size in zip(self.servers, audited)]
        assert asked == [server in servers for server in self.servers], f"not the nodes that were meant were asked: {asked}"
        found["server_cpu_us"] = sum(spent[server.process.pid] for server in self.servers)
        found["etcd_cpu_us"] = sum(spent[process.pid] for process in self.etcd.processes)
        return found

    @staticmethod
    def _audited(server: Server) -> int:
        return (server.directory / "audit.log").stat().st_size

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
        self.etcd.stop()


def free_ports(number: int) -> list[int]:
    """Ports that nobody has, bound together so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(directory: Path, authority, bench: Path, people: int, seconds: int, rounds: int, started: list) -> dict:
    """Rounds of each, alternating: the server alone stands still, but for its background, while the cluster is read, and the other way round."""
    single = reads.Growing(directory, authority, bench)
    started.append(single)
    single.fill(people)
    single.start()
    (directory / "cluster").mkdir()
    nodes = Nodes(directory / "cluster", authority, bench, people)
    started.append(nodes)
    found = {"people": people, "rounds": rounds, "measured": {}}
    for _ in range(rounds):
        for which, drawn in (("one", 1), ("all", people)):
            # Warmed as the nodes are.
            single.wrk(WARM_SECONDS, drawn, connections=CONNECTIONS, threads=THREADS)
            alone = single.read(seconds, drawn, connections=CONNECTIONS, threads=THREADS)
            alone["server_cpu_us"], alone["etcd_cpu_us"] = alone["server_cpu_us_per_read"], 0
            for what, run in (
                ("single", alone),
                ("one_node", nodes.read(nodes.servers[:1], seconds, drawn)),
                ("three_nodes", nodes.read(nodes.servers, seconds, drawn)),
            ):
                found["measured"].setdefault((what, which), []).append(run)
    return found
