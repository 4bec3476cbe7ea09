"""Metrics as they are scraped, dashboards and alert rules against a Prometheus that scraped a server."""

import json
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest

from support.collectors import Collector, Prometheus
from support.etcd import Etcd
from support.processes import GRIDKEEP, PATIENCE, wait_until
from support.servers import past_later
from support.vault import Vault

DIST = Path(__file__).resolve().parents[2] / "dist"
DOCS = DIST.parent / "docs"
LISTENING = {"telemetry": {"metrics": {"listen": ["127.0.0.1:0"]}}}


def scraped_address(server) -> str:
    found = wait_until(lambda: re.findall(r"metrics on http://([\d.:]+)/metrics", server.log()), "the server tells where its metrics are", server.process)
    return found[-1]


def scrape(server) -> dict[str, float]:
    """Every series with its value."""
    with urllib.request.urlopen(f"http://{scraped_address(server)}/metrics", timeout=PATIENCE) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


def series(name: str, **labels) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


@pytest.fixture
def scraped_world(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], own=LISTENING)
    client = Vault(server)
    return issuer, server, client


def test_a_login_shows_in_the_metrics_and_the_person_does_not(scraped_world):
    issuer, server, client = scraped_world
    before = scrape(server)
    for step in ("started", "polled", "completed", "denied", "failed", "expired"):
        assert before[series("gridkeep_logins_total", issuer="dune", method="device", step=step)] == 0, step
    assert before["gridkeep_clock_doubtful"] in (0, 1)
    assert before[series("gridkeep_audit_failures_total", line="request")] == 0
    token, key = client.login()
    assert client.refreshed(token, key)["status"] == 200
    # Counted one kind after the other: a count that was under way has seen the grant alone.
    counted = [series("gridkeep_credentials", issuer="dune"), series("gridkeep_grants", issuer="dune", state="live")]
    after = wait_until(lambda: [(now := scrape(server)).get(each) for each in counted] == [1, 1] and now, "both were counted", server.process)
    for step, count in (("started", 1), ("polled", 1), ("completed", 1), ("denied", 0), ("failed", 0), ("expired", 0)):
        assert after[series("gridkeep_logins_total", issuer="dune", method="device", step=step)] == count, step
    assert after[series("gridkeep_http_requests_total", route="secret/oauth/creds/{name}", method="GET", status="200")] >= 2
    assert after[series("gridkeep_http_request_duration_seconds_count", route="secret/oauth/creds/{name}", method="GET")] >= 2
    assert after[series("gridkeep_refreshes_total", issuer="dune", outcome="renewed")] == 1
    assert after[series("gridkeep_issuer_requests_total", issuer="dune", operation="refresh", outcome="ok")] == 1
    assert after[series("gridkeep_issuer_request_duration_seconds_count", issuer="dune", operation="device")] == 1
    assert after[series("gridkeep_issuer_breaker_state", issuer="dune")] == 0
    assert after[series("gridkeep_credentials", issuer="dune")] == 1
    assert after["gridkeep_tokens_live"] >= 1
    month = 30 * 86400
    assert month - 600 < after[series("gridkeep_oldest_grant_life_seconds", issuer="dune")] <= month
    assert after[series("gridkeep_store_operations_total", operation="commit", outcome="ok")] > 3
    assert after["gridkeep_store_entries"] > 3
    expected = server.authority.directory / "server-server.pem"
    end = subprocess.run(["openssl", "x509", "-noout", "-enddate", "-in", expected], capture_output=True, text=True, check=True).stdout
    end = subprocess.run(["date", "-d", end.strip().split("=", 1)[1], "+%s"], capture_output=True, text=True, check=True).stdout
    assert after["gridkeep_certificate_expiry_timestamp_seconds"] == int(end)
    assert not [name for name in after if "alice" in name or token in name], "no label names a person or holds a secret"


def test_an_issuer_may_keep_refresh_tokens_for_another_time(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([{**entry(issuer), "refresh_token_life": "240h"}], own=LISTENING)
    Vault(server).login()
    life = series("gridkeep_oldest_grant_life_seconds", issuer="dune")
    after = wait_until(lambda: (now := scrape(server)).get(life) and now, "the grant was counted", server.process)
    assert 240 * 3600 - 600 < after[life] <= 240 * 3600


def test_what_clients_send_does_not_become_labels(scraped_world):
    _, server, client = scraped_world
    client.request("GET", "sys/health")
    known = len(scrape(server))
    for number in range(40):
        for path in (f"made/up/{number}", f"secret/oauth/creds/dune/nobody{number}:default", f"auth/oidc-x{number}/oidc/poll", f"sys/policies/acl/{number}"):
            client.request("GET", path, f"s.guess{number}")
    for method in ("BREW", "OPTIONS", "X1", "X2"):
        client.request(method, "sys/health")
    after = scrape(server)
    fresh = [name for name in after if "made" in name or "nobody" in name or "oidc-x" in name or "BREW" in name or "X1" in name]
    assert not fresh, fresh
    assert len(after) - known < 120, "series are bounded whatever is asked"


def test_sys_metrics_needs_a_token_that_may(world):
    _, server, client, token, _ = world
    assert client.request("GET", "sys/metrics?format=prometheus")[0] == 403
    assert client.request("GET", "sys/metrics?format=prometheus", token)[0] == 403
    operator = server.operator_token()
    request = urllib.request.Request(f"{server.url}/v1/sys/metrics?format=prometheus", headers={"Authorization": f"Bearer {operator}"})
    with urllib.request.urlopen(request, timeout=PATIENCE, context=client.context) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    assert '\ngridkeep_logins_total{issuer="dune",method="device",step="completed"} 1\n' in text
    status, told = client.request("GET", "sys/metrics", operator)
    assert status == 200
    found = [counter for counter in told["Counters"] if counter["Name"] == "gridkeep_logins_total" and counter["Labels"]["step"] == "completed"]
    assert found == [{"Name": "gridkeep_logins_total", "Count": 1.0, "Labels": {"issuer": "dune", "method": "device", "step": "completed"}}]
    assert any(gauge["Name"] == "gridkeep_store_bytes" and gauge["Value"] > 0 for gauge in told["Gauges"])
    assert any(sample["Name"] == "gridkeep_http_request_duration_seconds" and sample["Count"] > 0 for sample in told["Samples"])
    status, refused = client.request("GET", "sys/metrics?format=xml", operator)
    assert status == 400 and "prometheus" in refused["errors"][0]
    assert client.request("POST", "sys/metrics", operator, {})[0] == 405


def test_an_issuer_that_is_down_and_a_dead_grant_show(scraped_world):
    issuer, server, client = scraped_world
    token, key = client.login()
    issuer.admin("revoke", {"user": "alice"})
    assert client.refreshed(token, key)["status"] != 200
    dead = series("gridkeep_refreshes_total", issuer="dune", outcome="dead")
    assert scrape(server)[dead] == 1
    wait_until(lambda: scrape(server).get(series("gridkeep_grants", issuer="dune", state="dead")) == 1, "the dead grant was counted", server.process)
    issuer.process.kill()
    for _ in range(8):
        client.request("POST", "auth/oidc-dune/oidc/auth_url", body={"role": "default", "client_nonce": "n" * 43, "redirect_uri": ""})
    after = scrape(server)
    assert after[series("gridkeep_issuer_breaker_state", issuer="dune")] >= 1
    assert after[series("gridkeep_issuer_consecutive_failures", issuer="dune")] >= 5
    assert after[series("gridkeep_issuer_requests_total", issuer="dune", operation="device", outcome="unreachable")] >= 5
    assert after[series("gridkeep_issuer_requests_total", issuer="dune", operation="device", outcome="held_back")] >= 1


def test_a_person_who_denies_is_counted_as_such(make_issuer, make_server, entry):
    issuer = make_issuer()
    server = make_server([entry(issuer)], own=LISTENING)
    client = Vault(server)
    nonce = "n" * 43
    status, started = client.request("POST", "auth/oidc-dune/oidc/auth_url", body={"role": "default", "client_nonce": nonce, "redirect_uri": ""})
    assert status == 200, started
    issuer.admin("deny", {"wait_ms": 30000})
    poll = {"state": started["data"]["state"], "client_nonce": nonce}

    def ended():
        status, body = client.request("POST", "auth/oidc-dune/oidc/poll", body=poll)
        return status != 200 and body["errors"] != ["authorization_pending"] and body["errors"]

    wait_until(ended, "the login has ended", server.process)
    after = scrape(server)
    assert after[series("gridkeep_logins_total", issuer="dune", method="device", step="denied")] == 1
    assert after[series("gridkeep_logins_total", issuer="dune", method="device", step="completed")] == 0


def test_an_issuer_that_was_taken_out_and_a_reload_that_failed(scraped_world):
    _, server, _ = scraped_world
    assert scrape(server)["gridkeep_configuration_reload_failed"] == 0
    good = server.config["issuers"]
    server.config["issuers"] = "nonsense"
    server.reload()
    assert scrape(server)["gridkeep_configuration_reload_failed"] == 1
    server.config["issuers"] = good
    server.reload()
    assert scrape(server)["gridkeep_configuration_reload_failed"] == 0


def test_a_taken_port_of_the_operators_choice_is_said_and_refuses_the_start(make_issuer, make_server, entry):
    issuer = make_issuer()
    first = make_server([entry(issuer)], own=LISTENING)
    second = make_server([entry(issuer)], name="second", start=False, own={"telemetry": {"metrics": {"listen": [scraped_address(first)]}}})
    done = subprocess.run([GRIDKEEP, "server", "--config", second.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "metrics cannot be served on" in done.stderr and "gridkeep.telemetry.metrics.listen" in done.stderr


def expressions() -> list[tuple[str, str]]:
    """Every query of the dashboards and alert rules, with where it stands."""
    found = []
    for path in sorted((DIST / "grafana").glob("*.json")):
        dashboard = json.loads(path.read_text())
        panels = [inner for panel in dashboard["panels"] for inner in [panel, *panel.get("panels", [])]]
        for panel in panels:
            for target in panel.get("targets", []):
                found.append((f"{path.name}: {panel['title']}", target["expr"]))
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                found.append((f"{path.name}: ${variable['name']}", variable["query"]["query"]))
    assert len(found) > 40
    return found


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:gridkeep|process)_[a-z_]+", expression))


def filled_in(expression: str) -> str:
    for name, value in (("$job", "gridkeep"), ("$instance", ".*"), ("$issuer", ".*"), ("$__rate_interval", "1m"), ("$__range", "1h")):
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


# What depends on where the store is.
OF_DIRECTORY = {"gridkeep_store_entries"}
OF_ETCD = {"gridkeep_store_limit_bytes"}


@pytest.fixture(params=["directory", "etcd"])
def observed_world(request, make_issuer, make_server, entry, tmp_path, ending):
    """A server that sends elsewhere all it can, its client, and the metrics that it does not have."""
    issuer = make_issuer(auto_login="alice")
    collector = Collector()
    ending(collector)
    own = {"telemetry": {**LISTENING["telemetry"], "loki": {"url": collector.url}, "traces": {"url": collector.url}}}
    if request.param == "etcd":
        etcd = Etcd(tmp_path / "etcd")
        ending(etcd)
        own["store"] = {"etcd": {"endpoints": etcd.clients}}
    server = make_server([entry(issuer)], own=own)
    return server, Vault(server), OF_DIRECTORY if request.param == "etcd" else OF_ETCD


def test_dashboards_alerts_and_documents_fit_what_a_server_says(observed_world, tmp_path, ending):
    server, client, absent = observed_world
    token, key = client.login()
    assert client.refreshed(token, key)["status"] == 200
    counted = series("gridkeep_grants", issuer="dune", state="live")
    wait_until(lambda: scrape(server).get(counted) == 1, "the grant was counted", server.process)
    if absent is OF_DIRECTORY:
        wait_until(lambda: "gridkeep_store_limit_bytes" in scrape(server), "etcd was looked at", server.process)
    exported = {re.sub(r"_(bucket|sum|count)$", "", name.split("{")[0]) for name in scrape(server)}
    told = section("Metrics").split("| metric |")[1]
    documented = {name for row in told.splitlines() for name in metrics_of(row.split("|")[1] if row.startswith("|") else "")}
    assert exported == documented - absent, "the table of docs/operate.md names each metric, and no other"
    rules = DIST / "prometheus" / "alerts.yml"
    prometheus = Prometheus(tmp_path / "prometheus", scraped_address(server), rules)
    ending(prometheus)
    wait_until(lambda: [it for it in prometheus.query("gridkeep_oldest_grant_life_seconds") if it], "a scrape has come in", prometheus.process)
    # A rate takes two of them.
    wait_until(lambda: prometheus.query('rate(gridkeep_http_requests_total[1m])'), "a second scrape has come in", prometheus.process)
    known = set(prometheus.get("label/__name__/values"))
    for place, expression in expressions():
        if metrics_of(expression) & absent:
            continue
        missing = metrics_of(expression) - known
        assert not missing, f"{place} asks for metrics that no server has: {missing}"
        values = re.fullmatch(r"label_values\((.+), (\w+)\)", expression)
        if values:
            assert prometheus.get(f"label/{values[2]}/values", **{"match[]": filled_in(values[1])}), place
        else:
            # A scrape that comes late ends all series until the next.
            wait_until(lambda: prometheus.query(filled_in(expression)), f"{place} finds something: {expression}", prometheus.process)

    def evaluated():
        groups = prometheus.get("rules")["groups"]
        alerts = [rule for group in groups for rule in group["rules"]]
        return alerts and all(rule["health"] == "ok" for rule in alerts) and alerts

    alerts = wait_until(evaluated, "all alert rules were evaluated", prometheus.process)
    for alert in alerts:
        missing = metrics_of(alert["query"]) - known - absent
        assert not missing, f"{alert['name']} asks for metrics that no server has: {missing}"
        assert alert["labels"]["severity"] in ("warning", "critical") and alert["annotations"]["summary"] and alert["annotations"]["description"]

    def raised():
        return [alert["name"] for alert in evaluated() or [] if alert["state"] != "inactive" and alert["name"] != "GridkeepClockDoubtful"]

    # One late scrape is no outage, and does not last.
    wait_until(lambda: evaluated() and not raised(), f"a healthy server raises no alerts, as it did: {raised()}", prometheus.process)


def section(title: str) -> str:
    """A chapter of docs/operate.md."""
    text = (DOCS / "operate.md").read_text()
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_each_alert_is_in_the_runbook():
    told = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", section("Alerts and dashboards"), re.M)
    assert told == re.findall(r"- alert: (\w+)", (DIST / "prometheus" / "alerts.yml").read_text()), "in this order"


def test_a_certificate_that_was_replaced_shows_after_a_reload(scraped_world):
    _, server, _ = scraped_world
    end = "gridkeep_certificate_expiry_timestamp_seconds"
    before = scrape(server)[end]
    certificate, key = server.authority.issue("renewed", days=3)
    for source, what in ((certificate, "certificate"), (key, "key")):
        Path(server.config["gridkeep"]["tls"][what]).write_bytes(Path(source).read_bytes())
    server.reload()
    after = scrape(server)[end]
    told = subprocess.run(["openssl", "x509", "-noout", "-enddate", "-in", certificate], capture_output=True, text=True, check=True).stdout
    expected = subprocess.run(["date", "-d", told.strip().split("=", 1)[1], "+%s"], capture_output=True, text=True, check=True).stdout
    assert after == int(expected) != before


def beginnings(server) -> int:
    """How often it began to be scraped: again each time that it has begun anew."""
    return server.log().count("metrics on http://")


def test_a_sealed_server_says_so_where_it_is_scraped(make_issuer, make_server, entry):
    server = make_server([entry(make_issuer())], own={**LISTENING, "seal": {"shamir": True}})
    sealed = scrape(server)
    assert (sealed["gridkeep_sealed"], sealed["gridkeep_serves"]) == (1, 0)
    assert sealed["gridkeep_certificate_expiry_timestamp_seconds"] > 0 and "gridkeep_store_bytes" not in sealed
    assert server.call("GET", "sys/metrics")[0] == 503
    status, made = server.call("PUT", "sys/init", body={"secret_shares": 1, "secret_threshold": 1})
    assert status == 200, made
    wait_until(lambda: beginnings(server) == 2, "it has begun anew", server.process)
    wait_until(lambda: scrape(server)["gridkeep_sealed"] == 1, "it has got as far as to know that it is sealed", server.process)
    assert server.call("PUT", "sys/unseal", body={"key": made["keys"][0]})[0] == 200
    opened = wait_until(lambda: (now := scrape(server))["gridkeep_serves"] == 1 and now, "it is open", server.process)
    assert opened["gridkeep_sealed"] == 0 and opened["gridkeep_store_bytes"] > 0
    assert server.call("PUT", "sys/seal", made["root_token"])[0] == 204
    wait_until(lambda: beginnings(server) == 3, "it has begun anew", server.process)
    sealed = wait_until(lambda: (now := scrape(server))["gridkeep_sealed"] == 1 and now, "it says that it is sealed", server.process)
    assert sealed["gridkeep_serves"] == 0


def test_nodes_without_their_store_are_scraped_and_show_nobody_elses_numbers(make_issuer, make_server, entry, tmp_path, ending):
    etcd = Etcd(tmp_path / "etcd")
    ending(etcd)
    issuer = make_issuer(auto_login="alice")
    one, two = (
        make_server(
            [entry(issuer)], name=name, start=False, own={**LISTENING, "store": {"etcd": {"endpoints": etcd.clients}}},
            extra={"cluster": {"name": "localhost", "myname": f"{name}.test", "auditlog": str(tmp_path / name / "audit.log")}},
        )
        for name in ("one", "two")
    )
    one.start()
    (two.etc / "root.key").write_bytes((one.etc / "root.key").read_bytes())
    (two.etc / "root.key").chmod(0o600)
    two.start()
    operator = one.operator_token()
    for server in (one, two):
        nodes = series("gridkeep_cluster_nodes", state="live")
        wait_until(lambda: scrape(server)[nodes] == 2 and scrape(server)["gridkeep_serves"] == 1, "the nodes know each other", server.process)
        wait_until((server.directory / "data" / "peers.sealed").exists, "it remembers the other", server.process)
        assert past_later(server, "GET", "sys/metrics", operator)[0] == 200
    one.stop()
    stopped = series("gridkeep_cluster_nodes", state="stopped")
    wait_until(lambda: scrape(two)[stopped] == 1, "the other has said goodbye", two.process)
    etcd.stop()
    one.start()
    assert "standby on" in one.log()
    for server in (one, two):
        wait_until(lambda: scrape(server)["gridkeep_serves"] == 0, "it passes requests on", server.process)
        assert scrape(server)["gridkeep_sealed"] == 0
        status, body = server.call("GET", "sys/metrics", operator)
        assert status == 503 and "metrics.listen" in body["errors"][0], body


def test_alert_rules_fire_when_they_should():
    rules = Path(__file__).with_name("alerts_test.yml")
    done = subprocess.run(["promtool", "check", "rules", DIST / "prometheus" / "alerts.yml"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["promtool", "test", "rules", rules], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r'alertname="(\w+)"', rules.read_text()))
    defined = set(re.findall(r"- alert: (\w+)", (DIST / "prometheus" / "alerts.yml").read_text()))
    assert tested == defined, "every rule is shown to fire"
