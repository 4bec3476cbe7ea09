"""Tables in Markdown out of what was measured. Owns the goals; judges nothing beyond "met" and "missed"."""

import os
import statistics
from pathlib import Path

BEGIN = "<!-- figures: begin (written by make bench) -->"
END = "<!-- figures: end -->"


def machine() -> str:
    """This machine in one sentence."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    system = os.uname()
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB of memory, Linux {system.release} on {system.machine}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|:--|" + "--:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def count(number: float) -> str:
    return f"{number:,.0f}"


class Goals:
    """Every goal with what was found, in the order they were asked about."""

    def __init__(self):
        self.rows = []

    def add(self, what: str, wanted: str, found: str, met: bool) -> None:
        self.rows.append([what, wanted, found, "met" if met else "**missed**"])

    def table(self) -> str:
        return table(["figure", "goal", "found", ""], self.rows)


def fetch(found: dict, goals: Goals) -> str:
    original, ours = found["original"], found["ours"]
    rows = []
    for what, name, unit, factor in (("wall_us", "wall time", "ms", 10), ("cpu_us", "processor time", "ms", 30), ("max_rss_kib", "memory", "MiB", 3)):
        scale = 1024 if unit == "MiB" else 1000
        ratio = original[what] / ours[what]
        rows.append([name, f"{original[what] / scale:.1f} {unit}", f"{ours[what] / scale:.1f} {unit}", f"{ratio:.1f}"])
        goals.add(f"warm fetch, {name}", f"{factor} times less", f"{ratio:.1f} times less", ratio >= factor)
    return (
        f"Median of {found['runs']} alternating runs of each, against the same server, which has an access token cached; a vault token is in its "
        "file, Kerberos and ssh are switched off. Wall time is from starting the process to its end, processor time and greatest resident memory "
        f"are the kernel's account of it (what is below {found['floor_rss_kib'] / 1024:.1f} MiB cannot be told apart).\n\n"
        + table(["", "PyPI htgettoken 2.2", "ours", "times less"], rows)
    )


def reads(sizes: list[dict], seconds: int, goals: Goals) -> str:
    at = next((size for size in sizes if size["people"] == 100_000), None)
    if at:
        for name, which in (("one credential", "one"), (f"{count(at['people'])} credentials", "many")):
            goals.add(f"reads, {name}", "15,000 per second", count(at[which]["rate"]), at[which]["rate"] >= 15_000)
            goals.add(f"reads, {name}, p99", "below 15 ms", f"{at[which]['p99_ms']:.1f} ms", at[which]["p99_ms"] < 15)
        memory = max(at["one"]["rss_mib"], at["many"]["rss_mib"])
        goals.add("resident memory, 100,000 credentials and tokens", "at most 64 MiB", f"{memory:.0f} MiB", memory <= 64)
    million = next((size for size in sizes if size["records"] >= 1_000_000), None)
    if million:
        start = statistics.median(million["starts"])
        goals.add(f"start after kill -9, {count(million['records'])} records", "below 1 s", f"{start:.2f} s", start < 1)
    rows = []
    for size in sizes:
        for name, which in (("one", "one"), ("all", "many")):
            run = size[which]
            rows.append([
                count(size["people"]), name, count(run["rate"]), f"{run['p50_ms']:.1f}", f"{run['p99_ms']:.1f}", f"{run['server_cpu_us_per_read']:.0f}",
                f"{run['load_cpu_us_per_read']:.0f}",
                f"{run['rss_mib']:.0f}",
            ])
    growth = [
        [
            count(size["people"]), count(size["records"]), f"{size['disk_mib']:.0f}", f"{size['idle_mib']:.0f}",
            f"{max(size['one']['rss_mib'], size['many']['rss_mib']):.0f}", f"{statistics.median(size['starts']):.3f}", f"{max(size['starts']):.3f}",
        ]
        for size in sizes
    ]
    return (
        f"wrk with {64} connections that stay open, over TLS, on the same cores as the server, {seconds} seconds each, audit log on (two lines per "
        "read, the first in the hands of the kernel before the read is done). Every answer was 200. A person has one credential and one live "
        "token. *one*: always the same person; *all*: drawn at random for each request, from at most 100,000 spread over all. The µs are processor time "
        "per read; where their sum times the rate is well below the number of cores, something else was running.\n\n"
        + table(["people", "read", "reads/s", "p50 ms", "p99 ms", "server µs", "wrk µs", "resident MiB"], rows)
        + "\n\nHow the server grows. Records are what logins leave behind: grant, credential, token, accessor, handle, event, places in the "
        "indices of names and of what is to be kept alive. The start is from the start of the program to its `READY=1`, after a `kill -9` under load.\n\n"
        + table(["people", "records", "disk MiB", "resident MiB, idle", "resident MiB, read", "start s", "slowest start s"], growth)
    )


def store(found: dict, goals: Goals) -> str:
    rates = {name: statistics.median(values) for name, values in found["records_per_second"].items()}
    bare = rates["redb"]
    names = {
        "redb": "bare redb, one writer, transactions of 64 records, `Durability::Immediate`",
        "redb_quick_repair": "the same with `quick_repair`",
        "store_64_writers": "store, 64 writers, each waiting for its one record",
        "store_64_record_transactions": "store, one writer, transactions of 64 records",
        "engine_64_writers_unsealed": "its engine without sealing, 64 writers",
    }
    rows = [[text, count(rates[name]), f"{rates[name] / bare:.0%}"] for name, text in names.items()]
    share = rates["store_64_writers"] / bare
    goals.add("store, 64 writers of sealed 1 kB records", "60 % of bare redb", f"{share:.0%}", share >= 0.6)
    return (
        f"Records of {count(found['value_bytes'])} random bytes under random keys, made durable {found['batch']} at a time in a new file with a cache "
        "of 16 MiB on the same disk; median of alternating rounds. The store's writers do not know of each other: the committer gathers what waits. "
        "Unlike bare redb it stores a head and an expiry with each record, judges guards, looks whether its directory is still there, and always "
        "has `quick_repair` on, so that it opens at once after a kill.\n\n"
        + table(["", "records/s", "of bare redb"], rows)
        + f"\n\nNaming and sealing a record takes {found['sealing_us_per_record']:.1f} µs of one processor, which is "
        f"{found['sealing_us_per_record'] * rates['store_64_writers'] / 1e4:.1f} % of one at the store's rate."
    )


def engines(found: dict) -> str:
    """Durable writes and reads on each engine, and what etcd costs over the embedded one."""
    def median(engine: str, what: str, key: str) -> float:
        return statistics.median(found["engines"][f"{engine}/{what}"][key])

    names = {"embedded": "embedded engine", "etcd_1": "etcd, one member", "etcd_3": "etcd, three members"}
    rows = []
    for what, text in (("writes_1", "1 writer"), ("writes_64", "64 writers"), ("reads_1", "1 reader"), ("reads_64", "64 readers")):
        ours = median("embedded", what, "per_second")
        for engine, name in names.items():
            rate = median(engine, what, "per_second")
            rows.append([text, name, count(rate), f"{median(engine, what, 'median_us') / 1000:.2f} ms", f"{ours / rate:.1f}"])
    return (
        f"Commits of one sealed record of {count(found['value_bytes'])} bytes with an expiry, and reads of one record, on the same disk; median of "
        "alternating rounds. All members of etcd run on this host: there is no network in it, and three of them share its disk and processors.\n\n"
        + table(["", "engine", "per second", "median delay", "price"], rows)
    )


def kerberos(found: list[tuple[str, dict]], seconds: int) -> str:
    rows = [[what, count(one["rate"]), f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f}", f"{one['server_cpu_us']:.0f}"] for what, one in found]
    login, again, abroad, nothing = (one["server_cpu_us"] for _, one in found)
    steps = [
        ("connection, request, both audit lines", nothing),
        ("ticket and proof judged by MIT's library, in a thread of its own", abroad - nothing),
        ("token made and sealed, proof looked up", again - abroad),
        ("token and proof made durable", login - again),
    ]
    return (
        f"wrk with 64 connections that stay open, over TLS, on the same cores as the server, for {seconds} seconds each, sends proofs that were made before, in the first line each of them once; "
        "audit log on. The key distribution centre has no part in this: the server never asks it.\n\n"
        + table(["", "per second", "p50 ms", "p99 ms", "server µs"], rows)
        + "\n\nWhere the server's processor time of a login goes: the difference between a line above and the next. What is declined "
        "writes a line into the server's log, which a login does not: judging is a little cheaper than it seems, and the last step a little dearer.\n\n"
        + table(["", "server µs", "of the login"], [[what, f"{spent:.0f}", f"{spent / login:.0%}"] for what, spent in steps])
    )


def cluster(found: dict, seconds: int, goals: Goals) -> str:
    """One node of three, and all of them, beside a server alone."""
    def median(what: str, which: str, key: str) -> float:
        return statistics.median(run[key] for run in found["measured"][what, which])

    people = count(found["people"])
    for which, text in (("one", "one credential"), ("all", f"{people} credentials")):
        single, node, together = (median(what, which, "rate") for what in ("single", "one_node", "three_nodes"))
        goals.add(f"cluster, one node of three, {text}", "10,000 per second", count(node), node >= 10_000)
        goals.add(f"cluster, three nodes together, {text}", "0.7 of a server alone", f"{together / single:.2f}", together >= 0.7 * single)
    rows = []
    for which in ("one", "all"):
        alone = median("single", which, "rate")
        for what, text in (("single", "a server alone, embedded engine"), ("one_node", "one node of three"), ("three_nodes", "three nodes together")):
            rate = median(what, which, "rate")
            rows.append([
                text, which, count(rate), f"{rate / alone:.2f}", f"{median(what, which, 'p50_ms'):.1f}", f"{median(what, which, 'p99_ms'):.1f}",
                f"{median(what, which, 'server_cpu_us'):.0f}", f"{median(what, which, 'etcd_cpu_us'):.0f}", f"{median(what, which, 'load_cpu_us_per_read'):.0f}",
            ])
    return (
        f"Three members of etcd and three nodes on loopback, {people} people with one credential and one live token each, cached reads as above with three "
        f"threads of wrk and 66 connections, to one server or a third to each of three. Median of {found['rounds']} alternating rounds of {seconds} seconds. "
        "Everything shares the processors of this host, the server alone and the cluster take turns. Every answer was 200. The µs are processor time per "
        "read, of all nodes and of all members together.\n\n"
        + table(["", "read", "reads/s", "of alone", "p50 ms", "p99 ms", "server µs", "etcd µs", "wrk µs"], rows)
    )


def growth(sizes: list[dict], seconds: int) -> str:
    """What millions of credentials and tokens cost."""
    kept = [
        [
            count(size["people"]), count(size["tokens"]), count(size["records"]), f"{size['disk_mib']:,.0f}", f"{size['idle_mib']:.0f}",
            f"{max(size['counting_mib'] or 0, *(size[which]['rss_mib'] for which in ('lookup_alone', 'lookup', 'creds'))):.0f}",
            f"{statistics.median(size['starts']):.3f}", f"{max(size['starts']):.3f}",
            "not waited for" if size["counted"] is None else f"{size['counted']:,.1f}", f"{size['fill_seconds']:,.0f}",
        ]
        for size in sizes
    ]
    asked = []
    for size in sizes:
        for text, which in (("token looked up, one at a time", "lookup_alone"), ("token looked up, 64 connections", "lookup"), ("credential read, 64 connections", "creds")):
            run = size[which]
            asked.append([count(size["tokens"]), text, count(run["rate"]), f"{run['p50_ms']:.2f}", f"{run['p99_ms']:.2f}", f"{run['server_cpu_us_per_read']:.0f}"])
    return (
        "One credential a person, and each login's token with its children, as clients make them. The records are written by the keeper's own logins and "
        "makings of tokens, but gathered in memory and written in order, by the gigabyte; the time of that is the fill's. Start: from the start of the program to its "
        "`READY=1`, after a `kill -9` under load. Count: after each start the server counts what it holds, for its metrics, beside "
        "serving; what is asked below is asked when the server that was started last has done so, and has found all, or, where it is not waited for, meanwhile.\n\n"
        + table(["credentials", "tokens", "records", "disk MiB", "resident MiB, idle", "resident MiB, most", "start s", "slowest start s", "count s", "fill s"], kept)
        + f"\n\nThrough the API over TLS by wrk, {seconds} seconds each; tokens are drawn at random from at most 100,000 spread over all people, most of them children, "
        "for which the server reads their parent too.\n\n"
        + table(["tokens", "", "per second", "p50 ms", "p99 ms", "server µs"], asked)
    )


def telemetry(found: dict[str, list[dict]], seconds: int) -> str:
    """What metrics and spans cost a read."""
    def median(way: str, key: str) -> float:
        return statistics.median(run[key] for run in found[way])

    names = {
        "nothing": "not served, no spans",
        "scraped": "metrics served and scraped every second",
        "sampled": "the same, a tenth of the spans sent (the default share)",
        "traced": "the same, all spans sent",
    }
    rows = []
    for way, name in names.items():
        rows.append([
            name, count(median(way, "rate")), f"{median(way, 'rate') / median('nothing', 'rate'):.2f}", f"{median(way, 'server_cpu_us_per_read'):.1f}",
            f"{median(way, 'server_cpu_us_per_read') / median('nothing', 'server_cpu_us_per_read'):.2f}", count(sum(run.get("dropped", 0) for run in found[way])),
        ])
    return (
        f"Cached reads of 1,000 credentials as above, median of {len(found['nothing'])} alternating rounds of {seconds} seconds, the server started anew for each. "
        "Counting itself has no switch: what is compared is serving the numbers and sending spans. The collector takes spans on the same processors, so that "
        "the rate has its share of the cost too; the µs are the server's alone. Spans that would make a request wait are dropped and counted.\n\n"
        + table(["", "reads/s", "of nothing", "server µs", "of nothing", "spans dropped"], rows)
    )


def write(path: Path, figures: str) -> None:
    """Puts the figures between the markers of the page; the prose around them stays."""
    text = path.read_text()
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    path.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}")
