"""The warm fetch: PyPI's htgettoken and ours, in turn, against one server that has the access token already."""

import json
import statistics
import subprocess

from support.clients import Client
from support.issuers import Issuer
from support.servers import Server

KINDS = ("original", "ours")


def measure(bench, arguments, environment) -> dict:
    """One run of a program: what it took, as `gridkeep-bench measure` tells."""
    done = subprocess.run(
        [str(bench), "measure", "--", *map(str, arguments)], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    found = json.loads(done.stdout)
    assert found["code"] == 0, done.stderr
    return found


def run(directory, authority, entry, bench, runs: int, started: list) -> dict:
    """Medians per client. Each client's user logs in once; what is measured are runs that find everything there."""
    issuer = Issuer(directory, auto_login="alice", access_token_seconds=86400)
    started.append(issuer)
    (directory / "server").mkdir()
    server = Server(directory / "server", authority, [entry(issuer)])
    started.append(server)
    server.start()
    clients = {}
    for kind in KINDS:
        (directory / kind).mkdir()
        client = clients[kind] = Client(kind, directory / kind, server)
        first = client.run()
        assert first.code == 0, first
    taken = {kind: [] for kind in KINDS}
    # Two runs of each that do not count, for what the machine has to read from its disk.
    for number in range(runs + 2):
        for kind, client in clients.items():
            client.bearer.unlink(missing_ok=True)
            found = measure(bench, client.arguments([], "dune"), client.environment())
            assert client.bearer.exists(), f"{kind} fetched no token"
            if number >= 2:
                taken[kind].append(found)
    assert "refresh_token" not in issuer.admin("counters")["grant_types"], "the server had to refresh: the fetches were not warm"
    medians = {
        kind: {what: statistics.median(run[what] for run in found) for what in ("wall_us", "cpu_us", "max_rss_kib")}
        for kind, found in taken.items()
    }
    return {"runs": runs, "floor_rss_kib": max(run["floor_rss_kib"] for run in taken["ours"]), **medians}
