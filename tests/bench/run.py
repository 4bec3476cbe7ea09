#!/usr/bin/env python3
"""Measures ours beside the programs it replaces and writes docs/benchmarks.md. No figure is asserted; what was not measured properly is an error.

Environment: GRIDKEEP_BIN, the release binaries; BENCH_FULL=1 goes on to 1,000,000 credentials and 10,000,000 tokens (up to half an hour more, and 30 GB of
disk); BENCH_DIR, a directory on the disk to be measured.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

import cluster  # noqa: E402
import fetch  # noqa: E402
import growth  # noqa: E402
import kerberos  # noqa: E402
import reads  # noqa: E402
import report  # noqa: E402
import telemetry  # noqa: E402
from conftest import issuer_entry  # noqa: E402
from support.certificates import Authority  # noqa: E402
from support.processes import BIN  # noqa: E402

BENCH = BIN / "gridkeep-bench"
# Each login takes a proof of its own, and making one takes longer than judging it.
LOGIN_SECONDS = 5
PARTS = ("fetch", "store", "engines", "reads", "cluster", "growth", "telemetry", "kerberos")


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def measure_store(directory: Path, batches: int, rounds: int) -> dict:
    done = subprocess.run(
        [str(BENCH), "store", "--directory", str(directory), "--batches", str(batches), "--rounds", str(rounds)],
        capture_output=True, text=True, check=True,
    )
    return json.loads(done.stdout)


def measure_engines(directory: Path, operations: int, rounds: int) -> dict:
    done = subprocess.run(
        [str(BENCH), "engines", "--directory", str(directory), "--operations", str(operations), "--rounds", str(rounds)],
        capture_output=True, text=True, check=True,
    )
    return json.loads(done.stdout)


def measure_reads(directory: Path, authority, sizes: list[int], seconds: int, started: list) -> list[dict]:
    growing = reads.Growing(directory, authority, BENCH)
    started.append(growing)
    found = []
    for people in sizes:
        say(f"{people:,} people")
        found.append(reads.size(growing, people, seconds, starts=5))
    return found


def measure(part: str, directory: Path, authority, options, goals: report.Goals, started: list) -> tuple[str, str]:
    """One part: its title and its text."""
    seconds, rounds = options.seconds, options.rounds
    match part:
        case "fetch":
            say("warm fetch, PyPI's htgettoken and ours")
            found = fetch.run(directory, authority, issuer_entry, BENCH, options.runs, started)
            return "Warm fetch", report.fetch(found, goals)
        case "store":
            say("the store beside bare redb")
            return "Store", report.store(measure_store(directory, batches=100, rounds=3 * rounds), goals)
        case "engines":
            say("the store on etcd beside the embedded engine")
            return "The price of etcd", report.engines(measure_engines(directory, options.operations, rounds))
        case "reads":
            say("reads of cached credentials")
            found = measure_reads(directory, authority, options.sizes, seconds, started)
            return "Reads", report.reads(found, seconds, goals)
        case "cluster":
            say("reads of cached credentials from a cluster of three")
            found = cluster.run(directory, authority, BENCH, options.people, seconds, rounds, started)
            return "Cluster", report.cluster(found, seconds, goals)
        case "growth":
            say("growth of the embedded engine")
            found = growth.run(directory, authority, BENCH, options.growth, options.tokens_each, seconds, say, started)
            return "Growth", report.growth(found, seconds)
        case "telemetry":
            say("what metrics and spans cost")
            found = telemetry.run(directory, authority, BENCH, seconds, rounds, started)
            return "Metrics and spans", report.telemetry(found, seconds)
        case "kerberos":
            say("logins with Kerberos tickets")
            found = kerberos.run(directory, authority, options.logins, LOGIN_SECONDS, started)
            return "Kerberos logins", report.kerberos(found, LOGIN_SECONDS)
    raise AssertionError(part)


def main() -> None:
    full = os.environ.get("BENCH_FULL") == "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="the date to write into the page")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure a part and print it; the page is not touched")
    parser.add_argument("--runs", type=int, default=60, help="runs of each client")
    parser.add_argument("--logins", type=int, default=60_000, help="proofs for the measurement of Kerberos logins; they have to suffice for it")
    parser.add_argument("--seconds", type=int, default=10, help="length of each measurement of reads")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of what alternates: cluster, telemetry, engines")
    parser.add_argument("--operations", type=int, default=3_000, help="commits, and reads, of each engine and round")
    # 150,000 people leave a million records behind.
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 150_000], help="people whose credentials are read")
    parser.add_argument("--growth", type=int, nargs="+", default=[1_000, 10_000] + ([1_000_000] if full else []), help="credentials that the store grows to")
    parser.add_argument("--tokens-each", type=int, default=10, help="tokens for each of them")
    parser.add_argument("--people", type=int, default=1_000, help="people whose credentials are read from the cluster")
    options = parser.parse_args()
    parts = options.only or PARTS

    goals, sections, started = report.Goals(), [], []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="gridkeep-bench-", dir=os.environ.get("BENCH_DIR")) as scratch:
        directory = Path(scratch)
        for part in PARTS:
            (directory / part).mkdir()
        authority = Authority(directory)
        try:
            for part in (part for part in PARTS if part in parts):
                title, text = measure(part, directory / part, authority, options, goals, started)
                sections.append((title, text))
                # A part that fails later takes nothing of this with it.
                print(f"## {title}\n\n{text}\n", file=sys.stderr, flush=True)
                stop(started)
                # Room for the next, and nothing of this one on its way to the disk.
                shutil.rmtree(directory / part)
                os.sync()
        finally:
            stop(started)
    figures = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    command = "BENCH_FULL=1 make bench" if full else "make bench"
    head = f"Measured on {options.date} with `{command}` on {report.machine()}. The load average before the run was {load:.1f}"
    head += " (a quiet machine has less than 0.3: with more, rates and delays say little).\n\n" if load >= 0.3 else ".\n\n"
    head += goals.table()
    if not options.only:
        report.write(ROOT / "docs" / "benchmarks.md", f"{head}\n\n{figures}")
    print(f"{figures}\n\n{head}")


def stop(started: list) -> None:
    while started:
        started.pop().stop()


if __name__ == "__main__":
    main()
