"""The programs around HTCondor and the managed tokens, by the very words and requests they use: the original client and ours."""

import errno
import http.client
import json
import os
import pty
import shutil
import socket
import ssl
import subprocess
import tty

import pytest
from support.clients import Client, finish
from support.house import lookup, mode
from support.issuers import Issuer
from support.processes import PATIENCE
from support.servers import Server
from support.tokens import claims

DAY = 86400


@pytest.fixture(scope="module")
def issuer(tmp_path_factory, module_ending):
    users = [{"name": name, "password": name, "claims": {"wlcg.credkey": name}} for name in ("original", "ours", "other")]
    made = Issuer(tmp_path_factory.mktemp("issuer"), config={"users": users})
    module_ending(made)
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority, issuer, module_ending, entry):
    directory = tmp_path_factory.mktemp("storer") / "server"
    directory.mkdir()
    scopes = ["profile", "offline_access", "wlcg", "storage.read:/", "compute.create"]
    roles = [{"name": "default", "scopes": scopes}, {"name": "production", "scopes": scopes}]
    made = Server(directory, authority, [entry(issuer, roles=roles)])
    module_ending(made)
    return made.start()


@pytest.fixture
def client(server, kind, tmp_path):
    return Client(kind, tmp_path, server)


class Storer:
    """condor_vault_storer for the service `dune`, its files in the home of `client` instead of in /tmp."""

    def __init__(self, client, issuer):
        self.client, self.issuer = client, issuer
        self.vault = client.home / "vt_u0-dune"
        self.bearer = client.home / "bt_u0-dune"

    def first(self, *more):
        return [
            "--vaulttokenttl=28d", "-o", self.bearer, f"--vaulttokeninfile={self.vault}", "--vaulttokenfile=/dev/stdout",
            "--showbearerurl", *more,
        ]

    def second(self, *more):
        return [
            *more, "--vaulttokeninfile=/dev/stdin", "--nooidc", "--nokerberos", "--nossh", "-o", self.bearer,
            f"--vaulttokenfile={self.vault}", "--showbearerurl", "-q",
        ]

    def log_in(self):
        """Step 1b: a person is there, standard output is a pipe all the same."""
        approval = self.issuer.approve(self.client.kind)
        outcome = finish(self.client.start(*self.first(), apart=True))
        approval.join()
        return outcome

    @property
    def url(self):
        return f"{self.client.server.url}/v1/secret/oauth/creds/dune/{self.client.kind}:default"


@pytest.fixture
def storer(client, issuer):
    return Storer(client, issuer)


@pytest.fixture(scope="module")
def kept():
    """The month-long token of each kind's user, and the home it was made in."""
    return {}


@pytest.fixture
def stored(storer, kept, kind, tmp_path_factory):
    """A storer whose login is done; gives the long token too."""
    if kind not in kept:
        outcome = storer.log_in()
        assert outcome.code == 0, outcome
        home = tmp_path_factory.mktemp("kept") / "home"
        shutil.copytree(storer.client.home, home)
        kept[kind] = (outcome.out.splitlines()[0], home)
    token, home = kept[kind]
    shutil.copytree(home, storer.client.home, dirs_exist_ok=True)
    storer.token = token
    return storer


def run_into(client, words, kind_of_output, stdin=None):
    """Standard output of a run as bytes, where it is a pipe, a regular file or a terminal."""
    arguments = client.arguments(words, "dune")
    options = {"stderr": subprocess.PIPE, "env": client.environment(), "timeout": PATIENCE, "start_new_session": True}
    options |= {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    if kind_of_output == "pipe":
        done = subprocess.run(arguments, stdout=subprocess.PIPE, **options)
        return done, done.stdout
    if kind_of_output == "file":
        path = client.home / "output"
        with open(path, "wb") as file:
            done = subprocess.run(arguments, stdout=file, **options)
        return done, path.read_bytes()
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        done = subprocess.run(arguments, stdout=slave, **options)
    finally:
        os.close(slave)
    seen = b""
    try:
        while more := os.read(master, 65536):
            seen += more
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    os.close(master)
    return done, seen


def test_three_steps(storer, server):
    # Step 1: nobody is known yet. The storer ignores the output of a run that failed.
    nothing = storer.client.run(*storer.first("--nooidc", "-q"), terminal=False)
    assert nothing.code == 1, nothing
    assert nothing.err == "" and not storer.bearer.exists()

    # Step 1b: the long token, then the address, and nothing else.
    login = storer.log_in()
    assert login.code == 0, login
    lines = login.out.splitlines()
    assert login.out == f"{lines[0]}\n{storer.url}\n", login
    assert lines[0].startswith("hvs.") and '"' not in lines[0] and "\\" not in lines[0] and len(lines[0]) < 300
    assert 28 * DAY - 60 < lookup(server, lines[0])["ttl"] <= 28 * DAY
    assert "Complete the authentication at:" in login.err
    assert claims(storer.bearer.read_text())["iss"] and mode(storer.bearer) == 0o600
    assert not storer.vault.exists()

    # Step 2: exchanged for one that may lie on disk.
    second = storer.client.run(*storer.second(), stdin=lines[0] + "\n")
    assert (second.code, second.out, second.err) == (0, storer.url + "\n", ""), second
    assert mode(storer.vault) == 0o600
    assert 7 * DAY - 60 < lookup(server, storer.vault.read_text().strip())["ttl"] <= 7 * DAY

    # Step 1 from then on: one line, because no new token was needed.
    again = storer.client.run(*storer.first("--nooidc", "-q"), terminal=False)
    assert (again.code, again.out, again.err) == (0, storer.url + "\n", ""), again


def test_a_handle_with_less(stored):
    less = ("--scopes=compute.create", "--audience=https://ce.example.org")
    outcome = stored.client.run(*stored.second(*less), stdin=stored.token)
    assert (outcome.code, outcome.err) == (0, ""), outcome
    assert outcome.out == stored.url.replace("/creds/", "/sts/") + "\n"
    token = claims(stored.bearer.read_text())
    assert token["scope"] == "compute.create" and "https://ce.example.org" in str(token["aud"])


@pytest.mark.parametrize("output", ["pipe", "file", "terminal"])
def test_same_bytes_wherever_they_go(stored, output):
    done, seen = run_into(stored.client, stored.second(), output, stdin=stored.token.encode())
    assert (done.returncode, seen, done.stderr) == (0, stored.url.encode() + b"\n", b"")
    done, seen = run_into(stored.client, stored.first("--nooidc", "-q"), output)
    assert (done.returncode, seen, done.stderr) == (0, stored.url.encode() + b"\n", b"")


# On a terminal the original turns the lines round, in a file they overwrite each other.
@pytest.mark.parametrize("kind", ["ours"])
@pytest.mark.parametrize("output", ["file", "terminal"])
def test_two_lines_wherever_they_go(stored, issuer, kind, output):
    approval = issuer.approve(kind)
    # A terminal somewhere is what allows a login: here the one on standard error's place would be the storer's own.
    master, slave = pty.openpty()
    path = stored.client.home / "output"
    out_master, out_slave = pty.openpty()
    tty.setraw(out_slave)
    try:
        with open(path, "wb") as file:
            done = subprocess.run(
                stored.client.arguments(stored.first("--vaulttokenminttl=20d"), "dune"), stdin=slave,
                stdout=file if output == "file" else out_slave, stderr=subprocess.PIPE, env=stored.client.environment(),
                timeout=PATIENCE, start_new_session=True,
            )
        approval.join()
        seen = path.read_bytes() if output == "file" else os.read(out_master, 65536)
    finally:
        for descriptor in (master, slave, out_master, out_slave):
            os.close(descriptor)
    assert done.returncode == 0, done.stderr
    token, url, rest = seen.split(b"\n")
    assert token.startswith(b"hvs.") and url == stored.url.encode() and rest == b""


def test_revoking_the_long_one_ends_the_short_one(storer, server, issuer):
    storer.client.kind, kind = "other", storer.client.kind
    login = storer.log_in()
    storer.client.kind = kind
    assert login.code == 0, login
    long = login.out.splitlines()[0]
    assert storer.client.run(*storer.second(), stdin=long).code == 0
    assert server.call("POST", "auth/token/revoke-self", long)[0] == 204
    dead = storer.client.run(*storer.first("--nooidc", "-q"), terminal=False)
    assert dead.code == 1, dead


class Credmon:
    """condor_credmon_vault: connects to an address, checks the certificate against the name, says neither by SNI nor by Host."""

    def __init__(self, server):
        self.server = server
        self.context = ssl.create_default_context(cafile=str(server.authority.path))
        self.context.check_hostname = False

    def get(self, url, token, query):
        path = "/v1/" + url.split("/v1/")[1]
        raw = socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE)
        with self.context.wrap_socket(raw) as connection:
            names = [value for kind, value in connection.getpeercert()["subjectAltName"] if kind == "DNS"]
            assert "localhost" in names
            request = http.client.HTTPConnection("127.0.0.1", self.server.port)
            request.sock = connection
            request.putrequest("GET", f"{path}?{query}", skip_accept_encoding=True)
            request.putheader("X-Vault-Token", token)
            request.endheaders()
            answer = request.getresponse()
            body = answer.read()
        assert answer.status in http.client.responses
        assert answer.headers["content-type"] == "application/json"
        # It parses every answer before it looks at anything else.
        return answer.status, json.loads(body)


@pytest.fixture
def credmon(server):
    return Credmon(server)


def test_credmon_refreshes(stored, credmon):
    status, body = credmon.get(stored.url, stored.token, "minimum_seconds=2400")
    assert status == 200 and body["data"]["type"] == "Bearer", body
    token = claims(body["data"]["access_token"])
    assert token["scope"].split()
    assert body["data"]["expire_time"].endswith("Z")
    query = "minimum_seconds=2400&scopes=compute.create&audience"
    for url, name in ((stored.url, "audience"), (stored.url.replace("/creds/", "/sts/"), "audiences")):
        query = f"minimum_seconds=2400&scopes=compute.create&{name}=https%3A%2F%2Fce.example.org"
        status, body = credmon.get(url, stored.token, query)
        assert status == 200, body
        assert claims(body["data"]["access_token"])["scope"] == "compute.create"


def test_credmon_hears_the_fatal_words_only_on_proof(stored, credmon, server, issuer):
    def heard(url, token, query="minimum_seconds=2400"):
        status, body = credmon.get(url, token, query)
        return status, " ".join(body.get("errors") or [])

    issuer.admin("faults", {"endpoint": "token", "kind": "drop"})
    try:
        status, text = heard(stored.url.replace("/creds/", "/sts/"), stored.token, "minimum_seconds=60&scopes=storage.read:/x")
    finally:
        issuer.admin("faults", method="DELETE")
    assert status == 503 and text and "permission denied" not in text
    missing = stored.url.replace(":default", ":nosuch")
    status, text = heard(missing, stored.token)
    assert status != 200 and "permission denied" not in text
    child = server.call("POST", "auth/token/create", stored.token, {"ttl": "1h"})[1]["auth"]["client_token"]
    assert server.call("POST", "auth/token/revoke-self", child)[0] == 204
    assert heard(stored.url, child) == (403, "permission denied")


def managed(client, server, *more):
    """Managed tokens' words; Kerberos and ssh are allowed and find nothing to work with here."""
    vault, bearer = client.home / "managed-vt", client.home / "managed-bt"
    words = [*client.program, "-a", f"localhost:{server.port}", "-i", "dune", "--vaulttokenfile", vault, "-o", bearer, *more]
    environment = {
        "HTGETTOKENOPTS": f"--vaulttokenminttl=10s --credkey={client.kind} --cafile={server.authority.path}",
        "KRB5CCNAME": f"FILE:{client.home}/krb5cc", "KRB5_CONFIG": "/dev/null",
    }
    return client.execute(words, env=environment), vault, bearer


@pytest.mark.parametrize("more", [(), ("--verbose",), ("--role", "default")])
def test_managed_tokens(stored, server, kind, more):
    # It makes the files beforehand, empty.
    for name in ("managed-vt", "managed-bt"):
        (stored.client.home / name).touch(mode=0o600)
    outcome, vault, bearer = managed(stored.client, server, *more)
    assert outcome.code == 1, outcome
    assert "htgettoken: " in outcome.err
    if kind == "ours":
        # The original asks with the empty token all the same, and hears what an empty token is worth.
        assert "permission denied" not in outcome.out + outcome.err
    assert bearer.read_text() == vault.read_text() == ""

    short = server.call("POST", "auth/token/create", stored.token, {"ttl": "7d"})[1]["auth"]["client_token"]
    vault.write_text(short + "\n")
    outcome, vault, bearer = managed(stored.client, server, *more)
    assert outcome.code == 0, outcome
    assert claims(bearer.read_text())["sub"] and vault.read_text().startswith("hvs.")
    assert f"Storing bearer token in {bearer}\n" in outcome.out
