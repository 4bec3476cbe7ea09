"""Spans as a collector gets them, decoded by the schema of OpenTelemetry; and no secret in anything that is sent anywhere."""

import base64
import re
import urllib.request

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from support.collectors import Collector
from support.processes import PATIENCE, wait_until
from support.vault import Vault
from test_metrics import scraped_address


@pytest.fixture
def collector(ending):
    collector = Collector(status=200)
    ending(collector)
    return collector


def spans(collector) -> list[tuple[dict, Span]]:
    """Every span, with the attributes of what sent it."""
    found = []
    for path, headers, body in list(collector.requests):
        assert path == "/v1/traces" and headers["content-type"] == "application/x-protobuf"
        request = ExportTraceServiceRequest()
        assert request.ParseFromString(body) == len(body)
        for of_resource in request.resource_spans:
            resource = attributes(of_resource.resource)
            found += [(resource, span) for scope in of_resource.scope_spans for span in scope.spans]
    return found


def attributes(thing) -> dict:
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in thing.attributes}


def test_a_request_is_followed_to_the_issuer(collector, make_issuer, make_server, entry, tmp_path):
    token_file = tmp_path / "collector.token"
    token_file.write_text("collector-token\n")
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], own={"telemetry": {
        "metrics": {"listen": []}, "traces": {"url": collector.url, "sample": 1, "token_file": str(token_file)},
    }})
    client = Vault(server)
    token, key = client.login()
    read = client.refreshed(token, key)
    assert read["status"] == 200
    issuer.process.kill()
    assert client.refreshed(token, key)["status"] == 503
    server.stop()
    sent = spans(collector)
    assert collector.requests[0][1]["authorization"] == "Bearer collector-token"
    resource, _ = sent[0]
    assert resource["service.name"] == "gridkeep" and resource["service.version"] and resource["service.instance.id"]
    by_id = {span.span_id: span for _, span in sent}
    assert len(by_id) == len(sent) and all(len(span.trace_id) == 16 and len(span.span_id) == 8 for _, span in sent)
    asked = [span for _, span in sent if span.name == "issuer request"]
    assert all(span.kind == Span.SPAN_KIND_CLIENT for span in asked)

    # request -> refresh of the keeper -> request to the issuer, in one trace.
    refreshed = [span for span in asked if attributes(span)["operation"] == "refresh"]
    assert [attributes(span)["outcome"] for span in refreshed] == ["ok", "unreachable"]
    for span, outcome, status in zip(refreshed, ("renewed", "unreachable"), (200, 503), strict=True):
        keeper = by_id[span.parent_span_id]
        assert keeper.name == "refresh" and attributes(keeper)["issuer"] == "dune" and attributes(keeper)["outcome"] == outcome
        request = by_id[keeper.parent_span_id]
        assert request.name == "secret/oauth/creds/{name}" and request.kind == Span.SPAN_KIND_SERVER and not request.parent_span_id
        assert attributes(request)["status"] == status and attributes(request)["method"] == "GET"
        assert span.trace_id == keeper.trace_id == request.trace_id
        assert request.start_time_unix_nano <= keeper.start_time_unix_nano <= span.start_time_unix_nano < span.end_time_unix_nano
        assert (span.status.code == Status.STATUS_CODE_ERROR) == (outcome == "unreachable")
        assert (request.status.code == Status.STATUS_CODE_ERROR) == (status == 503)
    first = by_id[by_id[refreshed[0].parent_span_id].parent_span_id]
    assert attributes(first)["request_id"] == read["request_id"]

    device = next(span for span in asked if attributes(span)["operation"] == "device")
    assert by_id[device.parent_span_id].name == "auth/oidc-{issuer}/oidc/auth_url"


def test_of_no_trace_none_is_sent_and_a_dead_collector_stops_nothing(collector, make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], own={"telemetry": {"metrics": {"listen": []}, "traces": {"url": collector.url, "sample": 0}}})
    client = Vault(server)
    client.login()
    server.stop()
    assert spans(collector) == []
    dead = make_server([entry(issuer)], name="dead", own={"telemetry": {"metrics": {"listen": []}, "traces": {"url": "http://127.0.0.1:1", "sample": 1}}})
    client = Vault(dead)
    client.login()
    wait_until(lambda: "telemetry is not taken" in dead.log(), "the server says that spans are not taken", dead.process)
    assert client.request("GET", "sys/health")[0] == 200


def test_no_secret_is_in_metrics_spans_or_lines(collector, make_issuer, make_server, entry, ending, tmp_path):
    loki = Collector()
    ending(loki)
    password = tmp_path / "password"
    password.write_text("canary-password-of-a-collector")
    issuer = make_issuer(auto_login="alice", character="iam")
    server = make_server([entry(issuer)], arguments=["--log", "trace"], own={"telemetry": {
        "metrics": {"listen": ["127.0.0.1:0"]},
        "traces": {"url": collector.url, "sample": 1, "user": "me", "password_file": str(password)},
        "loki": {"url": loki.url, "token_file": str(password)},
    }})
    client = Vault(server)
    token, key = client.login()
    status, read = client.read(token, key, minimum=5)
    assert status == 200
    secrets = {
        "vault token": token,
        "access token": read["data"]["access_token"],
        "client secret": issuer.client_secret,
        "operator token": server.operator_token(),
        "credentials of a collector": "canary-password-of-a-collector",
        "a client's refresh token": "canary-refresh-token-of-a-client",
        "a nonce": "n" * 43,
    }
    # Things that go wrong are written about most, and paths are what people paste secrets into.
    client.request("POST", f"secret/oauth/creds/dune/{key}:default", token, {"server": "dune", "refresh_token": secrets["a client's refresh token"]})
    client.request("GET", f"secret/oauth/creds/dune/{token}:default", token)
    client.request("GET", f"{token}/{token}", token)
    client.request("GET", f"auth/oidc-{token}/oidc/poll", token)
    client.request("GET", f"auth/token/lookup-self?token={token}", token)
    issuer.admin("revoke", {"user": "alice"})
    client.refreshed(token, key)
    with urllib.request.urlopen(f"http://{scraped_address(server)}/metrics", timeout=PATIENCE) as answer:
        metrics = answer.read()
    log = server.log().encode()
    server.stop()
    assert spans(collector) and loki.requests
    places = {
        "the metrics": metrics,
        "spans": b"".join(body for _, _, body in collector.requests),
        "lines that were sent": b"".join(body for _, _, body in loki.requests),
        "the log": log,
    }
    jwt = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
    for place, content in places.items():
        assert len(content) > 1000, place
        for what, secret in secrets.items():
            for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="), secret.encode().hex()):
                assert form.encode() not in content, f"{what} is in {place}"
        assert not jwt.search(content), f"a token is in {place}"
        assert b"gkh." not in content, f"a handle is in {place}"
    assert b"alice" not in metrics
