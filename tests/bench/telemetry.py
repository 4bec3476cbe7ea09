"""What metrics and spans cost a read: the same server with and without a scraper and a collector of spans."""

import urllib.request
from pathlib import Path

import reads
from cluster import free_ports
from support.collectors import Collector

PEOPLE = 1_000


class Scraper(reads.Beside):
    """Asks for the metrics once a second, until it is stopped."""

    def __init__(self, url: str):
        super().__init__(1)
        self.url, self.times = url, 0

    def turn(self) -> None:
        with urllib.request.urlopen(self.url, timeout=10) as answer:
            answer.read()
        self.times += 1


def ways(metrics: str, collector: Collector) -> dict[str, dict]:
    """`gridkeep.telemetry` of each way, the one that has nothing first."""
    off, on = {"metrics": {"listen": []}}, {"metrics": {"listen": [metrics]}}
    return {
        "nothing": off,
        "scraped": on,
        "sampled": {**on, "traces": {"url": collector.url}},
        "traced": {**on, "traces": {"url": collector.url, "sample": 1.0}},
    }


def run(directory: Path, authority, bench: Path, seconds: int, rounds: int, started: list) -> dict[str, list[dict]]:
    """Rounds of each way, alternating; the server is started anew for each."""
    collector = Collector()
    started.append(collector)
    growing = reads.Growing(directory, authority, bench)
    started.append(growing)
    growing.fill(PEOPLE)
    metrics = f"127.0.0.1:{free_ports(1)[0]}"
    found: dict[str, list[dict]] = {}
    for _ in range(rounds):
        for way, telemetry in ways(metrics, collector).items():
            growing.stop()
            growing.server.config["gridkeep"]["telemetry"] = telemetry
            growing.server.write_config()
            growing.start()
            growing.wrk(1, PEOPLE)
            collector.requests.clear()
            if way == "nothing":
                measured = growing.read(seconds, PEOPLE)
            else:
                with Scraper(f"http://{metrics}/metrics") as scraper:
                    measured = growing.read(seconds, PEOPLE)
                measured["scrapes"] = scraper.times
                measured["dropped"] = dropped(f"http://{metrics}/metrics")
            measured["batches"] = len(collector.requests)
            assert (measured["batches"] > 0) == (way in ("sampled", "traced")), f"{way}: {measured}"
            found.setdefault(way, []).append(measured)
    return found


def dropped(url: str) -> int:
    """Spans that were not sent because too many waited."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("gridkeep_telemetry_dropped_total{") and 'sink="otlp"' in line)
