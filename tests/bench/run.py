#!/usr/bin/env python3
"""Measures ours beside the programs it replaces and writes docs/benchmarks.md. No figure is asserted; what was not measured properly is an error.

Environment: GRIDKEEP_BIN, the release binaries; BENCH_FULL=1 goes on to 1,000,000 people (some twenty minutes more, and 20 GB of disk);
BENCH_DIR, a directory on the disk to be measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

import fetch  # noqa: E402
import kerberos  # noqa: E402
import reads  # noqa: E402
import report  # noqa: E402
from conftest import issuer_entry  # noqa: E402
from support.certificates import Authority  # noqa: E402
from support.processes import BIN  # noqa: E402

BENCH = BIN / "gridkeep-bench"
# Each login takes a proof of its own, and making one takes longer than judging it.
LOGIN_SECONDS = 5
PARTS = ("fetch", "store", "engines", "reads", "kerberos")


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


def main() -> None:
    full = os.environ.get("BENCH_FULL") == "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="the date to write into the page")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure a part and print it; the page is not touched")
    parser.add_argument("--runs", type=int, default=60, help="runs of each client")
    parser.add_argument("--logins", type=int, default=20_000, help="proofs for the measurement of Kerberos logins; they have to suffice for it")
    parser.add_argument("--seconds", type=int, default=10, help="length of each measurement of reads")
    # 150,000 people leave a million records behind.
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 150_000] + ([1_000_000] if full else []))
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
            if "fetch" in parts:
                say("warm fetch, PyPI's htgettoken and ours")
                found = fetch.run(directory / "fetch", authority, issuer_entry, BENCH, options.runs, started)
                sections.append(("Warm fetch", report.fetch(found, goals)))
                stop(started)
            if "store" in parts:
                say("the store beside bare redb")
                found = measure_store(directory / "store", batches=100, rounds=15)
                sections.append(("Store", report.store(found, goals)))
            if "engines" in parts:
                say("the store on etcd beside the embedded engine")
                found = measure_engines(directory / "engines", operations=3000, rounds=7)
                sections.append(("The price of etcd", report.engines(found)))
            if "reads" in parts:
                say("reads of cached credentials")
                found = measure_reads(directory / "reads", authority, options.sizes, options.seconds, started)
                sections.append(("Reads", report.reads(found, options.seconds, goals)))
                stop(started)
            if "kerberos" in parts:
                say("logins with Kerberos tickets")
                found = kerberos.run(directory / "kerberos", authority, options.logins, LOGIN_SECONDS, started)
                sections.append(("Kerberos logins", report.kerberos(found, LOGIN_SECONDS)))
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
