"""How the embedded engine grows: millions of credentials and of tokens, looked up over HTTP in a server that was killed before."""

import os
import time
import urllib.request
from pathlib import Path

import reads
from cluster import free_ports

# With more tokens than this the server counts for longer than anybody wants to wait: it rests nine tenths of the time.
COUNTED = 1_000_000
# Of memory, gathered before it is written; the filling is not what is measured.
GATHER_SHARE, GATHER_MOST_MIB = 4, 6144
STARTS = 5


def gather_mib() -> int:
    available = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return min(GATHER_MOST_MIB, available // 1024 // GATHER_SHARE)


def count(growing: reads.Growing, metrics: str, tokens: int) -> float:
    """Seconds until the server has counted what it holds, as it does after each start, beside its work; then it has to have found all."""
    begun = time.monotonic()
    while True:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        counted = dict(line.rsplit(" ", 1) for line in lines if line.startswith(("gridkeep_tokens_live", "gridkeep_census_timestamp_seconds ")))
        if "gridkeep_census_timestamp_seconds" in counted:
            taken = time.monotonic() - begun
            assert float(counted["gridkeep_tokens_live"]) == tokens, counted
            return taken
        assert growing.server.process.popen.poll() is None, growing.server.log()
        time.sleep(0.2)


def size(growing: reads.Growing, metrics: str, people: int, tokens_each: int, seconds: int, gather: int) -> dict:
    """All there is to say about one size."""
    growing.stop()
    filled = growing.fill(people, "--tokens-each", str(tokens_each), "--gather", str(gather))
    # What the filling wrote is not to be on its way to the disk any more.
    os.sync()
    growing.start()
    starts = growing.start_after_kill(STARTS)
    counted = counting_mib = None
    if people * tokens_each <= COUNTED:
        with reads.Sampler(growing.server.process.pid) as counting:
            counted = count(growing, metrics, people * tokens_each)
        counting_mib = counting.greatest / 1024
    idle = reads.resident_kib(growing.server.process.pid) / 1024
    alone = growing.read(seconds, people, what="token", connections=1)
    together = growing.read(seconds, people, what="token")
    creds = growing.read(seconds, people)
    return {
        "people": people, "tokens": people * tokens_each, "records": filled["records"], "fill_seconds": filled["seconds"],
        "disk_mib": growing.disk_mib(), "idle_mib": idle, "starts": starts, "counted": counted, "counting_mib": counting_mib,
        "lookup_alone": alone, "lookup": together, "creds": creds,
    }


def run(directory: Path, authority, bench: Path, sizes: list[int], tokens_each: int, seconds: int, say, started: list) -> list[dict]:
    metrics = f"127.0.0.1:{free_ports(1)[0]}"
    growing = reads.Growing(directory, authority, bench, own={"telemetry": {"metrics": {"listen": [metrics]}}})
    started.append(growing)
    found = []
    for people in sizes:
        say(f"{people:,} credentials and {people * tokens_each:,} tokens")
        found.append(size(growing, metrics, people, tokens_each, seconds, gather_mib()))
    return found
