"""Clients of the original and ours against three nodes on one etcd: what one node has begun another goes on with."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clients import Client
from support.etcd import Etcd
from support.house import lookup
from support.issuers import Issuer
from support.kerberos import SPNEGO, Realms, negotiate, proof, refused
from support.servers import Server
from support.tokens import claims

REALM = "LAB.EXAMPLE"
USERS = ("original-alice", "ours-alice")


@pytest.fixture(scope="module")
def realms(tmp_path_factory, module_ending):
    realms = Realms(tmp_path_factory.mktemp("realms"), (REALM,))
    module_ending(realms)
    realms.admin(*[f"addprinc -pw {name} {name}" for name in USERS])
    realms.keytab(realms.directory / "server.keytab", "host/localhost", "HTTP/localhost")
    return realms


@pytest.fixture(scope="module")
def issuer(tmp_path_factory, module_ending):
    people = [{"name": name, "password": name, "claims": {"wlcg.credkey": name}, "default_groups": ["/dune"]} for name in USERS]
    issuer = Issuer(tmp_path_factory.mktemp("issuer"), "issuer", {"users": people})
    module_ending(issuer)
    return issuer


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, authority, realms, issuer, module_ending, entry):
    directory = tmp_path_factory.mktemp("three")
    etcd = Etcd(directory / "etcd")
    module_ending(etcd)
    nodes = []
    for number in range(3):
        place = directory / f"node{number}"
        place.mkdir()
        node = Server(
            place, authority, [{**entry(issuer), "kerbservice": "lab"}],
            own={"store": {"etcd": {"endpoints": [etcd.client]}}},
            extra={"kerberos": [{"name": "lab", "keytab": str(realms.directory / "server.keytab")}]},
        )
        node.config["cluster"]["myname"] = f"node{number}.test"
        node.write_config()
        if nodes:
            shutil.copy(nodes[0].etc / "root.key", node.etc / "root.key")
        module_ending(node)
        nodes.append(node.start(env={"KRB5_CONFIG": str(realms.config)}))
    return nodes


@pytest.fixture
def tickets(tmp_path, realms):
    return lambda principal: realms.tickets(tmp_path / f"cc-{principal}", principal)


def test_every_step_at_another_node(tmp_path, nodes, issuer, tickets, kind):
    """Browser at the first, ticket on a new host at the second, and the vault token of that at the third; then revoked everywhere."""
    user = f"{kind}-alice"
    client = Client(kind, tmp_path, nodes[0])
    outcome = client.log_in_elsewhere(issuer, user, f"--credkey={user}")
    assert outcome.code == 0, outcome

    (tmp_path / "host").mkdir()
    client = Client(kind, tmp_path / "host", nodes[1])
    client.left_out = ["--nossh"]
    outcome = client.run("--nooidc", f"--credkey={user}", terminal=False, env=tickets(user))
    assert outcome.code == 0, outcome
    first = claims(client.bearer.read_text())
    token = client.vault_token.read_text().strip()

    client.server = nodes[2]
    client.bearer.unlink()
    outcome = client.run("--nooidc", "--nokerberos", f"--credkey={user}", terminal=False)
    assert outcome.code == 0, outcome
    assert claims(client.bearer.read_text())["sub"] == first["sub"]
    assert [lookup(node, token)["id"] for node in nodes] == [token] * 3

    assert nodes[2].call("POST", "auth/token/revoke-self", token)[0] == 204
    # At once where it was revoked; the others may take a second, and a client that is refused logs in anew.
    assert nodes[2].call("GET", "auth/token/lookup-self", token)[0] == 403
    client.server = nodes[2]
    outcome = client.run("--nooidc", f"--credkey={user}", terminal=False, env=tickets(user))
    assert outcome.code == 0 and client.vault_token.read_text().strip() != token, outcome


@pytest.mark.parametrize("mechanism", [{}, {"mechanism": SPNEGO}], ids=["krb5", "spnego"])
def test_a_proof_used_at_one_node_is_refused_at_the_others(nodes, tickets, mechanism):
    once = proof(tickets("ours-alice"), **mechanism)
    status, body = negotiate(nodes[0], once)
    assert status == 200 and body["auth"]["client_token"], body
    for node in nodes:
        assert "used before" in refused(negotiate(node, once))


def test_a_proof_at_all_nodes_at_once_is_good_for_one(nodes, tickets):
    environment = tickets("ours-alice")
    with ThreadPoolExecutor(9) as pool:
        for _ in range(3):
            once = proof(environment)
            answers = [future.result() for future in [pool.submit(negotiate, node, once) for node in nodes * 3]]
            assert sum(body["auth"] is not None for _, body in answers) == 1, answers
            assert all(status == 200 for status, _ in answers)


def test_the_nodes_are_listed_as_of_raft(nodes):
    operator = nodes[1].operator_token()
    names = [f"node{number}.test" for number in range(3)]
    status, body = nodes[1].call("GET", "sys/storage/raft/configuration", operator)
    assert status == 200, body
    servers = body["data"]["config"]["servers"]
    assert [server["node_id"] for server in servers] == names, servers
    assert [server["leader"] for server in servers] == [False, True, False], "nodes are equal: who is asked leads"
    assert all(server["voter"] is True and server["protocol_version"] == "3" and server["address"] for server in servers), servers
    status, leader = nodes[1].call("GET", "sys/leader")
    assert status == 200 and leader["leader_address"] == f"https://{servers[1]['address']}", leader
    for method, path in (("POST", "sys/storage/raft/remove-peer"), ("GET", "sys/storage/raft/snapshot")):
        status, body = nodes[0].call(method, path, operator)
        assert status == 405 and ("systemctl stop" in body["errors"][0] or "etcdctl snapshot save" in body["errors"][0]), body
    status, body = nodes[2].call("GET", "sys/ha-status", operator)
    assert status == 200 and body["nodes"] == body["data"]["nodes"] and len(body["nodes"]) == 3, body
