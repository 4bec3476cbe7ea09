"""hvac, the Python client of the Vault API, unmodified."""

import time
from datetime import UTC, datetime

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

    began = time.time()
    made = operator.auth.token.create(policies=["default"], ttl="1h", display_name="my robot", meta={"for": "test"})["auth"]
    assert made["policies"] == ["default"] and made["renewable"] and made["lease_duration"] == 3600
    robot = as_user(server, made["client_token"])
    me = robot.auth.token.lookup_self()["data"]
    assert me["display_name"] == "token-my-robot" and me["meta"] == {"for": "test"}
    # No more of it is gone than the time that has passed, in whole seconds.
    assert isinstance(me["ttl"], int) and 3600 - (time.time() - began) - 1 <= me["ttl"] <= 3600

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


def test_token_roles(world):
    _, server, _ = world
    operator = as_user(server, server.operator_token())
    tokens = operator.auth.token
    tokens.create_or_update_role("nightly", allowed_policies=["default"], orphan=True, renewable=True, path_suffix="x")
    operator.write("auth/token/roles/nightly", token_period="12h", token_bound_cidrs=["127.0.0.0/8"])
    role = tokens.read_role("nightly")["data"]
    assert (role["name"], role["orphan"], role["token_period"], role["allowed_policies"]) == ("nightly", True, 43200, ["default"])
    assert tokens.list_roles()["data"]["keys"] == ["nightly"]
    made = tokens.create(role_name="nightly")["auth"]
    assert made["orphan"] and made["lease_duration"] == 43200 and made["policies"] == ["default"]
    holder = as_user(server, made["client_token"])
    me = holder.auth.token.lookup_self()["data"]
    assert (me["role"], me["period"], me["bound_cidrs"]) == ("nightly", 43200, ["127.0.0.0/8"])
    with pytest.raises(hvac.exceptions.InvalidRequest, match="subset of the role's allowed policies"):
        tokens.create(role_name="nightly", policies=["operator"])
    tokens.delete_role("nightly")
    with pytest.raises(hvac.exceptions.InvalidPath):
        tokens.read_role("nightly")
    with pytest.raises(hvac.exceptions.InvalidRequest, match="original token role"):
        holder.auth.token.renew_self()


def test_orphans(world):
    _, server, _ = world
    operator = as_user(server, server.operator_token())
    parent = operator.auth.token.create_orphan(policies=["default", "tokenops"], ttl="1h")["auth"]
    assert parent["orphan"]
    child = as_user(server, as_user(server, parent["client_token"]).auth.token.create(ttl="30m")["auth"]["client_token"])
    operator.auth.token.revoke_and_orphan_children(parent["client_token"])
    assert not as_user(server, parent["client_token"]).is_authenticated()
    assert child.is_authenticated() and child.auth.token.lookup_self()["data"]["orphan"]
    assert operator.write("auth/token/tidy").status_code == 202


def test_leases(world):
    _, server, user = world
    operator = as_user(server, server.operator_token())
    keys = operator.sys.list_leases("auth/oidc-dune/oidc/poll")["data"]["keys"]
    lease = f"auth/oidc-dune/oidc/poll/{keys[0]}"
    assert operator.sys.read_lease(lease)["data"]["id"] == lease
    with pytest.raises(hvac.exceptions.InvalidRequest, match="does not correspond to a secret"):
        operator.sys.renew_lease(lease, increment=10)
    mine = as_user(server, user.vault_token.read_text().strip())
    with pytest.raises(hvac.exceptions.Forbidden):
        mine.sys.revoke_prefix("auth/oidc-dune")
    assert mine.is_authenticated()
    operator.sys.revoke_prefix("auth/oidc-dune")
    assert not mine.is_authenticated()
    assert operator.sys.revoke_lease(lease).status_code == 204
    operator.sys.revoke_force("auth/oidc-dune")


def test_policies_by_their_present_path(world):
    _, server, _ = world
    sys = as_user(server, server.operator_token()).sys
    rules = {"path": {"sys/mounts": {"capabilities": ["read"]}}}
    sys.create_or_update_acl_policy("mounts", policy=rules)
    assert "mounts" in sys.list_acl_policies()["data"]["keys"]
    assert "sys/mounts" in sys.read_acl_policy("mounts")["data"]["policy"]
    sys.delete_acl_policy("mounts")
    with pytest.raises(hvac.exceptions.InvalidPath):
        sys.read_acl_policy("mounts")


def test_mounts_and_audit(world):
    _, server, _ = world
    sys = as_user(server, server.operator_token()).sys
    assert sys.read_auth_method_tuning("oidc-dune")["data"]["max_lease_ttl"] == 2419200
    assert sys.read_mount_configuration("secret/oauth")["data"]["default_lease_ttl"] == 2419200
    with pytest.raises(hvac.exceptions.VaultError, match="there is no mount \"userpass/\" on this server"):
        sys.enable_auth_method("userpass")
    device = sys.list_enabled_audit_devices()["data"]["file/"]
    assert device["options"]["file_path"] == str(server.directory / "audit.log")
    with pytest.raises(hvac.exceptions.UnexpectedError, match="cannot enable audit device via API.*cluster.auditlog"):
        sys.enable_audit_device("file", options={"file_path": "/tmp/x"})
    with pytest.raises(hvac.exceptions.UnexpectedError, match="cluster.auditlog"):
        sys.disable_audit_device("file")
    with pytest.raises(hvac.exceptions.UnexpectedError, match="mounts cannot be moved by API"):
        sys.move_backend("auth/oidc-dune", "auth/oidc-x")
    # With the hash an operator finds a token's lines.
    token = server.operator_token()
    found = sys.calculate_hash("file", token)["data"]["hash"]
    as_user(server, token).auth.token.lookup_self()
    assert any(line["request"].get("client_token") == found for line in server.audit())


def test_issuers_and_roles_are_read_and_written_in_the_files(world):
    issuer, server, _ = world
    auth = as_user(server, server.operator_token()).auth
    for kind in (auth.oidc, auth.jwt):
        config = kind.read_config(path="oidc-dune")["data"]
        assert config["oidc_discovery_url"] == issuer.url and "oidc_client_secret" not in config
        assert kind.list_roles(path="oidc-dune")["data"]["keys"] == ["default"]
        role = kind.read_role("default", path="oidc-dune")["data"]
        assert (role["role_type"], role["user_claim"], role["callback_mode"]) == ("oidc", "wlcg.credkey", "device")
        with pytest.raises(hvac.exceptions.InvalidPath):
            kind.read_role("nosuch", path="oidc-dune")
        for write in (
            lambda: kind.configure(oidc_discovery_url="https://other.example.org", path="oidc-dune"),
            lambda: kind.create_role("default", user_claim="sub", allowed_redirect_uris=["https://x.example.org/"], role_type="oidc", path="oidc-dune"),
            lambda: kind.delete_role("default", path="oidc-dune"),
        ):
            with pytest.raises(hvac.exceptions.UnexpectedError, match=r"follows from the configuration files.*issuers\[dune\]"):
                write()
    assert auth.oidc.read_config(path="oidc-dune")["data"] == config


def test_nodes_and_keys(world):
    _, server, _ = world
    sys = as_user(server, server.operator_token()).sys
    with pytest.raises(hvac.exceptions.InvalidRequest, match="raft storage is not in use"):
        sys.read_raft_config()
    with pytest.raises(hvac.exceptions.UnexpectedError, match="gridkeep cluster status"):
        sys.join_raft_cluster("https://vault.example.org:8200")
    with pytest.raises(hvac.exceptions.UnexpectedError, match="systemctl stop gridkeep"):
        sys.remove_raft_node("n2")
    with pytest.raises(hvac.exceptions.UnexpectedError, match="copy its data directory"):
        sys.take_raft_snapshot()
    assert sys.step_down().status_code == 204
    status = sys.get_encryption_key_status()["data"]
    assert (status["term"], status["encryptions"]) == (1, 0)
    assert datetime.fromisoformat(status["install_time"]) <= datetime.now(UTC)


def test_what_is_left_out_says_so(world):
    _, server, _ = world
    operator = as_user(server, server.operator_token())
    with pytest.raises(hvac.exceptions.InvalidRequest, match="response wrapping is not supported"):
        operator.sys.wrap({"a": "b"})
    with pytest.raises(hvac.exceptions.InvalidPath, match="unsupported path"):
        operator.sys.unwrap("hvs.nosuch")
    with pytest.raises(hvac.exceptions.InvalidPath, match="no handler for route"):
        operator.secrets.kv.v1.create_or_update_secret("x", {"a": "b"}, method="PUT")
    with pytest.raises(hvac.exceptions.InvalidRequest, match="response wrapping is not supported"):
        operator.auth.token.create(wrap_ttl="60s")
    with pytest.raises(hvac.exceptions.VaultError, match="not supported"):
        operator.auth.token.create(type="batch")


def test_delegation_is_reached_with_plain_calls(world):
    _, server, user = world
    mine = as_user(server, user.vault_token.read_text().strip())
    given = mine.write("delegation/dune/alice:default", ttl="2d")
    other = as_user(server, given["auth"]["client_token"])
    assert other.read("secret/oauth/creds/dune/alice:default")["data"]["access_token"]
    with pytest.raises(hvac.exceptions.Forbidden):
        other.delete("secret/oauth/creds/dune/alice:default")
    listed = mine.read("delegation/dune/alice:default")["data"]["delegations"]
    assert [one["id"] for one in listed] == [given["data"]["id"]]
