"""Sealing as Vault's clients know it: init, unseal, seal and key rotation by hvac, and the operators' commands."""

import base64
import os
import stat
import subprocess

import hvac
import hvac.exceptions
import pytest

from support.processes import GRIDKEEP, PATIENCE, wait_until
from support.vault import Vault


def client_of(server, token=None):
    return hvac.Client(url=server.url, token=token, verify=str(server.authority.path))


def operator(server, *words, **options):
    return subprocess.run(
        [GRIDKEEP, "operator", *words, "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"]}, **options,
    )


@pytest.fixture
def sealed(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    return make_server([entry(issuer)], own={"seal": {"shamir": True}})


def opened(server):
    """Waits until the server serves again, and returns a client on a fresh connection."""
    wait_until(lambda: server.call("GET", "sys/health")[0] == 200, "the server is unsealed", server.process)
    return Vault(server)


def test_init_unseal_seal(sealed):
    server = sealed
    client = client_of(server)
    assert not client.sys.is_initialized() and client.sys.is_sealed()
    assert server.call("GET", "sys/health")[0] == 501
    assert server.call("GET", "sys/health?uninitcode=200")[0] == 200
    status, body = server.call("GET", "secret/oauth/creds/dune/alice:default", "hvs.x")
    assert (status, body["errors"]) == (503, ["Vault is sealed"])
    for wrong in ({}, {"secret_shares": 2, "secret_threshold": 3}, {"secret_shares": 2, "secret_threshold": 1}, {"secret_shares": 300, "secret_threshold": 2}):
        assert server.call("PUT", "sys/init", body=wrong)[0] == 400, wrong
    status, body = server.call("PUT", "sys/unseal", body={"key": "ab" * 33})
    assert status == 400 and "not yet initialized" in body["errors"][0]

    made = client.sys.initialize(5, 3)
    keys, root = made["keys"], made["root_token"]
    assert [base64.b64decode(key).hex() for key in made["keys_base64"]] == keys and len(keys) == 5
    assert client.sys.is_initialized() and client.sys.is_sealed()
    with pytest.raises(hvac.exceptions.InvalidRequest, match="already initialized"):
        client.sys.initialize(1, 1)
    assert server.call("GET", "sys/health")[0] == 503

    status = client.sys.submit_unseal_key(keys[0])
    assert (status["sealed"], status["t"], status["n"], status["progress"], status["type"]) == (True, 3, 5, 1, "shamir")
    assert status["nonce"]
    assert client.sys.submit_unseal_key(keys[0])["progress"] == 1, "the same share again counts once"
    assert client.sys.submit_unseal_key(reset=True)["progress"] == 0
    for bad in ("nonsense", "abcd"):
        with pytest.raises(hvac.exceptions.InvalidRequest):
            client.sys.submit_unseal_key(bad)
    client.sys.submit_unseal_keys([keys[0], made["keys_base64"][1]])
    forged = keys[2][:-4] + ("00" if keys[2][-4:-2] != "00" else "11") + keys[2][-2:]
    with pytest.raises(hvac.exceptions.InvalidRequest, match="invalid key"):
        client.sys.submit_unseal_key(forged)
    assert client.sys.read_seal_status()["progress"] == 0
    client.sys.submit_unseal_keys([keys[4], made["keys_base64"][1]])
    assert client.sys.submit_unseal_key(keys[3])["sealed"] is False

    vault = opened(server)
    token, key = vault.login()
    assert vault.read(token, key)[0] == 200
    admin = client_of(server, root)
    assert admin.lookup_token()["data"]["policies"] == ["operator"]
    status = client.sys.read_seal_status()
    assert (status["sealed"], status["t"], status["n"], status["type"]) == (False, 3, 5, "shamir")
    with pytest.raises(hvac.exceptions.InvalidRequest, match="vault is unsealed"):
        client.sys.submit_unseal_key(reset=True)
    assert vault.request("PUT", "sys/seal", token)[0] == 403, "only operators seal"
    assert vault.read(token, key)[0] == 200

    admin.sys.seal()
    assert client.sys.is_sealed()
    status, body = server.call("GET", f"secret/oauth/creds/dune/{key}:default", token)
    assert (status, body["errors"]) == (503, ["Vault is sealed"])
    wait_until(lambda: "sealed on" in server.log().rpartition("sealing:")[2], "what was under way is finished", server.process)
    assert operator(server, "token").returncode == 1
    for share in keys[:2]:
        told = operator(server, "unseal", input=share + "\n")
        assert told.returncode == 0 and "of 3 shares given" in told.stdout, told
    told = operator(server, "unseal", input=made["keys_base64"][2] + "\n")
    assert "unsealed" in told.stdout, told
    vault = opened(server)
    assert vault.read(token, key)[0] == 200, "what was kept is there"

    server.stop()
    server.start()
    assert client.sys.is_sealed(), "a restart is sealed"
    for share in keys[:3]:
        client.sys.submit_unseal_key(share)
    assert opened(server).read(token, key)[0] == 200
    everything = b"".join(path.read_bytes() for path in server.directory.rglob("*") if path.is_file())
    for share, text in zip(keys, made["keys_base64"]):
        assert share.encode() not in everything and text.encode() not in everything and bytes.fromhex(share) not in everything


def test_a_key_file_unseals_by_itself_and_on_order(make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(auto_login="alice"))])
    vault = Vault(server)
    token, key = vault.login()
    told = operator(server, "seal")
    assert told.returncode == 0, told
    client = client_of(server)
    assert client.sys.is_initialized() and client.sys.is_sealed()
    wait_until(lambda: "sealed on" in server.log(), "what was under way is finished", server.process)
    status, body = server.call("PUT", "sys/unseal", body={"key": "ab" * 32})
    assert status == 400 and "operator unseal" in body["errors"][0], "nobody unseals it from afar"
    assert operator(server, "unseal").returncode == 0
    assert opened(server).read(token, key)[0] == 200


def test_keys_are_rotated_while_it_serves(make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(auto_login="alice"))])
    vault = Vault(server)
    token, key = vault.login()
    admin = client_of(server, server.operator_token())
    assert admin.sys.get_encryption_key_status()["data"]["term"] == 1
    admin.sys.rotate_encryption_key()
    assert operator(server, "rotate-keyring").returncode == 0

    def done():
        status = admin.sys.get_encryption_key_status()["data"]
        return status["term"] == 3 and status["generations"] == 1

    wait_until(done, "everything is sealed under the newest key", server.process)
    assert vault.read(token, key)[0] == 200

    path = server.etc / "root.key"
    old = path.read_text()
    told = operator(server, "rotate-root-key")
    assert told.returncode == 0 and "lies in" in told.stdout, told
    assert path.read_text() != old and stat.S_IMODE(path.stat().st_mode) == 0o600
    (aside,) = server.etc.glob("root.key.old-*")
    assert aside.read_text() == old
    assert vault.read(token, key)[0] == 200
    server.stop()
    server.start()
    assert Vault(server).read(token, key)[0] == 200
    server.stop()
    # The old key opens nothing any more.
    new = path.read_text()
    path.write_text(old)
    done = subprocess.run([GRIDKEEP, "server", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 1 and "is sealed under root key" in done.stdout + done.stderr
    path.write_text(new)
