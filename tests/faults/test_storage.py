"""The disk is full, the data directory disappears, comes back older, belongs to another key or another process."""

import os
import shutil
import signal
import subprocess

import pytest

from support.processes import GRIDKEEP, PATIENCE, on_small_disk, wait_until


def started(server, **options):
    """Runs the server to its end and returns what it said; for servers that refuse to start."""
    done = subprocess.run(
        [GRIDKEEP, "server", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"]}, **options,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def world(make_issuer, make_server, entry, vault):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    client = vault(server)
    token, key = client.login()
    return issuer, server, client, token, key


def test_a_full_disk_lets_reads_go_on(make_issuer, make_server, entry, vault, tmp_path):
    issuer = make_issuer(auto_login="alice", rotation="immediate")
    disk = tmp_path / "disk"
    disk.mkdir()
    server = make_server([entry(issuer)], own={"data": str(disk / "data")}, wrapper=on_small_disk(disk, 48))
    client = vault(server)
    token, key = client.login()
    inside = f"/proc/{server.process.pid}/root{disk}/filler"
    with open(inside, "wb") as filler:
        try:
            while True:
                filler.write(b"\0" * 65536)
                filler.flush()
        except OSError:
            pass

    def refused():
        status, body = client.request("POST", "auth/token/create", token, {"ttl": "1h"})
        return body if status == 503 else None

    body = wait_until(refused, "writes are refused", server.process)
    assert "full" in body["errors"][0] and "permission denied" not in body["errors"][0], body
    assert client.read(token, key, minimum=10)[0] == 200
    assert client.request("GET", "auth/token/lookup-self", token)[0] == 200
    # A refresh is saved from the space set aside: with immediate rotation a lost one could not be had again.
    wait_until(lambda: refreshing(issuer, client, token, key), "a refresh happened", server.process)
    wait_until(lambda: client.read(token, key, minimum=10)[0] == 200, "the refreshed token is handed out")
    for _ in range(20):
        client.request("POST", "auth/token/create", token, {"ttl": "1h"})
    assert server.log().count("the disk is full: writes are refused") == 1
    assert "there is room on the disk again" not in server.log()
    os.unlink(inside)

    def works():
        return client.request("POST", "auth/token/create", token, {"ttl": "1h"})[0] == 200

    wait_until(works, "writes go on without a restart", server.process)
    assert server.log().count("there is room on the disk again") == 1
    assert issuer.admin("counters")["grants"][0]["alive"]
    assert client.request("POST", "auth/token/revoke-self", token)[0] == 204


def test_a_data_directory_that_is_not_there_refuses_to_start(world):
    _, server, _, _, _ = world
    server.stop()
    data = server.directory / "data"
    data.rename(server.directory / "elsewhere")
    data.mkdir()
    code, said = started(server)
    assert code != 0
    assert "key" in said and "permission denied" not in said.lower(), said
    shutil.rmtree(data)
    (server.directory / "elsewhere").rename(data)


def test_data_without_its_key_refuses_to_start(world):
    _, server, _, _, _ = world
    server.stop()
    key = server.etc / "root.key"
    moved = key.rename(server.etc / "root.key.away")
    code, said = started(server)
    assert code != 0 and "root.key" in said, said
    assert not key.exists(), "no new key was made beside data of another"
    moved.rename(key)


def test_a_second_server_on_the_same_data_refuses_to_start(world):
    _, server, _, _, _ = world
    server.config["gridkeep"]["run_directory"] = str(server.directory / "run2")
    address = server.config["gridkeep"]["listen"]
    server.config["gridkeep"]["listen"] = ["127.0.0.1:0"]
    server.write_config()
    code, said = started(server)
    server.config["gridkeep"].update(run_directory=str(server.directory / "run"), listen=address)
    server.write_config()
    assert code != 0 and "in use" in said.lower() or "another process" in said.lower(), said
    assert server.process.popen.poll() is None, "the first one goes on"


def test_an_older_copy_is_no_proof_that_a_token_is_dead(world):
    _, server, client, token, key = world
    server.stop()
    shutil.copytree(server.directory / "data", server.directory / "copy")
    server.start()
    client = type(client)(server)
    status, made = client.request("POST", "auth/token/create", token, {"ttl": "1h"})
    assert status == 200
    newer = made["auth"]["client_token"]
    server.stop()
    shutil.rmtree(server.directory / "data")
    (server.directory / "copy").rename(server.directory / "data")
    server.start()
    client = type(client)(server)
    status, body = client.read(newer, key)
    assert status == 503 and "restored" in body["errors"][0], body
    assert client.read(token, key)[0] == 200
    forged = newer[:-6] + ("AAAAAA" if not newer.endswith("AAAAAA") else "BBBBBB")
    status, body = client.read(forged, key)
    assert status == 403 and body["errors"] == ["permission denied"], body


def test_a_vanished_data_directory_does_not_acknowledge_writes(world):
    _, server, client, token, key = world
    data = server.directory / "data"
    data.rename(server.directory / "away")
    data.mkdir()
    try:
        status, body = client.request("POST", "auth/token/create", token, {"ttl": "1h"})
        assert status == 503 and "permission denied" not in str(body), body
    finally:
        data.rmdir()
        (server.directory / "away").rename(data)


def test_the_service_stops_in_order_while_requests_are_under_way(make_issuer, make_server, entry, vault):
    issuer = make_issuer(auto_login="alice", rotation="immediate")
    server = make_server([entry(issuer)])
    client = vault(server)
    token, key = client.login()
    issuer.admin("faults", {"endpoint": "token", "grant_type": "refresh_token", "kind": "delay", "delay_answer_ms": 1500})
    import threading

    reader = threading.Thread(target=lambda: wait_until(lambda: refreshing(issuer, client, token, key), "a refresh is under way"))
    reader.start()
    wait_until(lambda: issuer.admin("counters")["grant_types"].get("refresh_token", {}).get("received"), "the issuer is asked")
    server.process.signal(signal.SIGTERM)
    assert server.process.popen.wait(PATIENCE) == 0, server.log()
    reader.join(PATIENCE)
    issuer.admin("faults", method="DELETE")
    server.notify.close()
    server.start()
    client = type(client)(server)
    wait_until(lambda: client.read(token, key, minimum=3599)[0] == 200, "the login survived", server.process)
    assert issuer.admin("counters")["grant_types"]["refresh_token"]["undelivered"] == 0


def refreshing(issuer, client, token, key):
    from support.vault import Gone

    try:
        # Nearly all the life that a token has: true for its first second only.
        client.read(token, key, minimum=3599)
    except Gone:
        return True
    return "refresh_token" in issuer.admin("counters")["grant_types"]
