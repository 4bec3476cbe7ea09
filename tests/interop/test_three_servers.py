"""Clients of the original and ours against three nodes on one etcd: what one node has begun another goes on with."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clients import Client
from support.etcd import Etcd
from support.issuers import Issuer
from support.kerberos import SPNEGO, Realms, negotiate, proof, refused
from support.processes import wait_until
from support.servers import Server, past_later
from support.ssh import SshAgent
from support.ssh import proof as ssh_proof
from support.tokens import claims

LAB, PARTNER = "LAB.EXAMPLE", "PARTNER.EXAMPLE"
USERS = ("alice", "original-alice", "ours-alice", "original-ssh", "ours-ssh", "spender")
SPENT = "nonce time expired or invalid"


def robot(kind):
    """A name below a person's own, as robots have it: user, purpose, host."""
    return f"{kind}-alice/managedtokens/node.lab.example"


@pytest.fixture(scope="module")
def realms(tmp_path_factory, module_ending):
    realms = Realms(tmp_path_factory.mktemp("realms"), (LAB, PARTNER))
    module_ending(realms)
    realms.trust(PARTNER, LAB)
    realms.admin(*[f"addprinc -pw {name} {name}" for name in USERS])
    realms.person("alice", PARTNER)
    realms.keytab(realms.directory / "server.keytab", "host/localhost", "HTTP/localhost")
    for kind in ("original", "ours"):
        realms.keytab(realms.directory / f"{kind}.keytab", robot(kind))
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
    keytab = str(realms.directory / "server.keytab")
    nodes = []
    for number in range(3):
        place = directory / f"node{number}"
        place.mkdir()
        node = Server(
            place, authority, [{**entry(issuer, name=name), "kerbservice": service} for name, service in (("dune", "lab"), ("open", "open"))],
            own={"store": {"etcd": {"endpoints": [etcd.client]}}},
            extra={
                "kerberos": [{"name": "lab", "keytab": keytab}, {"name": "open", "keytab": keytab, "realms": [LAB, PARTNER]}],
                "ssh": {"self-registration": "allowed"},
            },
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
    return lambda principal, keytab=None: realms.tickets(tmp_path / f"cc-{principal.replace('/', '-')}", principal, keytab)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, nodes, issuer):
    """Each alice has logged in once, at the first node and from another host."""
    directory = tmp_path_factory.mktemp("stored")
    for user, name in (("original-alice", "dune"), ("ours-alice", "dune"), ("alice", "open")):
        (directory / user).mkdir()
        outcome = log_in(Client("ours", directory / user, nodes[0]), issuer, user, issuer=name)
        assert outcome.code == 0, outcome


@pytest.fixture
def agent(tmp_path, ending):
    agent = SshAgent(tmp_path / "agent")
    ending(agent)
    return agent


def run(client, *words, **options):
    """Runs a client until no node says "later" any more: one that is late with its heartbeat may."""
    found = []

    def answered():
        found[:] = [client.run(*words, terminal=False, **options)]
        return found[0].code == 0 or not says_later(found[0].out + found[0].err)

    wait_until(answered, "the node serves")
    return found[0]


def says_later(said):
    return "503" in said or "Service Unavailable" in said


def log_in(client, testbed, user, *words, **options):
    """A login on another machine, begun anew until no node says "later" any more."""
    found = []

    def ended():
        client.vault_token.unlink(missing_ok=True)
        try:
            found[:] = [client.log_in_elsewhere(testbed, user, *words, **options)]
        except AssertionError as error:
            # It ended before it had shown where to log in.
            if not says_later(str(error)):
                raise
            return False
        return found[0].code == 0 or not says_later(found[0].out + found[0].err)

    wait_until(ended, "the nodes serve")
    return found[0]


def shown(make, show):
    """What `make` makes, and the answer to showing it: another each time a node says "later", because that one may be spent."""
    found = []

    def answered():
        made = make()
        found[:] = [made, show(made)]
        status, body = found[1]
        assert status != 503 or body["errors"], body
        return status != 503

    wait_until(answered, "the node serves")
    return found


def show_again(node, once):
    """A proof that is spent may be shown to a node until it does not say "later" any more."""
    return past_later(node, "POST", "auth/kerberos-dune_default/login", body=b"", headers={"Authorization": f"Negotiate {once}"})


def assert_one(answers, accepted, declined):
    """One proof at many nodes at once lets one in. A node that is late with its heartbeat says "later", and may have spent the proof."""
    later = [body for status, body in answers if status == 503]
    assert all(body["errors"] for body in later), later
    others = [answer for answer in answers if answer[0] != 503]
    won = sum(accepted(*answer) for answer in others)
    assert won == 1 or (won == 0 and later), answers
    assert all(accepted(*answer) or declined(*answer) for answer in others), answers


def test_every_step_at_another_node(tmp_path, nodes, issuer, tickets, kind):
    """Browser at the first, ticket on a new host at the second, and the vault token of that at the third; then revoked everywhere."""
    user = f"{kind}-alice"
    client = Client(kind, tmp_path, nodes[0])
    outcome = log_in(client, issuer, user, f"--credkey={user}")
    assert outcome.code == 0, outcome

    (tmp_path / "host").mkdir()
    client = Client(kind, tmp_path / "host", nodes[1])
    client.left_out = ["--nossh"]
    outcome = run(client, "--nooidc", f"--credkey={user}", env=tickets(user))
    assert outcome.code == 0, outcome
    first = claims(client.bearer.read_text())
    token = client.vault_token.read_text().strip()

    client.server = nodes[2]
    client.bearer.unlink()
    outcome = run(client, "--nooidc", "--nokerberos", f"--credkey={user}")
    assert outcome.code == 0, outcome
    assert claims(client.bearer.read_text())["sub"] == first["sub"]
    for node in nodes:
        status, body = past_later(node, "GET", "auth/token/lookup-self", token)
        assert status == 200 and body["data"]["id"] == token, body

    assert past_later(nodes[2], "POST", "auth/token/revoke-self", token)[0] == 204
    # At once where it was revoked; the others may take a second, and a client that is refused logs in anew.
    assert past_later(nodes[2], "GET", "auth/token/lookup-self", token)[0] == 403
    client.server = nodes[2]
    outcome = run(client, "--nooidc", f"--credkey={user}", env=tickets(user))
    assert outcome.code == 0 and client.vault_token.read_text().strip() != token, outcome


@pytest.mark.parametrize("mechanism", [{}, {"mechanism": SPNEGO}], ids=["krb5", "spnego"])
def test_a_proof_used_at_one_node_is_refused_at_the_others(nodes, stored, tickets, mechanism):
    environment = tickets("ours-alice")
    once, (status, body) = shown(lambda: proof(environment, **mechanism), lambda once: negotiate(nodes[0], once))
    assert status == 200 and body["auth"]["client_token"], body
    for node in nodes:
        assert "used before" in refused(show_again(node, once))


def test_a_proof_at_all_nodes_at_once_is_good_for_one(nodes, stored, tickets):
    environment = tickets("ours-alice")
    with ThreadPoolExecutor(9) as pool:
        for _ in range(3):
            once = proof(environment)
            answers = [future.result() for future in [pool.submit(negotiate, node, once) for node in nodes * 3]]
            assert_one(answers, lambda status, body: status == 200 and body["auth"] is not None, lambda status, body: status == 200)


def test_another_realm_counts_where_it_is_configured_at_every_node(nodes, stored, tickets):
    environment = tickets(f"alice@{PARTNER}")
    for node in nodes:
        _, answer = shown(lambda: proof(environment), lambda once: negotiate(node, once))
        assert f"realm {PARTNER} is not allowed" in refused(answer)
        _, (status, body) = shown(lambda: proof(environment), lambda once: negotiate(node, once, "kerberos-open_default"))
        assert status == 200 and body["auth"]["metadata"] == {"user": "alice", "domain": PARTNER, "credkey": "alice"}, body


def test_a_robots_keytab_at_every_node(tmp_path, nodes, stored, issuer, realms, tickets, kind):
    """A person logs in for the robot at one node; from then on its keytab does at all of them."""
    name, keytab = robot(kind), realms.directory / f"{kind}.keytab"
    (tmp_path / "keeper").mkdir()
    keeper = Client(kind, tmp_path / "keeper", nodes[1])
    outcome = log_in(keeper, issuer, f"{kind}-alice", f"--credkey={name}")
    assert outcome.code == 0, outcome
    subject = claims(keeper.bearer.read_text())["sub"]
    for number, node in enumerate(nodes):
        (tmp_path / f"host{number}").mkdir()
        client = Client(kind, tmp_path / f"host{number}", node)
        client.left_out = ["--nossh"]
        if kind == "ours":
            words, environment = [f"--kerbkeytab={keytab}"], {"KRB5_CONFIG": str(realms.config), "KRB5CCNAME": "FILE:/nonexistent"}
        else:
            words, environment = [f"--credkey={name}"], tickets(f"{name}@{LAB}", keytab)
        outcome = run(client, "--nooidc", *words, env=environment)
        assert outcome.code == 0, outcome
        assert claims(client.bearer.read_text())["sub"] == subject
        told = past_later(node, "GET", "auth/token/lookup-self", client.vault_token.read_text().strip())[1]["data"]
        assert told["policies"] == ["kerberos-dune_default", "tokenops"]


def test_a_key_registered_at_one_node_logs_in_at_another(tmp_path, nodes, issuer, agent, kind):
    user = f"{kind}-ssh"
    agent.add("ed25519")
    client = Client(kind, tmp_path, nodes[0])
    client.left_out = ["--nokerberos"]
    outcome = log_in(client, issuer, user, "--registerssh", f"--credkey={user}", env=agent.environment)
    assert outcome.code == 0, outcome
    for node in (nodes[2], nodes[1]):
        client.server = node
        client.vault_token.unlink()
        client.bearer.unlink()
        outcome = run(client, "--nooidc", f"--credkey={user}", env=agent.environment)
        assert outcome.code == 0, outcome
        policies = past_later(node, "GET", "auth/token/lookup-self", client.vault_token.read_text().strip())[1]["data"]["policies"]
        assert policies == ["default", "ssh", "tokenops"]


def test_an_ssh_nonce_of_any_node_is_spent_everywhere(nodes, agent):
    """The nonce comes from one node and is shown to another; after that no node takes it."""
    line = agent.add("ed25519")
    status, body = past_later(nodes[0], "POST", "auth/ssh/role/spender", nodes[0].operator_token(), {"public_keys": line + "\n"})
    assert status == 204, body

    def signed(giver):
        return ssh_proof(agent, "spender", line, past_later(giver, "GET", "auth/ssh/nonce")[1]["data"]["nonce"])

    for giver, taker in ((0, 1), (1, 2), (0, 0)):
        once, (status, body) = shown(lambda: signed(nodes[giver]), lambda once: nodes[taker].call("POST", "auth/ssh/login", body=once))
        assert status == 200 and body["auth"]["client_token"], body
        for node in nodes:
            status, body = past_later(node, "POST", "auth/ssh/login", body=once)
            assert (status, body["errors"]) == (400, [SPENT]), body


def test_an_ssh_nonce_at_all_nodes_at_once_is_good_for_one(nodes, agent):
    line = agent.add("ed25519")
    status, body = past_later(nodes[0], "POST", "auth/ssh/role/spender", nodes[0].operator_token(), {"public_keys": line + "\n"})
    assert status == 204, body
    with ThreadPoolExecutor(9) as pool:
        for _ in range(3):
            once = ssh_proof(agent, "spender", line, past_later(nodes[0], "GET", "auth/ssh/nonce")[1]["data"]["nonce"])
            tries = [pool.submit(node.call, "POST", "auth/ssh/login", body=once) for node in nodes * 3]
            answers = [future.result() for future in tries]
            assert_one(answers, lambda status, _: status == 200, lambda status, body: (status, body["errors"]) == (400, [SPENT]))


def test_the_nodes_are_listed_as_of_raft(nodes):
    operator = nodes[1].operator_token()
    names = [f"node{number}.test" for number in range(3)]

    def leads():
        """Nodes are equal: who is asked leads, while it has its store."""
        status, body = past_later(nodes[1], "GET", "sys/storage/raft/configuration", operator)
        assert status == 200, body
        servers = body["data"]["config"]["servers"]
        status, leader = nodes[1].call("GET", "sys/leader")
        assert status == 200, leader
        led = [server["leader"] for server in servers] == [False, True, False] and leader["leader_address"] == f"https://{servers[1]['address']}"
        return led and servers

    servers = wait_until(leads, "the node that is asked leads", nodes[1].process)
    assert [server["node_id"] for server in servers] == names, servers
    assert all(server["voter"] is True and server["protocol_version"] == "3" and server["address"] for server in servers), servers
    for method, path in (("POST", "sys/storage/raft/remove-peer"), ("GET", "sys/storage/raft/snapshot")):
        status, body = past_later(nodes[0], method, path, operator)
        assert status == 405 and ("systemctl stop" in body["errors"][0] or "etcdctl snapshot save" in body["errors"][0]), body
    status, body = past_later(nodes[2], "GET", "sys/ha-status", operator)
    assert status == 200 and body["nodes"] == body["data"]["nodes"] and len(body["nodes"]) == 3, body
