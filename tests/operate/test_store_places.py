"""The store in etcd: a server on it, one that is away, and copying the store there and back."""

import json
import os
import signal
import subprocess

import pytest

from support.etcd import PROGRAMS, Etcd
from support.processes import GRIDKEEP, PATIENCE, wait_until
from support.servers import past_later
from support.vault import Vault


@pytest.fixture(params=PROGRAMS)
def etcd(request, tmp_path, ending):
    made = Etcd(tmp_path / "etcd", version=request.param)
    ending(made)
    return made


def gridkeep(*words):
    return subprocess.run([GRIDKEEP, *words], capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]})


def in_etcd(etcd, prefix="gridkeep/", **more):
    tls = {"tls": etcd.tls} if etcd.tls else {}
    return {"etcd": {"endpoints": [etcd.client], "prefix": prefix, **tls, **more}}


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
        assert "kernel log" not in str(body), body
        for _ in range(20):
            refused(client, token, key)
    finally:
        etcd.process.signal(signal.SIGCONT)
    wait_until(lambda: client.read(token, key)[0] == 200, "the store is back", server.process)
    back = ("the store answers again", "the store takes what is written again")
    wait_until(lambda: any(line in server.log() for line in back), "the log says that it is back", server.process)
    # What is wrong is told once for what is read and once for what is written; who met it, each time.
    lines = [line for line in server.log().splitlines() if "WARN" in line and "the store does not serve" in line]
    assert 1 <= len(lines) <= 2 and all("etcdctl endpoint health" in line for line in lines), lines


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


QUOTA = 64 * 1024 * 1024
PIECE = 16 * 1024


class Filler:
    """Somebody else who fills the etcd, with revision after revision of some keys.

    None of them is large: etcd writes what lies beside a change anew, and it would be full before it is told to.
    """

    def __init__(self, etcd):
        self.etcd = etcd

    def used(self) -> int:
        (member,) = json.loads(self.etcd.ctl("endpoint", "status", "-w", "json"))
        return member["Status"]["dbSize"]

    def alarm(self) -> str:
        return self.etcd.ctl("alarm", "list").strip()

    def write(self, size: int):
        puts = "".join(f"put somebody-elses-{number} {'f' * min(PIECE, size - at)}\n" for number, at in enumerate(range(0, size, PIECE)))
        return self.etcd.try_ctl("txn", text=f"\n{puts}\n\n")

    def up_to(self, size: int) -> None:
        while (room := size - self.used()) > 0:
            done = self.write(min(max(room // 2, 4096), 1_000_000))
            assert done.returncode == 0, done
        assert not self.alarm()

    def to_the_brim(self) -> None:
        while (done := self.write(500_000)).returncode == 0:
            pass
        assert "database space exceeded" in done.stderr, done
        assert "NOSPACE" in self.alarm()

    def emptied(self) -> None:
        """What docs/operate.md leaves to the keeper of an etcd that has other users."""
        (member,) = json.loads(self.etcd.ctl("endpoint", "status", "-w", "json"))
        self.etcd.ctl("compact", "--physical", str(member["Status"]["header"]["revision"]))
        self.etcd.ctl("defrag")
        self.etcd.ctl("alarm", "disarm")


@pytest.mark.parametrize("version", PROGRAMS)
def test_what_clients_of_a_full_etcd_are_told(version, tmp_path, ending, make_issuer, make_server, entry):
    """Without upkeep of ours. First short of room, where what must not wait goes on; then full, where reading does; then emptied."""
    # It flushes each write by itself, and so always knows how large it is.
    etcd = Etcd(tmp_path / "etcd", "--quota-backend-bytes", str(QUOTA), "--backend-batch-limit", "1", version=version)
    ending(etcd)
    filler = Filler(etcd)
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], own={"store": in_etcd(etcd, upkeep=False, quota_backend_bytes=QUOTA)})
    client = Vault(server)
    token, key = client.login()
    create = ("POST", "auth/token/create", token, {"ttl": "1h"})
    look = lambda which: past_later(server, "GET", "auth/token/lookup-self", which)
    read = lambda: past_later(server, "GET", f"secret/oauth/creds/dune/{key}:default?minimum_seconds=60", token)

    def made():
        status, body = past_later(server, *create)
        assert status == 200, body
        return body["auth"]["client_token"]

    def refused_for_room():
        status, body = server.call(*create)
        # A node that is late with its heartbeat says "later" for another reason.
        return status == 503 and "it has reached its quota (NOSPACE)" in str(body["errors"])

    def operators_hear_of_it():
        """Whether `cluster status`, with its exit code, and `status` say that there is no room, or both that all is well; else nothing."""
        cluster, status = [gridkeep(*words, "--json", "--config", server.etc / "config.d") for words in (["cluster", "status"], ["status"])]
        said = [str(json.loads(cluster.stdout)["store"]["refusing_writes"]), str(json.loads(status.stdout)["store"]["trouble"])]
        if cluster.returncode == 1 and all("reached its quota (NOSPACE)" in each for each in said):
            return "yes"
        return "no" if cluster.returncode == 0 and said == ["None", "None"] else None

    first, second = made(), made()
    # It needs room too, and lives long enough.
    operator = server.operator_token()
    wait_until(lambda: operators_hear_of_it() == "no", "all is well", server.process)

    filler.up_to(QUOTA - QUOTA // 45)
    # Not by asking for tokens, which would take the room that is left.
    wait_until(lambda: operators_hear_of_it() == "yes", "the node sees how little room is left", server.process)
    wait_until(refused_for_room, "it refuses", server.process)
    assert not filler.alarm(), "etcd itself would still take it"
    assert read()[0] == 200 and look(first)[0] == 200
    # Revoking is not given up for want of room.
    assert past_later(server, "POST", "auth/token/revoke", operator, {"token": first})[0] == 204
    assert look(first)[0] == 403

    filler.to_the_brim()
    wait_until(refused_for_room, "the node hears it from etcd", server.process)
    wait_until(lambda: operators_hear_of_it() == "yes", "operators hear it", server.process)
    assert read()[0] == 200
    assert look(second)[0] == 200 and look(first)[0] == 403
    assert "panicked" not in server.log()

    filler.emptied()
    process = server.process
    wait_until(lambda: server.call(*create)[0] == 200, "there is room again", server.process)
    wait_until(lambda: operators_hear_of_it() == "no", "operators hear that it is over", server.process)
    assert past_later(server, "POST", "auth/token/revoke", operator, {"token": second})[0] == 204
    assert look(second)[0] == 403
    assert server.process is process and "etcd has room again" in server.log()


def test_a_store_behind_client_certificates(tmp_path, ending, authority, make_issuer, make_server, entry):
    """Copied there, used there, and copied back; who shows no certificate gets nowhere, and hears why."""
    etcd = Etcd(tmp_path / "etcd", authority=authority)
    ending(etcd)
    server = make_server([entry(make_issuer(auto_login="alice"))])
    client = Vault(server)
    token, key = client.login()
    server.stop()
    here, there, without, back = server.etc / "config.d", tmp_path / "there.yaml", tmp_path / "without.yaml", tmp_path / "back.yaml"
    there.write_text(json.dumps({"gridkeep": {"store": in_etcd(etcd)}}))
    bare = in_etcd(etcd)
    bare["etcd"]["tls"] = {"ca": etcd.tls["ca"]}
    without.write_text(json.dumps({"gridkeep": {"store": bare}}))
    back.write_text(json.dumps({"gridkeep": {"data": str(tmp_path / "back")}}))

    refused = gridkeep("store", "copy", "--from", here, "--to", without)
    assert refused.returncode == 1 and "etcd" in refused.stderr, refused
    assert etcd.ctl("get", "", "--prefix") == ""
    copied = gridkeep("store", "copy", "--from", here, "--to", there)
    assert copied.returncode == 0 and "are the same" in copied.stdout, copied
    server.config["gridkeep"]["store"] = in_etcd(etcd)
    server.write_config()
    server.start()
    client = Vault(server)
    wait_until(lambda: client.read(token, key)[0] == 200, "the token made before works on the copy", server.process)
    second, _ = client.login()
    told = gridkeep("cluster", "status", "--config", here)
    assert told.returncode == 0 and "etcd, answers" in told.stdout, told
    server.stop()

    copied = gridkeep("store", "copy", "--from", here, "--to", back)
    assert copied.returncode == 0 and "are the same" in copied.stdout, copied
    del server.config["gridkeep"]["store"]
    server.config["gridkeep"]["data"] = str(tmp_path / "back")
    server.write_config()
    server.start()
    client = Vault(server)
    for each in (token, second):
        assert client.read(each, key)[0] == 200
