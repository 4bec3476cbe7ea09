"""A canary test: no secret is found in any file, log, command line or environment, nor in the answers to people who may not have it."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support.canaries import assert_hidden, everything
from support.memory import found_in_memory, keys_of_store, root_key
from support.processes import GRIDKEEP, PATIENCE, WITH_US, wait_until
from support.servers import Server


@pytest.fixture
def kind():
    return "ours"


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

    assert_hidden(secrets, everything(server))


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
    read = {"path": "secret/oauth/creds/dune/alice:default", "operation": "read"}

    def reads_noted():
        # Nobody waits for the line about the answer, which is written a moment after the answer was given.
        found = [line for line in server.audit() if read.items() <= line["request"].items()]
        return found if found and found[-1]["type"] == "response" else None

    reads = wait_until(reads_noted, "the answer is noted", server.process)
    assert [line["type"] for line in reads] == ["request", "response"]
    auth = reads[1]["auth"]
    assert "oauth2_refresh_token" not in str(server.audit())
    assert reads[1]["request"]["remote_address"] == "127.0.0.1"
    assert auth["policy_results"]["allowed"] is True
    assert reads[1]["response"]["data"]["access_token"].startswith("hmac-sha256:")


NOBODY = 65534
MAY_LOCK = ["--inh-caps=+ipc_lock", "--ambient-caps=+ipc_lock"]
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def server_of_nobody(program, public, authority, issuer, entry, lockable=None, capable=False, **options):
    """As the user nobody, with core dumps allowed, in a directory where one could be written; `capable` may lock memory past the limit."""
    limits = ["prlimit", "--core=unlimited", *([f"--memlock={lockable}"] if lockable else [])]
    issuers = [{**entry(issuer), "ca_file": shutil.copy(issuer.ca, public)}]
    server = Server(public / "server", authority, issuers, wrapper=[*limits, *AS_NOBODY, *(MAY_LOCK if capable else []), *WITH_US], program=program, **options)
    # The authority is everybody's: what this server wants of it is copied.
    for name in ("certificate", "key"):
        server.config["gridkeep"]["tls"][name] = shutil.copy(server.config["gridkeep"]["tls"][name], server.etc)
    server.write_config()
    for path in public.rglob("*"):
        os.chown(path, NOBODY, NOBODY)
    return server


def check_closed_off(pid):
    """Nothing of /proc that another program of the same user could read secrets from, and no core dump."""
    proc = Path(f"/proc/{pid}")

    def as_nobody(name):
        return subprocess.run([*AS_NOBODY, "head", "-c", "1", proc / name], capture_output=True).returncode == 0

    assert as_nobody("cmdline"), "the test looks at the right place"
    for name in ("mem", "environ", "maps", "auxv", "stack"):
        assert not as_nobody(name), name
    limits = (proc / "limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits), limits


def test_the_memory_of_a_command_that_is_given_a_share_is_its_own(as_root, everybodys, public, authority, ending, make_issuer, entry):
    server = server_of_nobody(everybodys, public, authority, make_issuer(auto_login="alice"), entry, own={"seal": {"shamir": True}})
    ending(server)
    server.start()
    made = server.call("PUT", "sys/init", body={"secret_shares": 3, "secret_threshold": 2})[1]
    wait_until(lambda: server.call("GET", "sys/seal-status")[1]["n"] == 3, "it has begun anew", server.process)
    check_closed_off(server.process.pid)
    unsealing = subprocess.Popen(
        ["prlimit", "--core=unlimited", *AS_NOBODY, everybodys, "operator", "unseal", "--config", server.etc / "config.d"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]},
    )
    try:
        # It has asked the server, and waits for the share.
        assert unsealing.stdout.readline() == "0 of 2 shares given\n"
        check_closed_off(unsealing.pid)
        told, _ = unsealing.communicate(made["keys"][0] + "\n", timeout=PATIENCE)
        assert told == "1 of 2 shares given\n"
    finally:
        unsealing.kill()
        unsealing.wait(PATIENCE)


@pytest.mark.parametrize("lockable, capable", [("unlimited", False), ("65536:65536", False), ("65536:65536", True)])
def test_the_memory_of_the_server_is_its_own(as_root, lockable, capable, everybodys, public, authority, ending, make_issuer, make_client, entry):
    """No core dump, no swap, and nothing of /proc that another program of the same user could read secrets from."""
    if subprocess.run(["prlimit", f"--memlock={lockable}", "true"], capture_output=True).returncode:
        pytest.skip("not even root may lift the limit of locked memory here")
    server = server_of_nobody(everybodys, public, authority, make_issuer(auto_login="alice"), entry, lockable, capable)
    ending(server)
    server.start()
    user = make_client(server)
    assert user.run().code == 0
    check_closed_off(server.process.pid)
    proc = Path(f"/proc/{server.process.pid}")
    status = (proc / "status").read_text()
    locked = int(re.search(r"VmLck:\s+(\d+) kB", status)[1])
    # Locked where that is allowed, and said where it is not.
    assert (locked > 0, "the memory of the server is not locked" in server.log()) == ((True, False) if lockable == "unlimited" or capable else (False, True)), status
    assert re.search(r"Max locked memory +(\S+)", (proc / "limits").read_text())[1] == lockable.partition(":")[0]
    before = set(server.directory.rglob("*")) | set(Path.cwd().glob("core*"))
    server.process.signal(signal.SIGABRT)
    server.process.popen.wait(60)
    assert server.process.popen.returncode == -signal.SIGABRT
    after = set(server.directory.rglob("*")) | set(Path.cwd().glob("core*"))
    assert not [path for path in after - before if "core" in path.name]
    server.notify.close()
    server.process = None


def operator(server, word):
    done = subprocess.run(
        [GRIDKEEP, "operator", word, "--config", server.etc / "config.d"], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done


def data_of(server):
    return b"".join(path.read_bytes() for path in (server.directory / "data" / "store").rglob("*") if path.is_file())


def test_a_sealed_server_has_no_key_in_its_memory(as_root, make_issuer, make_server, make_client, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    user = make_client(server)
    assert user.run().code == 0
    operator(server, "rotate-keyring")
    text = (server.etc / "root.key").read_text()
    keys = keys_of_store(root_key(text), data_of(server))
    assert {"data key 1", "data key 2", "the store's own secret"} <= keys.keys(), keys.keys()
    before = found_in_memory(server.process.pid, keys)
    assert {"data key 2", "the store's own secret"} <= before.keys(), "the test looks at the right place"
    keys["the root key's text"] = text.strip().rpartition(":")[2].encode()
    keys["the access token"] = user.bearer.read_bytes().strip()
    keys["the vault token"] = user.vault_token.read_bytes().strip()

    operator(server, "seal")
    wait_until(lambda: "sealed on" in server.log(), "what was under way is finished", server.process)
    assert found_in_memory(server.process.pid, keys) == {}
    assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{server.process.pid}/limits").read_text())


def test_nothing_of_new_shares_stays_in_memory(as_root, make_issuer, make_server, make_client, entry):
    server = make_server([entry(make_issuer(auto_login="alice"))], own={"seal": {"shamir": True}})
    # A single share is the root key.
    status, made = server.call("PUT", "sys/init", body={"secret_shares": 1, "secret_threshold": 1})
    assert status == 200, made
    wait_until(lambda: server.log().count("sealed on") == 2, "it has begun anew", server.process)
    share = made["keys"][0]
    keys = {
        "share": share.encode(), "share in base64": made["keys_base64"][0].encode(), "root token": made["root_token"].encode(),
        **keys_of_store(bytes.fromhex(share), data_of(server)),
    }
    assert {"root key", "data key 1", "the store's own secret"} <= keys.keys()
    assert found_in_memory(server.process.pid, keys) == {}
    assert server.call("PUT", "sys/unseal", body={"key": share})[1]["sealed"] is False
    wait_until(lambda: server.call("GET", "sys/health")[0] == 200, "it is unsealed", server.process)
    assert make_client(server).run().code == 0
    assert "data key 1" in found_in_memory(server.process.pid, keys)
    operator(server, "seal")
    wait_until(lambda: server.log().count("sealed on") == 3, "what was under way is finished", server.process)
    assert found_in_memory(server.process.pid, keys) == {}
