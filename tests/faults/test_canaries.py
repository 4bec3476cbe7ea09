"""The canary test of `test_secrets.py` for the other ways to log in, for robots, and for a store in etcd: no secret is found anywhere."""

import re
import subprocess

import pytest
from support.canaries import assert_hidden, everything
from support.etcd import Etcd
from support.house import new_token
from support.kerberos import Realms, negotiate, proof
from support.servers import past_later
from support.ssh import SshAgent
from support.ssh import proof as ssh_proof
from support.vault import Vault

LAB = "LAB.EXAMPLE"


def keys_of(keytab, environment) -> dict[str, bytes]:
    """The keys in a keytab."""
    shown = subprocess.run(["klist", "-k", "-K", str(keytab)], env=environment, capture_output=True, text=True, check=True).stdout
    return {f"key {number} of {keytab.name}": bytes.fromhex(key) for number, key in enumerate(re.findall(r"\(0x([0-9a-f]+)\)", shown))}


def log_in(server, issuer, user):
    """A device login that this user approves."""
    approval = issuer.approve(user)
    found = Vault(server).login()
    approval.join()
    return found


@pytest.mark.parametrize("style", ["human", "json"])
def test_no_secret_of_other_proofs_and_of_robots_is_found(tmp_path, ending, make_issuer, make_server, make_client, entry, style):
    people = [{"name": name, "password": name, "claims": {"wlcg.credkey": name, "groups": [f"/dune/{name}"]}} for name in ("alice", "bob")]
    rules = [{"issuer": "dune", "claim": "groups", "value": "/dune/alice", "account": "dunepro"}]
    issuer = make_issuer(config={"users": people})
    realms = Realms(tmp_path / "realms", (LAB,))
    ending(realms)
    realms.person("alice")
    keytabs = [realms.keytab(tmp_path / "server.keytab", "host/localhost"), realms.keytab(tmp_path / "robot.keytab", "alice/cron/node")]
    # Few writes to a snapshot, so that there are some.
    etcd = Etcd(tmp_path / "etcd", "--snapshot-count", "20")
    ending(etcd)
    agent = SshAgent(tmp_path / "agent")
    ending(agent)
    server = make_server(
        [{**entry(issuer), "kerbservice": "lab"}], start=False, own={"store": {"etcd": {"endpoints": [etcd.client]}}, "robots": rules},
        extra={"kerberos": [{"name": "lab", "keytab": str(keytabs[0])}], "ssh": {"self-registration": "allowed"}},
        arguments=["--log", "trace", "--log-format", style],
    )
    server.start(env={"KRB5_CONFIG": str(realms.config)})
    secrets = {"client secret": issuer.client_secret, "operator token": server.operator_token()}
    for keytab in keytabs:
        secrets |= keys_of(keytab, realms.environment)
    assert len(secrets) >= 4, secrets.keys()

    def granted(what, status, body):
        assert status == 200, (what, body)
        secrets[what] = body["auth"]["client_token"]
        return secrets[what]

    def fetched(what, token, name):
        status, body = past_later(server, "GET", f"secret/oauth/creds/dune/{name}?minimum_seconds=60", token)
        assert status == 200, (what, body)
        secrets[what] = body["data"]["access_token"]

    alice, _ = secrets["alice's vault token"], _ = log_in(server, issuer, "alice")
    secrets["bob's vault token"], _ = log_in(server, issuer, "bob")
    fetched("alice's access token", alice, "alice:default")

    # A ticket, and the same one again; the keytab of a robot.
    ticket = secrets["Kerberos proof"] = proof(realms.tickets(tmp_path / "cc", "alice"))
    fetched("access token by ticket", granted("vault token by ticket", *negotiate(server, ticket)), "alice:default")
    assert negotiate(server, ticket)[1]["auth"] is None
    secrets["a robot's Kerberos proof"] = proof(realms.tickets(tmp_path / "cc-robot", "alice/cron/node", keytabs[1]))
    granted("vault token by keytab", *negotiate(server, secrets["a robot's Kerberos proof"]))

    # A key in an agent, a nonce signed twice, and a signature of something else.
    line = agent.add("ed25519")
    assert past_later(server, "POST", "auth/ssh/role/alice", secrets["operator token"], {"public_keys": line})[0] == 204
    for right in (True, False):
        nonce = secrets[f"nonce {right}"] = past_later(server, "GET", "auth/ssh/nonce")[1]["data"]["nonce"]
        shown = ssh_proof(agent, "alice", line, nonce, None if right else "another text")
        secrets[f"ssh signature {right}"] = shown["signature"]
        status, body = past_later(server, "POST", "auth/ssh/login", body=shown)
        if right:
            fetched("access token by ssh", granted("vault token by ssh", status, body), "alice:default")
            assert past_later(server, "POST", "auth/ssh/login", body=shown)[0] == 400
        else:
            assert status == 400, body

    # A robot of her group's, renewed and with a child; and what she lets bob use.
    name = "dunepro/cron/host:default"
    client = make_client(server)
    approval = issuer.approve("alice")
    outcome = client.run("-d", "--credkey=dunepro/cron/host")
    approval.join()
    assert outcome.code == 0, outcome
    keeper = secrets["keeper's vault token"] = client.vault_token.read_text().strip()
    secrets["keeper's access token"] = client.bearer.read_text().strip()
    robot = granted("robot's token", *past_later(server, "POST", f"robot/dune/{name}", keeper, {"period": "14d"}))
    fetched("robot's access token", robot, name)
    secrets["a client's refresh token"] = "canary-refresh-token"
    past_later(server, "POST", f"secret/oauth/creds/dune/{name}", keeper, {"server": "dune", "refresh_token": "canary-refresh-token"})
    granted("robot's renewed token", *past_later(server, "POST", "auth/token/renew-self", robot, {}))
    secrets["robot's child"] = new_token(server, robot, "1h")
    status, given = past_later(
        server, "POST", "delegation/dune/alice:default", alice, {"to": "oidc-dune/bob", "scopes": ["storage.read:/"], "ttl": "7d"}
    )
    assert status == 200, given
    fetched("delegated access token", secrets["bob's vault token"], "alice:default")
    # Things that go wrong are written about most.
    past_later(server, "GET", f"robot/dune/{robot}:default", robot)
    past_later(server, "DELETE", f"delegation/dune/alice:default?id={alice}", alice)
    server.reload()

    assert_hidden(secrets, everything(server))
    etcd.ctl("snapshot", "save", str(tmp_path / "saved"))
    kept = {path.suffix for path, _ in etcd.files()}
    assert {".wal", ".snap"} <= kept, kept
    assert_hidden(secrets, [*etcd.files(), ("a snapshot", (tmp_path / "saved").read_bytes())])
    log = server.log()
    assert ('"level":"TRACE"' if style == "json" else "TRACE") in log, "the test looks at the right lines"
