"""Reloading, certificates, operators, the service manager's root key."""

import os
import shutil
import ssl
import socket
import subprocess

import pytest

from support.processes import GRIDKEEP, PATIENCE, wait_until
from support.vault import Vault


def gridkeep(server, *words, **options):
    return subprocess.run(
        [GRIDKEEP, *words, "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"]}, **options,
    )


def served_certificate(server):
    context = ssl.create_default_context(cafile=str(server.authority.path))
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain, context.wrap_socket(plain, server_hostname="localhost") as tls:
        return tls.getpeercert()["serialNumber"]


def test_reload_adds_and_removes_an_issuer(world, make_issuer, entry):
    issuer, server, client, token, key = world
    second = make_issuer("second", auto_login="alice")
    server.config["issuers"].append(entry(second, name="helix"))
    server.write_config()
    told = gridkeep(server, "config", "diff")
    assert told.returncode == 0 and "helix" in told.stdout, told
    server.reload()
    helix, _ = client.login(issuer="helix")
    assert client.read(helix, key, issuer="helix")[0] == 200
    assert client.read(token, key)[0] == 200

    server.config["issuers"] = server.config["issuers"][:1]
    server.reload()
    status, body = client.read(helix, key, issuer="helix")
    assert status == 503 and "taken out" in body["errors"][0], body
    server.config["issuers"].append(entry(second, name="helix"))
    server.reload()
    assert client.read(helix, key, issuer="helix")[0] == 200, "a slip of the pen costs nobody a login"


def test_a_faulty_reload_changes_nothing(world):
    _, server, client, token, key = world
    good = server.config["issuers"]
    for bad in ([{**good[0], "callbackmode": "telepathy"}], [{"name": "dune"}], "nonsense"):
        server.config["issuers"] = bad
        server.reload()
        assert "was not reloaded" in server.log()
        assert client.read(token, key)[0] == 200
    checked = gridkeep(server, "config", "check")
    assert checked.returncode != 0
    server.config["issuers"] = good
    server.reload()
    assert client.read(token, key)[0] == 200


def test_a_new_certificate_is_served_after_a_reload_and_a_wrong_one_is_not(world):
    _, server, client, token, key = world
    before = served_certificate(server)
    certificate, private = server.config["gridkeep"]["tls"].values()
    new, new_key = server.authority.issue("renewed")
    shutil.copy(new, certificate)
    server.reload()
    assert served_certificate(server) == before, "half of a pair is not used"
    shutil.copy(new_key, private)
    server.reload()
    assert served_certificate(server) != before
    assert client.read(token, key)[0] == 200
    # Nor one that has ended, while the other has not.
    served = served_certificate(server)
    for new, file in zip(server.authority.issue("ended-before", days=-1, before=9), (certificate, private)):
        shutil.copy(new, file)
    server.reload()
    assert served_certificate(server) == served
    (told,) = [line for line in server.log().splitlines() if "the new certificate is not used" in line and "ended at" in line]
    assert "ERROR" in told and f"{certificate} ended at" in told, told


def test_the_audit_log_goes_on_in_a_new_file_after_rotation(world):
    _, server, client, token, key = world
    log = server.directory / "audit.log"
    old = server.directory / "audit.log.1"
    log.rename(old)
    server.reload()
    # By the reload alone, before anything is written: what rotates compresses the old file from now on.
    assert log.exists()
    before = old.read_bytes()
    assert client.read(token, key)[0] == 200
    assert old.read_bytes() == before
    wait_until(lambda: log.exists() and "creds/dune/alice:default" in log.read_text(), "the new file is written", server.process)


def test_a_reload_names_what_needs_a_restart(world):
    _, server, _, _, _ = world
    server.config["cluster"]["myname"] = "gk9.test"
    own = server.config["gridkeep"]
    own["advertise"] = "gk9.test:8201"
    own["plain_listen"] = ["127.0.0.1:1"]
    own["telemetry"] = {"metrics": {"listen": ["127.0.0.1:1"]}}
    own["audit"] = {"on_failure": "serve"}
    server.reload()
    (told,) = [line for line in server.log().splitlines() if "change only with a restart of the server" in line]
    for key in ("cluster.myname", "gridkeep.advertise", "gridkeep.plain_listen", "gridkeep.telemetry.metrics.listen", "gridkeep.audit.on_failure"):
        assert key in told, told
    server.config["issuers"][0]["roles"][0]["scopes"].append("compute.read")
    server.reload()
    assert server.log().count("change only with a restart of the server") == 1
    own["plain_listen"] = []
    server.reload()
    assert "gridkeep.plain_listen changes only with a restart of the server" in server.log()


def test_an_operator_token_is_short_and_reads_no_access_tokens(world):
    _, server, client, token, key = world
    operator = server.operator_token()
    status, me = client.request("GET", "auth/token/lookup-self", operator)
    assert status == 200 and me["data"]["ttl"] <= 900 and me["data"]["policies"] == ["operator"]
    assert client.read(operator, key)[0] == 403
    assert client.request("LIST", "secret/oauth/creds/dune", operator)[1]["data"]["keys"] == [f"{key}:default"]
    assert client.request("LIST", "auth/token/accessors", operator)[0] == 200
    assert client.request("LIST", "auth/token/accessors", token)[0] == 403
    assert any(line["request"]["path"] == "operator/socket" for line in server.audit())


def test_the_socket_refuses_other_users(as_root, public, make_issuer, make_server, entry):
    # Everybody can reach the socket, to be told why not.
    server = make_server([entry(make_issuer())], below=public)
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'{\"do\":\"token\"}\\n')\n"
        "print(s.recv(65536).decode())\n"
    )
    said = subprocess.run(
        ["/usr/bin/python3", "-c", code, server.directory / "run" / "operator.sock"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "65534" in said.stdout and "token" not in said.stdout.split("user id")[0], said


def test_operators_by_claim(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], own={"operators": [{"issuer": "dune", "claim": "wlcg.credkey", "value": "alice"}]})
    client = Vault(server)
    token, _ = client.login()
    assert "operator" in client.request("GET", "auth/token/lookup-self", token)[1]["data"]["policies"]


def test_an_operator_is_one_only_as_long_as_the_rule_stands(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    rule = {"issuer": "dune", "claim": "wlcg.credkey", "value": "alice"}
    server = make_server([entry(issuer)], own={"operators": [rule]})
    client = Vault(server)
    token, key = client.login()
    child = client.request("POST", "auth/token/create", token, {"ttl": "1h"})[1]["auth"]["client_token"]
    for held in (token, child):
        assert client.request("LIST", "auth/token/accessors", held)[0] == 200
    server.config["gridkeep"]["operators"] = []
    server.reload()
    for held in (token, child):
        assert client.request("LIST", "auth/token/accessors", held)[0] == 403
        assert client.read(held, key)[0] == 200, "the person's own credential is not touched"


def test_changed_scopes_warn_or_ask_for_a_new_login(world):
    _, server, client, token, key = world
    server.config["issuers"][0]["roles"][0]["scopes"].append("compute.read")
    server.reload()
    status, body = client.read(token, key)
    assert status == 200 and "scopes" in body["warnings"][0], body
    server.config["issuers"][0]["reauth_on_scope_change"] = True
    server.reload()
    status, body = client.read(token, key)
    assert status == 400 and "log in again" in body["errors"][0].lower(), body
    again, _ = client.login()
    assert client.read(again, key)[0] == 200


def test_diff_against_the_running_server_tells_faults(world):
    _, server, _, _, _ = world
    server.config["issuers"].append({"name": "half"})
    server.write_config()
    told = gridkeep(server, "config", "diff")
    assert told.returncode == 1 and "half" in told.stdout, told
    url = server.config["issuers"][0].pop("url")
    server.write_config()
    told = gridkeep(server, "config", "diff")
    assert told.returncode == 1 and "A reload is refused" in told.stdout and "removed" not in told.stdout, told
    server.config["issuers"][0]["url"] = url

    def noted():
        return [line["type"] for line in server.audit() if line["request"]["path"] == "operator/socket"][-2:]

    # A slow audit log does not keep what came of an order from whoever gave it.
    wait_until(lambda: noted() == ["request", "response"], "the order and what came of it are noted", server.process)


def test_the_root_key_of_the_service_manager(world, make_issuer, make_server, entry, tmp_path):
    _, other, _, _, _ = world
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    shutil.copy(other.etc / "root.key", credentials / "gridkeep-root-key")
    issuer = make_issuer("third", auto_login="alice")
    server = make_server([entry(issuer)], name="managed", start=False, own={"seal": None})
    env = {"PATH": os.environ["PATH"], "CREDENTIALS_DIRECTORY": str(credentials)}
    words = [GRIDKEEP, "server", "--config", server.etc / "config.d"]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert refused.returncode != 0 and "key" in refused.stderr, refused.stderr
    server.arguments = ["--initialise"]
    server.start(env=env)
    token, key = Vault(server).login()
    server.stop()
    server.arguments = []
    server.start(env=env)
    assert Vault(server).read(token, key)[0] == 200


def test_strict_refuses_what_is_only_doubtful(world):
    _, server, _, _, _ = world
    server.stop()
    server.config["issuers"][0]["colour"] = "blue"
    server.write_config()
    refused = subprocess.run(
        [GRIDKEEP, "server", "--strict", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"]},
    )
    assert refused.returncode == 1 and "colour" in refused.stderr and "--strict" in refused.stderr, refused.stderr


def test_show_effective_masks_secrets(world):
    issuer, server, _, _, _ = world
    shown = gridkeep(server, "config", "show", "--effective")
    assert shown.returncode == 0 and issuer.url in shown.stdout and issuer.client_secret not in shown.stdout
