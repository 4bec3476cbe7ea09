"""Robots: credentials below a person's and a group account's name, tokens without end, and use given to others."""

import os

import pytest
from support.clients import Client
from support.issuers import Issuer
from support.house import lookup
from support.servers import Server
from support.tokens import claims

DAY = 86400
ROBOT = "dunepro/managedtokens/host.example.org"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory, module_ending):
    users = [
        {"name": "alice", "password": "alice", "claims": {"wlcg.credkey": "alice", "groups": ["/dune", "/dune/production"]}},
        {"name": "bob", "password": "bob", "claims": {"wlcg.credkey": "bob", "groups": ["/dune"]}},
    ]
    made = Issuer(tmp_path_factory.mktemp("issuer"), config={"users": users})
    module_ending(made)
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority, issuer, module_ending, entry):
    directory = tmp_path_factory.mktemp("robots") / "server"
    directory.mkdir()
    rules = [{"issuer": "dune", "claim": "groups", "value": "/dune/production", "account": "dunepro"}]
    scopes = ["profile", "offline_access", "wlcg", "storage.read:/", "compute.create"]
    made = Server(directory, authority, [entry(issuer, roles=[{"name": "default", "scopes": scopes}])], own={"robots": rules})
    module_ending(made)
    return made.start()


def log_in(server, issuer, kind, directory, person, *words):
    client = Client(kind, directory, server)
    approval = issuer.approve(person)
    outcome = client.run(*words)
    approval.join()
    return client, outcome


def token_of(client):
    return client.vault_token.read_text().strip()


def test_a_robot_below_a_persons_own_name(server, issuer, kind, tmp_path):
    name = f"bob/cron/{kind}"
    client, outcome = log_in(server, issuer, kind, tmp_path, "bob", f"--credkey={name}")
    assert outcome.code == 0, outcome
    assert claims(client.bearer.read_text())["sub"]
    again = client.run(f"--credkey={name}", "--nooidc", "--scopes=compute.create")
    assert again.code == 0, again
    assert claims(client.bearer.read_text())["scope"] == "compute.create"
    for other in ("bob2/cron/x", "alice/cron/x", "bob"):
        refused = client.run(f"--credkey={other}", "--nooidc")
        assert (refused.code == 0) == (other == "bob"), refused


def test_whoever_cares_for_a_group_account_sets_up_a_robot_that_lives_for_ever(server, issuer, kind, tmp_path):
    """An operator of the group logs in once; from then on the robot lives by itself."""
    name = f"{ROBOT}/{kind}"
    client, outcome = log_in(server, issuer, kind, tmp_path / "alice", "alice", f"--credkey={name}")
    assert outcome.code == 0, outcome
    status, made = server.call("POST", f"robot/dune/{name}:default", token_of(client), {"period": "14d", "bound_cidrs": ["127.0.0.0/8"]})
    assert status == 200 and made["auth"]["lease_duration"] == 14 * DAY, made

    # The robot has nothing but a file it cannot write, and no person near.
    home = tmp_path / "robot"
    robot = Client(kind, home, server)
    robot.vault_token.write_text(made["auth"]["client_token"] + "\n")
    os.chmod(robot.vault_token, 0o400)
    fetched = robot.run(f"--credkey={name}", f"--vaulttokeninfile={robot.vault_token}", "--nooidc", terminal=False)
    assert fetched.code == 0, fetched
    assert claims(robot.bearer.read_text())["sub"] and robot.vault_token.stat().st_mode & 0o777 == 0o400
    status, renewed = server.call("POST", "auth/token/renew-self", token_of(robot), {})
    assert status == 200 and renewed["auth"]["lease_duration"] == 14 * DAY
    assert lookup(server, token_of(robot))["period"] == 14 * DAY
    for path in ("secret/oauth/creds/dune/alice:default", f"secret/oauth/creds/dune/{ROBOT}/other:default", "sys/mounts"):
        assert server.call("GET", path, token_of(robot))[0] == 403, path

    # Whoever is not in the group is refused, at the login's end and by API.
    bob, refused = log_in(server, issuer, kind, tmp_path / "bob", "bob", f"--credkey={ROBOT}/{kind}-of-bob")
    assert refused.code != 0, refused
    assert "ermission denied" in refused.err + refused.out, refused
    bob, outcome = log_in(server, issuer, kind, tmp_path / "bob", "bob")
    assert outcome.code == 0, outcome
    for method, path in (("POST", f"robot/dune/{name}:default"), ("GET", f"robot/dune/{name}:default"), ("GET", f"secret/oauth/creds/dune/{name}:default")):
        assert server.call(method, path, token_of(bob), {} if method == "POST" else None)[0] == 403, path

    # Somebody of the group renews it without knowing it, and ends it.
    id = made["data"]["id"]
    status, renewed = server.call("POST", f"robot/dune/{name}:default", token_of(client), {"id": id})
    assert status == 200 and renewed["auth"]["client_token"] == "" and renewed["auth"]["lease_duration"] == 14 * DAY
    assert server.call("DELETE", f"robot/dune/{name}:default?id={id}", token_of(client))[0] == 204
    dead = robot.run(f"--credkey={name}", f"--vaulttokeninfile={robot.vault_token}", "--nooidc", terminal=False)
    assert dead.code == 1, dead


def test_a_person_uses_what_another_gave(server, issuer, kind, tmp_path):
    alice, outcome = log_in(server, issuer, kind, tmp_path / "alice", "alice")
    assert outcome.code == 0, outcome
    bob, outcome = log_in(server, issuer, kind, tmp_path / "bob", "bob")
    assert outcome.code == 0, outcome
    path = "delegation/dune/alice:default"
    assert bob.run("--credkey=alice", "--nooidc").code == 1
    status, given = server.call("POST", path, token_of(alice), {"to": "oidc-dune/bob", "scopes": ["compute.create"], "ttl": "7d"})
    assert status == 200, given
    used = bob.run("--credkey=alice", "--nooidc")
    assert used.code == 0, used
    token = claims(bob.bearer.read_text())
    assert token["scope"] == "compute.create" and token["sub"] == claims(alice.bearer.read_text())["sub"]
    beyond = bob.run("--credkey=alice", "--nooidc", "--scopes=storage.read:/")
    assert beyond.code == 1, beyond
    # The original keeps the reason to itself.
    assert kind == "original" or "beyond what was delegated" in beyond.err + beyond.out, beyond
    assert server.call("DELETE", f"{path}?id={given['data']['id']}", token_of(alice))[0] == 204
    assert bob.run("--credkey=alice", "--nooidc").code == 1
