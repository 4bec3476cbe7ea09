"""Reads of cached credentials over TLS by 64 connections that stay open, and how the server grows with what it keeps."""

import json
import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

from support.processes import wait_until
from support.servers import Server

CONNECTIONS = 64
# Distinct people that wrk draws from; more than this many requests are not made in one measurement.
DRAWN = 100_000
ISSUER = {
    "name": "bench", "clientid": "gridkeep", "secret": "gridkeep-secret", "url": "https://localhost:1/", "callbackmode": "device",
    "credclaim": "sub", "roles": [{"name": "default", "scopes": ["profile", "offline_access", "wlcg", "storage.read:/"]}],
}
# As the server asks for them.
SCOPES = "openid " + " ".join(ISSUER["roles"][0]["scopes"])


class Growing:
    """A server whose store is filled further and further."""

    def __init__(self, directory: Path, authority, bench: Path, own: dict | None = None):
        self.directory = directory
        self.bench = bench
        self.tokens = directory / "tokens"
        self.people = 0
        (directory / "server").mkdir()
        self.server = Server(directory / "server", authority, [ISSUER], own=own)

    def fill(self, people: int, *options: str) -> dict:
        """Logs people in until there are so many. The server must not be running."""
        found = fill(self.bench, self.server, self.tokens, self.people, people, *options)
        self.people = people
        return found

    def start(self) -> float:
        """Seconds from the start of the program to its READY=1."""
        begun = time.monotonic()
        self.server.start()
        return time.monotonic() - begun

    def start_after_kill(self, times: int) -> list[float]:
        """Starts, each after a kill -9 under load."""
        taken = []
        for _ in range(times):
            audit = self.server.directory / "audit.log"

            def written() -> int:
                # One that was just rotated may not be there yet.
                return audit.stat().st_size if audit.exists() else 0

            before = written()
            load = self.wrk(2, DRAWN, wait=False)
            # It reads its requests first, which takes a while where they are many.
            wait_until(lambda: written() > before, "the load has begun", self.server.process)
            time.sleep(0.5)
            self.server.kill()
            load.communicate()
            taken.append(self.start())
        return taken

    def wrk(self, seconds: int, drawn: int, wait: bool = True, **how):
        return wrk([self.server], self.tokens, drawn, seconds, wait=wait, **how)

    def read(self, seconds: int, people: int, **how) -> dict:
        """Rate, delays, processor time and greatest resident memory while people are read."""
        pid = self.server.process.pid
        sampler = Sampler(pid)
        before = processor_seconds(pid)
        with sampler:
            found = self.wrk(seconds, min(people, DRAWN), **how)
        found["server_cpu_us_per_read"] = (processor_seconds(pid) - before) / found["requests"] * 1e6
        found["rss_mib"] = sampler.greatest / 1024
        self.rotate_audit()
        return found

    def rotate_audit(self) -> None:
        """Checks that every read left its lines, and makes room."""
        path = self.server.directory / "audit.log"
        assert path.stat().st_size > 0, "the audit log is empty: the reads were not audited"
        path.unlink()
        self.server.process.signal(signal.SIGHUP)
        self.server.notify.wait_for("READY=1", self.server.process)

    def disk_mib(self) -> float:
        return sum(path.stat().st_blocks * 512 for path in (self.server.directory / "data").rglob("*") if path.is_file()) / 2**20

    def stop(self) -> None:
        self.server.stop()


def fill(bench: Path, server: Server, tokens: Path, people_from: int, people_to: int, *options: str) -> dict:
    """Logs people in. A line of `tokens` is written for each."""
    done = subprocess.run(
        [
            str(bench), "fill", "--data", str(server.directory / "data"), "--key", str(server.etc / "root.key"),
            "--url", ISSUER["url"], "--client", ISSUER["clientid"], "--scopes", SCOPES, "--tokens", str(tokens),
            "--from", str(people_from), "--to", str(people_to), *options,
        ],
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wrk(servers: list[Server], tokens: Path, drawn: int, seconds: float, what: str = "creds", connections: int = CONNECTIONS, threads: int = 1, wait: bool = True):
    """Requests of people drawn from the lines of `tokens`, by connections that stay open; with several servers, each thread's go to its own.
    Every answer has to be 200."""
    ports = [str(server.port) for server in servers] if len(servers) > 1 else []
    load = subprocess.Popen(
        [
            "wrk", "--threads", str(threads), "--connections", str(connections), "--duration", f"{seconds}s", "--latency", "--timeout", "10s",
            "--script", str(Path(__file__).with_name("reads.lua")), servers[0].url, "--", str(tokens), str(drawn), what, *ports,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    if not wait:
        return load
    before = children_seconds()
    out, _ = load.communicate(timeout=seconds + 120)
    spent = children_seconds() - before
    found = next((json.loads(line.removeprefix("FOUND ")) for line in out.splitlines() if line.startswith("FOUND ")), None)
    assert load.returncode == 0 and found, out
    assert found["refused"] == 0 and found["broken"] == 0, out
    found["load_cpu_us_per_read"] = spent / found["requests"] * 1e6
    found["rate"] = found["requests"] / found["seconds"]
    return found


class Beside:
    """Does `turn` again and again, `every` seconds, while something else goes on."""

    def __init__(self, every: float):
        self.every = every
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.ended.wait(self.every):
            self.turn()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


class Sampler(Beside):
    """Looks at the resident memory of a process ten times a second."""

    def __init__(self, pid: int):
        super().__init__(0.1)
        self.pid = pid
        self.greatest = 0

    def turn(self) -> None:
        self.greatest = max(self.greatest, resident_kib(self.pid))


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("the server is gone")


def children_seconds() -> float:
    """Processor time of the programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def size(growing: Growing, people: int, seconds: int, starts: int) -> dict:
    """All there is to say about one size."""
    growing.stop()
    filled = growing.fill(people)
    growing.start()
    idle = resident_kib(growing.server.process.pid) / 1024
    one = growing.read(seconds, 1)
    many = growing.read(seconds, people)
    return {
        "people": people, "records": filled["records"], "fill_seconds": filled["seconds"], "idle_mib": idle, "one": one, "many": many,
        "disk_mib": growing.disk_mib(), "starts": growing.start_after_kill(starts),
    }
