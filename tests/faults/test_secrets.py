"""A canary test: no secret is found in any file, log, command line or environment, nor in the answers to people who may not have it."""

import base64
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def kind():
    return "ours"


def everything(server):
    """All bytes that a run leaves where others could look: files below its directory but the configuration and keys, and /proc."""
    spared = {server.etc / "config.d" / "10-test.yaml", server.etc / "root.key"}
    for path in server.directory.rglob("*"):
        if path.is_file() and path not in spared:
            yield str(path), path.read_bytes()
    proc = Path(f"/proc/{server.process.pid}")
    for name in ("cmdline", "environ"):
        yield str(proc / name), (proc / name).read_bytes()


def test_no_secret_is_found_anywhere(make_issuer, make_server, make_client, entry, vault):
    # IAM's refresh tokens are JWTs like its access tokens: one pattern finds them all.
    issuer = make_issuer(auto_login="alice", character="iam", access_token_seconds=20)
    server = make_server([entry(issuer)], arguments=["--log", "trace"])
    user = make_client(server)
    assert user.run("-d").code == 0
    client = vault(server)
    token, key = client.login()
    secrets = {
        "access token": user.bearer.read_text().strip(),
        "vault token": user.vault_token.read_text().strip(),
        "second vault token": token,
        "client secret": issuer.client_secret,
        "operator token": server.operator_token(),
    }
    status, narrowed = client.request("GET", f"secret/oauth/sts/dune/{key}:default?scopes=storage.read:/x", token)
    if status == 200:
        secrets["narrowed token"] = narrowed["data"]["access_token"]
    # Things that go wrong are written about most.
    client.request("POST", f"secret/oauth/creds/dune/{key}:default", token, {"server": "dune", "refresh_token": "canary-refresh-token-of-a-client"})
    secrets["a client's refresh token"] = "canary-refresh-token-of-a-client"
    client.request("GET", f"secret/oauth/creds/dune/{token}:default", token)
    client.request("GET", f"auth/token/lookup-self?token={token}", token)
    issuer.admin("revoke", {"user": "alice"})
    client.read(token, key, minimum=19)
    server.reload()

    jwt = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
    for place, content in everything(server):
        for what, secret in secrets.items():
            for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="), secret.encode().hex()):
                assert form.encode() not in content, f"{what} lies in {place}"
        assert not jwt.search(content), f"a token lies in {place}"
        assert b"gkh." not in content, f"a handle lies in {place}"


def test_files_are_private(make_issuer, make_server, make_client, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    user = make_client(server)
    assert user.run().code == 0
    for path in [*(server.directory / "data").rglob("*"), server.directory / "data", server.directory / "audit.log", server.etc / "root.key"]:
        mode = path.stat().st_mode & 0o777
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
    for path in (user.bearer, user.vault_token):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert os.stat(server.directory / "run").st_mode & 0o022 == 0


def test_the_audit_log_says_who_fetched_what(make_issuer, make_server, make_client, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    user = make_client(server)
    assert user.run().code == 0
    reads = [line for line in server.audit() if line["request"]["path"] == "secret/oauth/creds/dune/alice:default" and line["request"]["operation"] == "read"]
    assert [line["type"] for line in reads] == ["request", "response"]
    auth = reads[1]["auth"]
    assert "oauth2_refresh_token" not in str(server.audit())
    assert reads[1]["request"]["remote_address"] == "127.0.0.1"
    assert auth["policy_results"]["allowed"] is True
    assert reads[1]["response"]["data"]["access_token"].startswith("hmac-sha256:")


@pytest.fixture
def reachable():
    """Opens directories to other users for the time of a test."""
    modes = {}

    def reach(directory):
        modes[directory] = directory.stat().st_mode & 0o7777
        directory.chmod(modes[directory] | 0o055)

    yield reach
    for directory, mode in modes.items():
        directory.chmod(mode)


def test_the_memory_of_the_server_is_its_own(make_issuer, make_server, make_client, entry, reachable):
    """No core dump, and nothing of /proc that another program of the same user could read secrets from."""
    if os.geteuid() != 0:
        pytest.skip("only root can run the server as another user and look at it as that user")
    issuer = make_issuer(auto_login="alice")
    nobody = 65534
    # As the user nobody, with core dumps allowed, in a directory where one could be written.
    server = make_server(
        [entry(issuer)], start=False,
        wrapper=["prlimit", "--core=unlimited", "setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups"],
    )
    # The authority is everybody's: what this server wants of it is copied.
    for name in ("certificate", "key"):
        server.config["gridkeep"]["tls"][name] = shutil.copy(server.config["gridkeep"]["tls"][name], server.etc)
    server.write_config()
    for path in [server.directory, *server.directory.rglob("*")]:
        os.chown(path, nobody, nobody)
    for directory in [*server.directory.parents][:3]:
        reachable(directory)
    os.chmod(issuer.ca, 0o644)
    server.start()
    user = make_client(server)
    assert user.run().code == 0
    proc = Path(f"/proc/{server.process.pid}")

    def as_nobody(name):
        reader = subprocess.run(
            ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", "head", "-c", "1", proc / name], capture_output=True,
        )
        return reader.returncode == 0

    assert as_nobody("cmdline"), "the test looks at the right place"
    for name in ("mem", "environ", "maps", "auxv", "stack"):
        assert not as_nobody(name), name
    limits = (proc / "limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits), limits
    status = (proc / "status").read_text()
    locked = int(re.search(r"VmLck:\s+(\d+) kB", status)[1])
    assert locked > 0 or "the memory of the server is not locked" in server.log(), "locked, or said that it is not"
    before = set(server.directory.rglob("*")) | set(Path.cwd().glob("core*"))
    server.process.signal(signal.SIGABRT)
    server.process.popen.wait(60)
    assert server.process.popen.returncode == -signal.SIGABRT
    after = set(server.directory.rglob("*")) | set(Path.cwd().glob("core*"))
    assert not [path for path in after - before if "core" in path.name]
    server.notify.close()
    server.process = None
