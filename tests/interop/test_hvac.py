"""hvac, the Python client of the Vault API, unmodified."""

import hvac
import hvac.exceptions
import pytest


@pytest.fixture
def world(make_issuer, make_server, make_client, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    client = make_client(server, kind="ours")
    assert client.run().code == 0
    return issuer, server, client


def as_user(server, token):
    return hvac.Client(url=server.url, token=token, verify=str(server.authority.path))


@pytest.fixture
def kind():
    return "ours"


def test_health_seal_status_and_leader_need_no_token(world):
    _, server, _ = world
    client = as_user(server, None)
    assert client.sys.read_health_status(method="GET")["sealed"] is False
    assert client.sys.read_health_status().status_code == 200
    assert client.sys.is_initialized() and not client.sys.is_sealed()
    status = client.sys.read_seal_status()
    assert (status["t"], status["n"], status["progress"]) == (1, 1, 0)
    assert client.sys.read_leader_status()["ha_enabled"] is False


def test_credentials_are_read_and_deleted(world):
    issuer, server, user = world
    client = as_user(server, user.vault_token.read_text().strip())
    assert client.is_authenticated()
    answer = client.read("secret/oauth/creds/dune/alice:default")
    assert answer["data"]["server"] == "dune" and answer["data"]["type"] == "Bearer"
    assert answer["data"]["access_token"] == user.bearer.read_text().strip()
    listed = client.list("secret/oauth/creds/dune")
    assert listed["data"]["keys"] == ["alice:default"]
    with pytest.raises(hvac.exceptions.Forbidden):
        client.read("secret/oauth/creds/dune/bob:default")
    client.delete("secret/oauth/creds/dune/alice:default")
    assert client.read("secret/oauth/creds/dune/alice:default") is None


def test_tokens_are_made_looked_up_renewed_and_revoked(world):
    _, server, user = world
    operator = as_user(server, server.operator_token())
    assert operator.lookup_token()["data"]["policies"] == ["operator"]

    made = operator.auth.token.create(policies=["default"], ttl="1h", display_name="my robot", meta={"for": "test"})["auth"]
    assert made["policies"] == ["default"] and made["renewable"] and made["lease_duration"] == 3600
    robot = as_user(server, made["client_token"])
    me = robot.auth.token.lookup_self()["data"]
    assert me["display_name"] == "token-my-robot" and me["meta"] == {"for": "test"}
    assert isinstance(me["ttl"], int) and 3590 <= me["ttl"] <= 3600

    by_accessor = operator.auth.token.lookup_accessor(made["accessor"])["data"]
    assert by_accessor["id"] == "" and by_accessor["accessor"] == made["accessor"]
    assert made["accessor"] in operator.auth.token.list_accessors()["data"]["keys"]

    assert robot.auth.token.renew_self(increment="2h")["auth"]["lease_duration"] == 7200
    assert operator.auth.token.renew_accessor(made["accessor"], increment="3h")["auth"]["lease_duration"] == 10800
    assert operator.auth.token.renew(made["client_token"], increment="4h")["auth"]["lease_duration"] == 14400

    periodic = operator.auth.token.create(policies=["default"], period="168h", no_parent=True)["auth"]
    again = as_user(server, periodic["client_token"]).auth.token.renew_self()["auth"]
    assert again["lease_duration"] == 604800

    operator.auth.token.revoke_accessor(made["accessor"])
    assert not robot.is_authenticated()
    with pytest.raises(hvac.exceptions.InvalidRequest, match="invalid accessor"):
        operator.auth.token.lookup_accessor(made["accessor"])

    mine = as_user(server, periodic["client_token"])
    mine.auth.token.revoke_self()
    assert not mine.is_authenticated()
    operator.auth.token.revoke(operator.auth.token.create(ttl="1m")["auth"]["client_token"])


def test_children_die_with_their_parent_and_may_not_widen(world):
    _, server, user = world
    client = as_user(server, user.vault_token.read_text().strip())
    child = client.auth.token.create(ttl="1h")["auth"]["client_token"]
    grandchild = as_user(server, child).auth.token.create(ttl="1h")["auth"]["client_token"]
    with pytest.raises(hvac.exceptions.InvalidRequest, match="child policies must be subset of parent"):
        client.auth.token.create(policies=["operator"])
    with pytest.raises(hvac.exceptions.InvalidRequest, match="orphan"):
        client.auth.token.create(no_parent=True)
    assert as_user(server, grandchild).is_authenticated()
    as_user(server, child).auth.token.revoke_self()
    assert not as_user(server, grandchild).is_authenticated()
    assert client.is_authenticated()


def test_policies_mounts_and_capabilities(world):
    _, server, user = world
    operator = as_user(server, server.operator_token())
    operator.sys.create_or_update_policy("robots", 'path "secret/oauth/creds/dune/alice:default" { capabilities = ["read"] }')
    assert {"default", "root", "robots", "tokenops", "oidc-dune_default"} <= set(operator.sys.list_policies()["data"]["policies"])
    assert "read" in operator.sys.read_policy("robots")["data"]["rules"]
    robot = as_user(server, operator.auth.token.create(policies=["robots"], no_default_policy=True)["auth"]["client_token"])
    assert robot.read("secret/oauth/creds/dune/alice:default")["data"]["access_token"]
    with pytest.raises(hvac.exceptions.Forbidden):
        robot.delete("secret/oauth/creds/dune/alice:default")
    operator.sys.delete_policy("robots")
    with pytest.raises(hvac.exceptions.Forbidden):
        robot.read("secret/oauth/creds/dune/alice:default")
    assert "oidc-dune/" in operator.sys.list_auth_methods()["data"]
    assert operator.sys.list_mounted_secrets_engines()["data"]["secret/oauth/"]["type"] == "oauth"
    mine = user.vault_token.read_text().strip()
    told = operator.sys.get_capabilities(["secret/oauth/creds/dune/alice:default", "sys/policies/acl/x"], token=mine)["data"]
    assert told["secret/oauth/creds/dune/alice:default"] == ["delete", "list", "read", "update"]
    assert told["sys/policies/acl/x"] == ["deny"]
    with pytest.raises(hvac.exceptions.Forbidden):
        operator.read("secret/oauth/creds/dune/alice:default")


def test_rate_limits_are_read_written_and_met(world):
    _, server, user = world
    server.config["ratelimits"] = [
        {"name": "everything", "rate": 600, "interval": "5m", "block_interval": "2m"},
        {"name": "logins", "path": "auth/oidc-dune", "rate": 2, "interval": "1h"},
    ]
    server.reload()
    operator = as_user(server, server.operator_token())
    assert operator.sys.list_quotas()["data"]["keys"] == ["everything", "logins"]
    read = operator.sys.read_quota("everything")["data"]
    assert (read["type"], read["rate"], read["interval"], read["block_interval"], read["path"]) == ("rate-limit", 600, 300, 120, "")
    operator.sys.create_or_update_quota("reads", path="secret/oauth/creds/*", rate=2, interval="1h")
    with pytest.raises(hvac.exceptions.UnexpectedError, match=r"change ratelimits\[everything\]"):
        operator.sys.delete_quota("everything")
    alice = as_user(server, user.vault_token.read_text().strip())
    for _ in range(2):
        assert alice.read("secret/oauth/creds/dune/alice:default")
    with pytest.raises(hvac.exceptions.RateLimitExceeded, match="rate limit quota exceeded"):
        alice.read("secret/oauth/creds/dune/alice:default")
    server.stop()
    server.start()
    operator = as_user(server, server.operator_token())
    assert operator.sys.list_quotas()["data"]["keys"] == ["everything", "logins", "reads"]
    operator.sys.delete_quota("reads")
    assert operator.sys.list_quotas()["data"]["keys"] == ["everything", "logins"]

    # The stock client meets the limit of the login, and says what it was told.
    user.vault_token.unlink()
    for code in (0, 1):
        done = user.run("--nokerberos", "--nossh", "--credkey", "nobody")
    assert done.code != 0 and "rate limit quota exceeded" in done.err, done
