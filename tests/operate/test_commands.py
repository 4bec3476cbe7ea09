"""What operators and owners see of a server and end on it: status, doctor, lists, revoking here and at the issuer."""

import json
import os
import socket
import subprocess

import pytest

from support.processes import GRIDKEEP, PATIENCE, wait_until
from support.vault import Vault


def gridkeep(server, *words, env=None):
    return subprocess.run(
        [GRIDKEEP, *words, "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], **(env or {})},
    )


def told(server, *words, code=0):
    """What a command says in JSON."""
    done = gridkeep(server, *words, "--json")
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def revoked(issuer):
    return [grant["id"] for grant in issuer.admin("counters")["grants"] if not grant["alive"]]


def test_status_says_what_is_stored_and_what_fails(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice", access_token_seconds=20)
    server = make_server([entry(issuer)])
    client = Vault(server)
    token, key = client.login()
    status = told(server, "status")
    (dune,) = status["issuers"]
    assert (dune["name"], dune["credentials"], dune["failing"], dune["trouble"]) == ("dune", 1, 0, None)
    assert status["tokens"] >= 1 and status["store"]["trouble"] is None and status["certificate_days"] > 14
    assert status["failing"] == [] and status["ending"] == []
    text = gridkeep(server, "status").stdout
    assert f", on {server.address}\n" in text, text
    assert "issuer dune: 1 credentials, 0 of them failing" in text, text

    # The issuer forgets the login: the next refresh shows it, and the status says whose and why.
    issuer.admin("revoke", {"user": key})
    wait_until(lambda: client.read(token, key, minimum=19)[0] == 400, "the refresh is refused")
    status = told(server, "status", code=3)
    (failing,) = status["failing"]
    assert failing["name"] == f"dune/{key}:default" and "login needed: invalid_grant" in failing["trouble"]
    assert status["issuers"][0]["failing"] == 1
    assert f"dune/{key}:default  login needed" in gridkeep(server, "status").stdout


def test_operators_list_show_and_revoke(world):
    issuer, server, client, token, key = world
    name = f"dune/{key}:default"
    (credential,) = told(server, "operator", "credentials")["found"]
    login = credential["login"]
    assert credential["name"] == name and credential["trouble"] is None and login["refreshable"]
    assert login["idle_end"] > login["used"] and login["access_token_until"], login
    assert told(server, "operator", "credentials", "cms/")["found"] == []
    assert told(server, "operator", "show", name)["credential"] == credential
    text = gridkeep(server, "operator", "credentials").stdout
    assert "absolute end: " in text and f"idle end: {login['idle_end']}" in text, text

    tokens = told(server, "operator", "tokens", key)["found"]
    assert tokens and all(key in found["display_name"] for found in tokens)
    accessor = tokens[0]["accessor"]
    assert told(server, "operator", "show", accessor)["token"]["policies"] == tokens[0]["policies"]
    everything = json.dumps([told(server, "operator", "tokens"), told(server, "operator", "credentials")])
    assert token not in everything and "hvs." not in everything and "eyJ" not in everything, "nothing that gives power is shown"

    assert client.read(token, key)[0] == 200
    done = gridkeep(server, "operator", "revoke", accessor)
    assert done.returncode == 0 and "revoked" in done.stdout, done
    assert client.read(token, key)[0] == 403
    assert revoked(issuer) == []
    done = gridkeep(server, "operator", "revoke", name)
    assert done.returncode == 0 and "is deleted" in done.stdout, done
    wait_until(lambda: revoked(issuer), "the issuer is told")
    assert told(server, "operator", "credentials")["found"] == []
    for gone in (name, accessor, "nonsense", "no/such"):
        done = gridkeep(server, "operator", "revoke", gone)
        assert done.returncode == 1 and done.stderr, done
    paths = [line["request"]["data"] for line in server.audit() if line["request"].get("path") == "operator/socket" and line["type"] == "request"]
    assert {"do": "revoke", "which": name} in paths


def test_people_see_and_revoke_their_own(world, tmp_path):
    issuer, server, client, token, key = world
    stranger_token = server.operator_token()
    vault_token = tmp_path / "vt"
    vault_token.write_text(token + "\n")
    vault_token.chmod(0o600)

    def mine(*words, code=0):
        done = subprocess.run(
            [GRIDKEEP, "mine", *words, "-a", f"localhost:{server.port}", "-i", "dune", f"--credkey={key}", f"--cafile={server.authority.path}",
             f"--vaulttokenfile={vault_token}"],
            capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )
        assert done.returncode == code, done
        return done.stdout if code == 0 else done.stderr

    name = f"dune/{key}:default"
    kept = json.loads(mine("list", "--json"))
    assert [credential["name"] for credential in kept["credentials"]] == [name]
    assert kept["tokens"] and all(found["display_name"] != "operator-uid-0" for found in kept["tokens"])
    assert name in mine("list") and "idle end" in mine("show", name)
    _, stranger = server.call("GET", "auth/token/lookup-self", stranger_token)
    foreign = stranger["data"]["accessor"]
    assert "no live vault token" in mine("revoke", foreign, code=1)
    assert server.call("GET", "auth/token/lookup-self", stranger_token)[0] == 200, "somebody else's token lives on"
    second, _ = client.login()
    accessor = server.call("GET", "auth/token/lookup-self", second)[1]["data"]["accessor"]
    assert accessor in mine("show", accessor)
    assert "are revoked" in mine("revoke", accessor)
    assert server.call("GET", "auth/token/lookup-self", second)[0] == 403
    assert "is deleted" in mine("revoke", name)
    wait_until(lambda: revoked(issuer), "the issuer is told")
    assert json.loads(mine("list", "--json"))["credentials"] == []
    assert "keeps no" in mine("show", name, code=1)
    assert "Usage" in mine("revoke", code=2)


def findings(server, code):
    """The worst state of each thing that doctor looks at, and all that it says."""
    order = ["good", "doubtful", "bad"]
    found = told(server, "doctor", code=code)
    states = {}
    for finding in found:
        about = finding["about"]
        states[about] = max(states.get(about, "good"), finding["state"], key=order.index)
        assert finding["state"] == "good" or finding["remedy"], f"without a remedy: {finding}"
    return states, json.dumps(found)


@pytest.fixture
def healthy(make_issuer, make_server, entry):
    """A server that clients find at every address of its name."""
    server = make_server([entry(make_issuer(auto_login="alice"), name="default")])
    server.stop()
    addresses = sorted({found[4][0] for found in socket.getaddrinfo("localhost", server.port)})
    own = server.config["gridkeep"]
    own["listen"] = [f"[{address}]:{server.port}" if ":" in address else f"{address}:{server.port}" for address in addresses]
    own["callback_port"] = server.port
    server.write_config()
    return server.start()


def test_doctor_finds_nothing_where_nothing_is_wrong(healthy):
    states, said = findings(healthy, 0)
    # The one thing to say of a name that only tests have.
    (named,) = [finding for finding in json.loads(said) if finding["about"] == "configuration"]
    assert "`localhost` is not fully qualified" in named["what"]
    for about in ("certificate", "server", "store", "root key", "ports", "dns", "issuers"):
        assert states[about] == "good", f"{about}: {said}"
    assert "good      server: " in gridkeep(healthy, "doctor").stdout


def test_commands_log_when_they_are_told_to(healthy, make_issuer, entry):
    """In the form of the server's log, on standard error alone; and else nothing."""
    quiet = gridkeep(healthy, "doctor")
    assert quiet.returncode == 0 and quiet.stderr == ""
    healthy.config["issuers"].append({**entry(make_issuer(), name="untrusted"), "ca_file": "/nonexistent/ca.pem"})
    healthy.write_config()
    quiet = gridkeep(healthy, "doctor", "--json")
    assert quiet.returncode == 1 and quiet.stderr == ""
    told_more = gridkeep(healthy, "doctor", "--json", "--log", "warn", "--log-format", "json")
    assert told_more.returncode == 1
    assert [found["about"] for found in json.loads(told_more.stdout)] == [found["about"] for found in json.loads(quiet.stdout)]
    lines = [json.loads(line) for line in told_more.stderr.splitlines()]
    assert [(line["level"], line["issuer"], line["target"]) for line in lines] == [("ERROR", "untrusted", "gridkeep::server::assemble")], told_more.stderr
    wrong = gridkeep(healthy, "doctor", "--log", "=")
    assert wrong.returncode == 2 and "use a level such as info or debug" in wrong.stderr


def test_doctor_names_each_trouble_with_its_remedy(healthy, authority, tmp_path):
    server = healthy
    own = server.config["gridkeep"]
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        states, said = findings(server, 1)
        assert states["server"] == "bad" and "systemctl start gridkeep" in said
        assert states["ports"] == "bad" and f"sport = :{server.port}" in said
    good = json.loads(json.dumps(server.config))
    short, key = authority.issue("short", days=3)
    _, other_key = authority.issue("other")
    for about, state, part, change in [
        ("certificate", "doubtful", "ends in", lambda: own.update(tls={"certificate": str(short), "key": str(key)})),
        ("certificate", "bad", "", lambda: own.update(tls={"certificate": str(short), "key": str(other_key)})),
        ("dns", "bad", "cannot be looked up", lambda: server.config["cluster"].update(name="nowhere.invalid")),
        ("issuers", "bad", "well-known", lambda: server.config["issuers"][0].update(url="https://127.0.0.1:1/")),
        ("store", "doubtful", "is not there yet", lambda: own.update(data=str(tmp_path / "nowhere"))),
        ("configuration", "bad", "gridkeep config check", lambda: own.update(listen="nonsense")),
    ]:
        change()
        server.write_config()
        states, said = findings(server, 1)
        assert states[about] == state and part in said, f"{about}: {said}"
        server.config.clear()
        server.config.update(json.loads(json.dumps(good)))
        own = server.config["gridkeep"]
    server.write_config()
    root_key = server.etc / "root.key"
    root_key.chmod(0o644)
    states, said = findings(server, 1)
    assert states["root key"] == "bad" and "chmod 0600" in said
    root_key.chmod(0o600)
