"""The store in etcd: a server on it, one that is away, and copying the store there and back."""

import os
import signal
import subprocess

import pytest

from support.etcd import Etcd
from support.processes import GRIDKEEP, PATIENCE, wait_until
from support.vault import Vault


@pytest.fixture
def etcd(tmp_path, ending):
    made = Etcd(tmp_path / "etcd")
    ending(made)
    return made


def gridkeep(*words):
    return subprocess.run([GRIDKEEP, *words], capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]})


def in_etcd(etcd, prefix="gridkeep/"):
    return {"etcd": {"endpoints": [etcd.client], "prefix": prefix}}


def refused(client, token, key):
    status, body = client.read(token, key)
    return None if status == 200 else (status, body)


def test_a_server_keeps_everything_in_etcd_and_nothing_readable(etcd, make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], own={"store": in_etcd(etcd)})
    client = Vault(server)
    token, key = client.login()
    assert client.read(token, key)[0] == 200
    assert not (server.directory / "data" / "store").exists()
    kept = etcd.ctl("get", "", "--prefix")
    for secret in (token, "alice", "wlcg"):
        assert secret not in kept, f"{secret} is to be read in etcd"

    server.stop()
    server.start()
    client = Vault(server)
    # On a slow machine the first answers may be "later", until the node has seen its own heartbeat.
    wait_until(lambda: client.read(token, key)[0] == 200, "a token outlives its server", server.process)

    etcd.process.signal(signal.SIGSTOP)
    try:
        # What is cached counts until the node misses its own heartbeat.
        status, body = wait_until(lambda: refused(client, token, key), "nothing is served without the store", server.process)
        assert status == 503 and "permission denied" not in str(body), body
    finally:
        etcd.process.signal(signal.SIGCONT)
    wait_until(lambda: client.read(token, key)[0] == 200, "the store is back", server.process)


def test_a_server_does_not_start_on_what_is_not_its_store(etcd, make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], own={"store": in_etcd(etcd)})
    server.stop()
    server.config["gridkeep"]["store"] = in_etcd(etcd, "elsewhere/")
    server.write_config()
    done = gridkeep("server", "--config", str(server.etc / "config.d"))
    assert done.returncode == 1 and "there is a root key, but no data in etcd at" in done.stdout + done.stderr, done
    checked = gridkeep("config", "check", "--config", str(server.etc / "config.d"))
    assert checked.returncode == 0, checked
    server.config["gridkeep"]["store"] = {"etcd": {"endpoints": [etcd.client.removeprefix("http://")]}}
    server.write_config()
    checked = gridkeep("config", "check", "--config", str(server.etc / "config.d"))
    assert checked.returncode == 2 and "begins neither with https://" in checked.stdout, checked


def test_a_store_is_copied_to_etcd_and_back(etcd, make_issuer, make_server, entry, tmp_path):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    client = Vault(server)
    token, key = client.login()
    here, there, back = server.etc / "config.d", tmp_path / "there.yaml", tmp_path / "back.yaml"
    there.write_text(f'gridkeep: {{store: {{etcd: {{endpoints: ["{etcd.client}"]}}}}}}\n')
    back.write_text(f"gridkeep: {{data: {tmp_path / 'back'}}}\n")

    running = gridkeep("store", "copy", "--from", here, "--to", there)
    assert running.returncode == 1 and "in use by another process" in running.stderr, running
    server.stop()
    same = gridkeep("store", "copy", "--from", here, "--to", here)
    assert same.returncode == 1 and "the same store" in same.stderr, same
    copied = gridkeep("store", "copy", "--from", here, "--to", there)
    assert copied.returncode == 0 and "are the same" in copied.stdout, copied
    again = gridkeep("store", "copy", "--from", here, "--to", there)
    assert again.returncode == 1 and "already" in again.stderr, again

    server.config["gridkeep"]["store"] = in_etcd(etcd)
    server.write_config()
    server.start()
    client = Vault(server)
    wait_until(lambda: client.read(token, key)[0] == 200, "the token made before works on the copy", server.process)
    second, _ = client.login()
    server.stop()

    if os.geteuid() == 0:
        # What root copies belongs to whom the data directory belongs.
        (tmp_path / "back").mkdir(mode=0o700)
        os.chown(tmp_path / "back", 4711, 4712)
    copied = gridkeep("store", "copy", "--from", here, "--to", back)
    assert copied.returncode == 0, copied
    if os.geteuid() == 0:
        assert "was given to user id 4711" in copied.stdout, copied
        store = tmp_path / "back" / "store"
        owners = {(found.stat().st_uid, found.stat().st_gid) for found in [store, *store.iterdir()]}
        assert owners == {(4711, 4712)}, owners
        for found in [tmp_path / "back", store, *store.iterdir()]:
            os.chown(found, 0, 0)
    del server.config["gridkeep"]["store"]
    server.config["gridkeep"]["data"] = str(tmp_path / "back")
    server.write_config()
    server.start()
    client = Vault(server)
    for each in (token, second):
        assert client.read(each, key)[0] == 200
