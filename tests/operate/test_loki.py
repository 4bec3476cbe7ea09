"""Log lines as a collector gets them, and what happens while it is away."""

import base64
import json
from time import time_ns as now_ns

import pytest

from support.collectors import Collector
from support.processes import wait_until
from support.vault import Vault
from test_metrics import scrape, series

PASSWORD = "canary-password-of-loki"


@pytest.fixture
def loki(ending):
    collector = Collector()
    ending(collector)
    return collector


@pytest.fixture
def shipping_server(loki, make_issuer, make_server, entry, tmp_path):
    password = tmp_path / "loki.password"
    password.write_text(PASSWORD + "\n")
    password.chmod(0o600)
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], own={"telemetry": {
        "metrics": {"listen": ["127.0.0.1:0"]},
        "loki": {"url": loki.url, "tenant": "lab", "user": "gridkeep", "password_file": str(password), "labels": {"cluster": "one"}},
    }})
    return server, Vault(server), issuer, password


def lines(loki) -> list[tuple[dict, int, dict]]:
    """Labels, time in nanoseconds and content of every line, by the JSON form of Loki's push API."""
    found = []
    for path, headers, body in list(loki.requests):
        assert path == "/loki/api/v1/push" and headers["content-type"] == "application/json"
        push = json.loads(body)
        assert set(push) == {"streams"}
        for stream in push["streams"]:
            assert set(stream) == {"stream", "values"}
            assert all(isinstance(value, str) for value in stream["stream"].values())
            times = [int(time) for time, _ in stream["values"]]
            assert times == sorted(times)
            found += [(stream["stream"], int(time), json.loads(line)) for time, line in stream["values"]]
    return found


def test_lines_arrive_with_labels_credentials_and_the_request_they_belong_to(loki, shipping_server):
    server, client, _, _ = shipping_server
    token, key = client.login()
    server.stop()
    sent = lines(loki)
    labels, time, line = next(it for it in sent if it[2]["message"].startswith("serving on"))
    assert labels["cluster"] == "one" and labels["job"] == "gridkeep" and labels["level"] == "info" and labels["instance"]
    assert abs(time - now_ns()) < 600e9 and line["target"].startswith("gridkeep")
    assert any(it[2]["message"] == "stopped" for it in sent), "the last lines are sent before the end"
    _, headers, _ = loki.requests[0]
    assert headers["authorization"] == "Basic " + base64.b64encode(f"gridkeep:{PASSWORD}".encode()).decode()
    assert headers["x-scope-orgid"] == "lab"
    everything = "".join(json.dumps(it) for it in sent) + server.log()
    assert PASSWORD not in everything and token not in everything


def test_the_request_id_is_that_of_the_answer_and_the_audit_log(loki, shipping_server):
    server, client, issuer, _ = shipping_server
    token, key = client.login()
    status, body = client.request("GET", f"secret/oauth/creds/dune/{key}:default?minimum_seconds=3599", token)
    assert status == 200
    reads = [line["request"]["id"] for line in server.audit() if line["request"]["path"].startswith("secret/oauth/creds/dune") and line["request"]["operation"] == "read"]
    assert reads and set(reads) == {body["request_id"]}
    # Refreshing fails in a task that may outlive the request, but belongs to it.
    issuer.process.kill()
    assert client.refreshed(token, key)["status"] == 503
    failed = server.audit()[-1]["request"]["id"]
    wait_until(
        lambda: any(it[2].get("request_id") == failed and "not answered" in it[2]["message"] for it in lines(loki)),
        "the failure is told with its request", server.process,
    )
    wait_until(lambda: f"request_id={failed}" in server.log(), "the log has it too", server.process)


def test_a_collector_that_hangs_or_refuses_costs_nobody_anything(loki, shipping_server):
    server, client, _, password = shipping_server
    wait_until(lambda: loki.requests, "the first lines arrive", server.process)
    loki.status = 503
    token, key = client.login()
    server.reload()
    failures = series("gridkeep_telemetry_failures_total", sink="loki")
    wait_until(lambda: scrape(server).get(failures, 0) >= 1, "a push has failed", server.process)
    assert client.read(token, key)[0] == 200
    loki.status = 204
    wait_until(lambda: any("configuration reloaded" in it[2]["message"] for it in lines(loki)), "what failed is sent again", server.process)
    # A batch that is refused for good is dropped, counted, and does not stop the next.
    loki.status = 400
    server.reload()
    refused = series("gridkeep_telemetry_dropped_total", sink="loki", reason="refused")
    wait_until(lambda: scrape(server)[refused] >= 1, "a batch was refused", server.process)
    loki.status = 204
    before = len(loki.requests)
    server.reload()
    wait_until(lambda: len(loki.requests) > before, "the next batch arrives", server.process)
    assert server.log().count("telemetry is not taken") >= 1
    # Credentials are read anew each time.
    password.write_text("another-password")
    server.reload()
    # What was on its way when the file changed comes with the old ones.
    sent_with = lambda: base64.b64decode(loki.requests[-1][1]["authorization"].split()[1])  # noqa: E731
    wait_until(lambda: sent_with() == b"gridkeep:another-password", "lines arrive with the new ones", server.process)
    # One that takes a connection and says nothing.
    loki.silent.set()
    server.reload()
    assert client.read(token, key)[0] == 200
    # It ends in its time all the same; the fixture would say so otherwise.
    server.stop()
