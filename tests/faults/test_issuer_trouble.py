"""The issuer is slow, down, talks nonsense, or answers after the waiter has left. No client hears a refusal."""

from pathlib import Path

import pytest

from support.processes import wait_until
from support.vault import at_once

# What a reader asks for who is not content with an access token that is two seconds old; all of them live for an hour.
NEARLY_ALL = 3599


@pytest.fixture
def world(make_issuer, make_server, entry, vault):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    client = vault(server)
    token, key = client.login()
    return issuer, server, client, token, key


def fault(issuer, **members):
    issuer.admin("faults", {"endpoint": "token", "grant_type": "refresh_token", **members})


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 503},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 403, "body": "<html>captive portal</html>", "content_type": "text/html"},
        {"kind": "garbage"},
        {"kind": "drop"},
    ],
    ids=lambda members: f"{members['kind']}{members.get('status', '')}",
)
def test_trouble_is_passing_and_heals(world, members):
    issuer, _, client, token, key = world
    fault(issuer, **members)
    # Ask for more than any token of this issuer has left once it is two seconds old.
    status, body = wait_until(lambda: not_fresh(client, token, key), "the cached token is not fresh any more")
    assert status == 503, body
    text = body["errors"][0]
    assert "permission denied" not in text and "issuer" in text, text
    status, _ = client.read(token, key, minimum=10)
    assert status == 200, "what is cached and valid is served"
    issuer.admin("faults", method="DELETE")
    wait_until(lambda: client.read(token, key, minimum=NEARLY_ALL)[0] == 200, "the issuer is used again")


def not_fresh(client, token, key):
    status, body = client.read(token, key, minimum=NEARLY_ALL)
    return None if status == 200 else (status, body)


def test_issuer_gone_and_back(world):
    issuer, server, client, token, key = world
    issuer.process.signal(19)  # SIGSTOP: connections are accepted by the kernel and never answered
    try:
        status, body = wait_until(lambda: not_fresh(client, token, key), "a refresh is wanted")
        assert status == 503 and "permission denied" not in body["errors"][0], body
        assert client.request("GET", "auth/token/lookup-self", token)[0] == 200
        assert client.request("GET", "sys/health")[0] == 200
    finally:
        issuer.process.signal(18)  # SIGCONT
    wait_until(lambda: client.read(token, key, minimum=NEARLY_ALL)[0] == 200, "the issuer is used again", server.process)


def test_an_answer_after_the_waiter_left_is_kept(world):
    issuer, _, client, token, key = world
    # Well after the eight seconds that a reader is let wait.
    fault(issuer, kind="delay", delay_answer_ms=12_000, times=1)
    status, body = wait_until(lambda: not_fresh(client, token, key), "a refresh is wanted")
    assert status == 503 and "goes on" in body["errors"][0], body
    wait_until(lambda: client.read(token, key, minimum=NEARLY_ALL)[0] == 200, "the late answer arrived")
    tally = issuer.admin("counters")["grant_types"]["refresh_token"]
    assert tally["undelivered"] == 0, tally


def test_many_readers_of_one_expired_credential_cause_one_refresh(make_issuer, make_server, entry, vault):
    # What comes with the login lives for less than the ten seconds that a server wants at least, what comes after it for an hour.
    issuer = make_issuer(auto_login="alice", access_token_seconds=9)
    client = vault(make_server([entry(issuer)]))
    token, key = client.login()
    issuer.admin("settings", {"access_token_seconds": 3600})
    assert "refresh_token" not in issuer.admin("counters")["grant_types"]
    fault(issuer, kind="delay", delay_ms=1500, times=1)
    statuses = at_once(400, lambda _: client.read(token, key)[0])
    assert set(statuses) == {200}, statuses
    assert issuer.admin("counters")["grant_types"]["refresh_token"]["received"] == 1


def test_definite_refusal_says_why_and_what_to_do(world):
    issuer, _, client, token, key = world
    issuer.admin("revoke", {"user": "alice"})
    status, body = wait_until(lambda: not_fresh(client, token, key), "a refresh is wanted")
    assert status == 400, body
    text = body["errors"][0]
    assert "refresh failed: server rejected request: invalid_grant" in text and "permission denied" not in text, text
    # A new login heals it.
    again, _ = client.login()
    assert client.read(again, key, minimum=1)[0] == 200


@pytest.mark.parametrize("authority_file", ["there", "missing"])
def test_issuer_down_at_start(make_issuer, make_server, entry, vault, tmp_path, authority_file):
    issuer = make_issuer(auto_login="alice")
    described = entry(issuer)
    if authority_file == "there":
        described["ca_file"] = str(tmp_path / "kept.pem")
        (tmp_path / "kept.pem").write_bytes(Path(issuer.ca).read_bytes())
    issuer.stop()
    server = make_server([described])
    client = vault(server)
    status, body = client.request("POST", "auth/oidc-dune/oidc/auth_url", body={"role": "default", "client_nonce": "n", "redirect_uri": ""})
    assert status == 503, body
    assert "permission denied" not in str(body)
    assert client.request("GET", "sys/health")[0] == 200
