"""The requests of each client, one after the other and byte for byte as they send them: htgettoken, VaultCredmon, the `vault` command line.

What the programs of HTCondor and the managed tokens do with htgettoken's output is in test_storer.py; hvac is in test_hvac.py.
"""

import http.client
import json
import os
import random
import re
import socket
import ssl
import subprocess
import threading

import pytest
import urllib3
from support.issuers import Issuer
from support.processes import GRIDKEEP, PATIENCE
from support.servers import Server
from support.tokens import claims
from support.vault import Vault

DAY = 86400
OWN_PORT = 8200


def address_of_its_own():
    """A loopback address on which nobody listens at the port that VaultCredmon insists on."""
    for _ in range(100):
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(2, 254)}"
        with socket.socket() as probe:
            try:
                probe.bind((address, OWN_PORT))
            except OSError:
                continue
            return address
    raise AssertionError(f"port {OWN_PORT} is taken on all of a hundred loopback addresses; is a server listening on all addresses?")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory, module_ending):
    made = Issuer(tmp_path_factory.mktemp("issuer"), auto_login="alice")
    module_ending(made)
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority, issuer, module_ending, entry):
    directory = tmp_path_factory.mktemp("sequences") / "server"
    directory.mkdir()
    scopes = ["profile", "offline_access", "wlcg", "storage.read:/", "compute.create"]
    made = Server(directory, authority, [entry(issuer, roles=[{"name": "default", "scopes": scopes}])], own={"plain_listen": ["127.0.0.1:0"]})
    module_ending(made)
    made.start()
    made.at_8200 = address_of_its_own()
    made.config["gridkeep"]["listen"] = [made.address, f"{made.at_8200}:{OWN_PORT}"]
    made.stop()
    made.write_config()
    made.start()
    made.plain = re.findall(r"(\S+) \(without TLS\)", made.log())[-1]
    return made


@pytest.fixture(scope="module")
def login(server):
    """A login with its credential stored: the vault token."""
    token, key = Vault(server).login()
    assert key == "alice"
    return token


class Raw:
    """Requests with exactly these header lines and this body, and nothing that a library adds."""

    def __init__(self, server):
        context = ssl.create_default_context(cafile=str(server.authority.path))
        raw = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        self.connection = http.client.HTTPSConnection("127.0.0.1", server.port)
        self.connection.sock = context.wrap_socket(raw, server_hostname="localhost")

    def __call__(self, method, path, token=None, body=None, headers=()):
        data = b"" if body is None else json.dumps(body).encode()
        self.connection.putrequest(method, f"/v1/{path}", skip_accept_encoding=True)
        for name, value in headers:
            self.connection.putheader(name, value)
        if token:
            self.connection.putheader("X-Vault-Token", token)
        if data or method == "POST":
            self.connection.putheader("Content-Length", str(len(data)))
        self.connection.endheaders(data)
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status in http.client.responses, "htgettoken looks every status up there"
        if answer.status != 204:
            assert answer.headers["content-type"] == "application/json"
        return answer.status, (json.loads(text) if text else None)


def test_htgettoken(server, issuer):
    """Section by section of its run with nothing known yet: JSON without any Content-Type, booleans as texts."""
    ask = Raw(server)
    # A ticket that nobody accepts must not end the run: 200 without a login sends it on to the next method.
    status, body = ask("POST", "auth/kerberos-dune_default/login", headers=[("Content-Type", "application/x-www-form-urlencoded"), ("Authorization", "Negotiate YIIFAA==")])
    assert status == 200 and body["auth"] is None and body["warnings"], body

    begin = {"role": "default", "client_nonce": "n" * 43, "redirect_uri": "https://localhost:8200/v1/auth/oidc-dune/oidc/callback"}
    status, body = ask("POST", "auth/oidc-dune/oidc/auth_url", body=begin)
    assert status == 200 and body["data"]["auth_url"].startswith("https://"), body
    assert isinstance(body["data"]["poll_interval"], str) and int(body["data"]["poll_interval"]) > 0
    # It sends back all it was given, but for what it shows.
    again = {name: value for name, value in body["data"].items() if name not in ("auth_url", "user_code", "poll_interval")}
    again["client_nonce"] = begin["client_nonce"]
    for _ in range(100):
        status, body = ask("POST", "auth/oidc-dune/oidc/poll", body=again)
        if status == 200:
            break
        assert (status, body) == (400, {"errors": ["authorization_pending"]})
        threading.Event().wait(0.2)
    auth = body["auth"]
    assert auth["lease_duration"] == 28 * DAY and auth["metadata"]["credkey"] == "alice"
    assert all(isinstance(policy, str) for policy in auth["policies"])
    handle = auth["metadata"]["oauth2_refresh_token"]
    status, body = ask("POST", "auth/token/create", auth["client_token"], {"ttl": "604800s", "renewable": "false"})
    child = body["auth"]["client_token"]
    assert status == 200 and body["auth"]["renewable"] is False and child.startswith(("hvs.", "s."))
    name = "secret/oauth/creds/dune/alice:default"
    assert ask("POST", name, child, {"server": "dune", "refresh_token": handle}) == (204, None)
    status, body = ask("GET", f"{name}?minimum_seconds=60", child)
    assert status == 200 and claims(body["data"]["access_token"])["sub"], body
    status, body = ask("GET", "auth/token/lookup-self", child)
    assert status == 200 and isinstance(body["data"]["ttl"], int)
    status, body = ask("GET", f"{name.replace('creds', 'sts')}?minimum_seconds=60&scopes=compute.create&audiences=https%3A%2F%2Fce.example.org", child)
    assert status == 200 and claims(body["data"]["access_token"])["scope"] == "compute.create", body
    # htdestroytoken -f, with curl.
    assert ask("DELETE", name.replace("creds", "sts"), child) == (204, None)
    assert ask("GET", name, child) == (404, {"errors": []})


class VaultCredmon:
    """condor_credmon_vault: one directory of a user, one scan."""

    def __init__(self, server, directory):
        self.server, self.directory = server, directory

    def put(self, name, token, url):
        (self.directory / f"{name}.top").write_text(json.dumps({"vault_token": token, "vault_url": url}))

    def scan(self, name, minimum=2400, query=""):
        top = self.directory / f"{name}.top"
        stored = json.loads(top.read_text())
        parsed = urllib3.util.parse_url(stored["vault_url"])
        assert (parsed.scheme, parsed.port) == ("https", OWN_PORT) and parsed.path.startswith("/v1")
        # It connects to an address and checks the certificate against the name; for an address no SNI is sent.
        pool = urllib3.HTTPSConnectionPool(
            self.server.at_8200, port=parsed.port, timeout=PATIENCE, retries=False,
            assert_hostname=parsed.host, ca_certs=str(self.server.authority.path), cert_reqs="CERT_REQUIRED",
        )
        answer = pool.request("GET", f"{parsed.path}?minimum_seconds={minimum}{query}", headers={"X-Vault-Token": stored["vault_token"]})
        body = json.loads(answer.data)
        if answer.status == 200:
            (self.directory / f"{name}.use").write_text(body["data"]["access_token"] + "\n")
            return None
        error = f"{http.client.responses[answer.status]}: {' '.join(body['errors'])}"
        if "permission denied" in error:
            for ending in ("top", "use"):
                (self.directory / f"{name}.{ending}").unlink(missing_ok=True)
        return error


@pytest.fixture
def credmon(server, tmp_path):
    return VaultCredmon(server, tmp_path)


def stored_url(name="alice:default", kind="creds"):
    return f"https://localhost:{OWN_PORT}/v1/secret/oauth/{kind}/dune/{name}"


def test_vaultcredmon(server, credmon, issuer):
    token, _ = Vault(server).login()
    credmon.put("dune", token, stored_url())
    assert credmon.scan("dune") is None
    assert claims((credmon.directory / "dune.use").read_text())["sub"]
    # A handle with less, and an old one whose address is that of the wide token.
    for kind, audience in (("sts", "audiences"), ("creds", "audience")):
        credmon.put("dune_less", token, stored_url(kind=kind))
        assert credmon.scan("dune_less", query=f"&scopes=compute.create&{audience}=https%3A%2F%2Fce.example.org") is None
        assert claims((credmon.directory / "dune_less.use").read_text())["scope"] == "compute.create"
    # What may heal leaves everything where it is.
    issuer.admin("faults", {"endpoint": "token", "kind": "drop"})
    try:
        error = credmon.scan("dune_less", query="&scopes=storage.read:/x")
    finally:
        issuer.admin("faults", method="DELETE")
    assert error.startswith("Service Unavailable: "), error
    # What is proven makes it delete.
    assert server.call("POST", "auth/token/revoke-self", token)[0] == 204
    assert credmon.scan("dune") == "Forbidden: permission denied"
    assert not (credmon.directory / "dune.top").exists() and not (credmon.directory / "dune.use").exists()


class CommandLine:
    """The `vault` or `bao` command line: the requests of its Go library, on the port without TLS."""

    def __init__(self, server, token=None):
        host, _, port = server.plain.rpartition(":")
        self.place, self.token = (host, int(port)), token

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(*self.place, timeout=PATIENCE)
        headers = {"User-Agent": "Go-http-client/1.1", "X-Vault-Request": "true", "Accept-Encoding": "gzip"}
        if self.token:
            headers["X-Vault-Token"] = self.token
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, f"/v1/{path}", body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, (json.loads(text) if text else None)

    def list(self, path):
        return self.ask("GET", f"{path}?list=true")

    def status(self):
        """Its exit code: 0 unsealed, 2 sealed, 1 error."""
        code, seal = self.ask("GET", "sys/seal-status")
        if code != 200 or not all(name in seal for name in ("type", "t", "n", "version", "storage_type", "initialized", "sealed", "cluster_name")):
            return 1
        code, leader = self.ask("GET", "sys/leader")
        if code != 200 or "ha_enabled" not in leader:
            return 1
        return 2 if seal["sealed"] else 0


@pytest.fixture(scope="module")
def operator(server):
    return CommandLine(server, server.operator_token())


def test_command_line_status_and_login(server, operator):
    assert CommandLine(server).status() == 0
    # login -: the token is looked up before it is saved; its policies are shown.
    status, body = operator.ask("GET", "auth/token/lookup-self")
    assert status == 200 and body["data"]["id"] == operator.token and body["data"]["policies"] == ["operator"]
    status, body = CommandLine(server, "hvs.nosuch").ask("GET", "auth/token/lookup-self")
    assert (status, body) == (403, {"errors": ["permission denied"]})


def test_command_line_tokens(operator, server):
    status, made = operator.ask("POST", "auth/token/create", {"policies": ["default"], "ttl": "1h", "explicit_max_ttl": "0s", "period": "0s", "display_name": "", "num_uses": 0, "renewable": True, "type": "service", "entity_alias": "", "meta": {"a": "b"}})
    assert status == 200, made
    token, accessor = made["auth"]["client_token"], made["auth"]["accessor"]
    holder = CommandLine(server, token)
    assert operator.ask("POST", "auth/token/lookup", {"token": token})[1]["data"]["id"] == token
    assert operator.ask("POST", "auth/token/lookup-accessor", {"accessor": accessor})[1]["data"]["id"] == ""
    assert holder.ask("PUT", "auth/token/renew-self", {"increment": 7200})[1]["auth"]["lease_duration"] == 7200
    assert operator.ask("PUT", "auth/token/renew", {"token": token, "increment": 0})[0] == 200
    assert holder.ask("POST", "sys/capabilities-self", {"paths": ["auth/token/lookup-self"]})[1]["capabilities"] == ["read"]
    assert operator.ask("POST", "sys/capabilities", {"paths": ["sys/seal"], "token": token})[1]["capabilities"] == ["deny"]
    assert accessor in operator.list("auth/token/accessors")[1]["data"]["keys"]
    assert operator.ask("PUT", "auth/token/revoke", {"token": token}) == (204, None)
    assert holder.ask("GET", "auth/token/lookup-self")[0] == 403
    assert operator.ask("PUT", "auth/token/roles/line", {"allowed_policies": "default", "token_period": "1h"}) == (204, None)
    assert operator.ask("POST", "auth/token/create/line", {})[1]["auth"]["lease_duration"] == 3600
    assert operator.list("auth/token/roles")[1]["data"]["keys"] == ["line"]
    assert operator.ask("DELETE", "auth/token/roles/line") == (204, None)


def test_command_line_reads_writes_lists_and_deletes(server, login, operator):
    user = CommandLine(server, login)
    name = "secret/oauth/creds/dune/alice:default"
    status, body = user.ask("GET", name)
    assert status == 200 and body["data"]["type"] == "Bearer", body
    assert user.ask("GET", f"{name}?minimum_seconds=60")[0] == 200
    status, body = user.list("secret/oauth/creds/dune")
    assert status == 200 and "alice:default" in body["data"]["keys"], body
    status, body = user.ask("PUT", name, {"server": "dune", "refresh_token": "gkh.nosuch"})
    assert status == 400 and "handle" in body["errors"][0], body
    assert user.ask("DELETE", "secret/oauth/creds/dune/alice/nobody/here:default") == (204, None)
    assert user.ask("GET", "secret/oauth/creds/dune/alice/nobody/here:default") == (404, {"errors": []})
    # `kv` commands ask for the mount first.
    status, body = user.ask("GET", "sys/internal/ui/mounts/secret/oauth/creds/dune")
    assert status == 200 and body["data"]["path"] == "secret/oauth/", body
    assert "oidc-dune/" in operator.ask("GET", "sys/auth")[1]["data"]
    assert "secret/oauth/" in operator.ask("GET", "sys/mounts")[1]["data"]
    status, body = operator.ask("GET", "no/such/mount")
    assert (status, body) == (404, {"errors": ['no handler for route "no/such/mount". route entry not found.']})


def test_command_line_policies(operator):
    text = 'path "sys/mounts" { capabilities = ["read"] }\n'
    assert operator.ask("PUT", "sys/policies/acl/line", {"policy": text}) == (204, None)
    assert operator.ask("GET", "sys/policies/acl/line")[1]["data"]["policy"] == text
    assert {"line", "default", "root"} <= set(operator.list("sys/policies/acl")[1]["data"]["keys"])
    assert operator.ask("DELETE", "sys/policies/acl/line") == (204, None)
    assert operator.ask("GET", "sys/policies/acl/line") == (404, {"errors": []})


def test_command_line_path_help_and_leases(server, login, operator):
    for path in ("sys", "secret/oauth/creds/dune/alice:default", "auth/token/create", "sys/policies/acl"):
        status, body = CommandLine(server, login).ask("GET", f"{path}?help=1")
        assert status == (404 if path == "sys" else 200), body
        assert path == "sys" or body["help"], body
    assert operator.list("sys/leases/lookup/auth")[0] == 200
    assert operator.ask("PUT", "sys/leases/revoke-prefix/auth/oidc-nobody", {"sync": False}) == (204, None)


def test_without_tls_it_listens_on_loopback_only(make_server, entry, issuer):
    server = make_server([entry(issuer)], start=False, own={"plain_listen": ["0.0.0.0:8202"]})
    refused = subprocess.run(
        [GRIDKEEP, "server", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]},
    )
    assert refused.returncode == 1 and "plain_listen" in refused.stderr and "not a loopback address" in refused.stderr, refused.stderr
