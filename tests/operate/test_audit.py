"""The chain of the audit log: what is done to it shows, what happens to it by itself is explained, and a full disk stops what it says."""

import gzip
import json
import os
import shutil
import socket
import subprocess

import pytest

from support.processes import GRIDKEEP, PATIENCE, on_small_disk, wait_until
from support.servers import whole_lines
from support.vault import Vault


def verify(server, *paths, config=None):
    done = subprocess.run(
        [GRIDKEEP, "audit", "verify", "--config", config or server.etc / "config.d", *paths],
        capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]},
    )
    return done.returncode, done.stdout + done.stderr


def test_a_log_is_verified_over_rotation_kill_and_restart(world):
    _, server, client, token, key = world
    log = server.directory / "audit.log"
    code, told = verify(server, log)
    assert code == 0 and "all there, unchanged and in order" in told, told

    first = log.rename(log.with_suffix(".log.1"))
    wait_until(lambda: client.read(token, key)[0] == 200 and log.exists(), "the renamed file is followed", server.process)
    server.kill()
    server.start()
    client = Vault(server)
    client.read(token, key)
    server.reload()
    client.read(token, key)
    code, told = verify(server, log, first)
    assert code == 0 and "missing" not in told, told
    packed = first.with_suffix(".1.gz")
    packed.write_bytes(gzip.compress(first.read_bytes()))
    first.unlink()
    code, told = verify(server, log, packed)
    assert code == 0, told
    # Without a file: the configured log and what rotation made of it.
    code, told = verify(server)
    assert code == 0 and "2 files: " in told and "not given" not in told, told
    code, told = verify(server, log)
    assert code == 0 and "are in files that were not given" in told, told
    code, told = verify(server, packed)
    assert code == 1 and "at the end" in told, told
    assert verify(server, "--older", packed)[0] == 0

    # The same without the server; the lines since the last second are noted by an orderly stop.
    server.stop()
    code, told = verify(server, packed, log)
    assert code == 0 and "after its end was last noted" not in told, told

    good = whole_lines(log)
    other = server.directory / "tampered.log"
    assert len(good) > 6

    def tampered(change):
        changed = list(good)
        change(changed)
        other.write_text("".join(changed))
        return verify(server, packed, other)

    assert tampered(lambda text: None)[0] == 0
    for what, change in {
        "is missing": lambda text: text.pop(3),
        "was changed": lambda text: text.__setitem__(3, text[3].replace('"time":"2', '"time":"1')),
        "stands behind later ones": lambda text: text.append(text[3]),
        "not written by the server": lambda text: text.insert(3, '{"type":"request"}\n'),
        "at the end": lambda text: text.pop(),
    }.items():
        code, told = tampered(change)
        assert code == 1 and what in told, (what, told)
    # A copy of the key opens the data anywhere; another does not.
    moved = shutil.move(server.etc / "root.key", server.etc / "away.key")
    assert verify(server, packed, log)[0] == 2
    assert verify(server, "--root-key", moved, packed, log)[0] == 0
    shutil.move(moved, server.etc / "root.key")


def test_lines_are_still_those_of_the_original(world):
    _, server, client, token, key = world
    client.read(token, key)
    for line in whole_lines(server.directory / "audit.log"):
        entry = json.loads(line)
        assert entry["type"] in ("request", "response") and entry["time"].endswith("Z")
        assert entry["request"]["path"] and list(entry)[-1] == "chain"


def test_strangers_get_no_evidence(as_root, public, make_issuer, make_server, entry):
    server = make_server([entry(make_issuer())], below=public)
    log = server.directory / "audit.log"
    def ask(order):
        os.setegid(65534)
        os.seteuid(65534)
        try:
            stream = socket.socket(socket.AF_UNIX)
            stream.connect(f"{server.directory}/run/operator.sock")
        finally:
            os.seteuid(0)
            os.setegid(0)
        stream.sendall(order)
        return json.loads(stream.makefile().readline())

    answer = ask(b'{"do":"audit-evidence"}\n')
    assert "answer" not in answer and "may not do this" in answer["error"], answer
    # Whoever asks again and again fills nothing, and what they say is written nowhere.
    for _ in range(30):
        assert "may not do this" in ask(b'{"do":"show","which":"words of a stranger"}\n')["error"]
    assert "may not do this" in ask(b"no order at all\n")["error"]
    server.stop()
    lines = [line for line in server.audit() if line["request"].get("caller_uid") == 65534]
    assert sum(line["refused"] for line in lines) == 32 and len(lines) <= 3, lines
    assert "words of a stranger" not in log.read_text() + server.log()
    assert all("data" not in line["request"] for line in lines)


@pytest.mark.parametrize("on_failure", ["refuse", None, "serve"])
def test_a_full_disk_stops_what_the_configuration_says(make_issuer, make_server, entry, tmp_path, on_failure):
    issuer = make_issuer(auto_login="alice", access_token_seconds=20, rotation="immediate")
    disk = tmp_path / "disk"
    disk.mkdir()
    server = make_server(
        [entry(issuer)], wrapper=on_small_disk(disk, 1), extra={"cluster": {"name": "localhost", "auditlog": str(disk / "audit.log")}},
        own={"audit": {"on_failure": on_failure}} if on_failure else {},
    )
    client = Vault(server)
    token, key = client.login()
    # Only what is used is refreshed ahead, and once the disk is full the first read may be refused already.
    assert client.read(token, key)[0] == 200
    status, child = client.request("POST", "auth/token/create", token, {"ttl": "1h"})
    assert status == 200
    child = child["auth"]["client_token"]
    inside = f"/proc/{server.process.pid}/root{disk}"
    filler = os.open(f"{inside}/filler", os.O_CREAT | os.O_WRONLY)
    for size in (65536, 1024, 16):
        try:
            while True:
                os.write(filler, b"\0" * size)
        except OSError:
            pass
    os.close(filler)

    def refreshed():
        return issuer.admin("counters")["grant_types"].get("refresh_token", {}).get("received", 0)

    before = refreshed()
    # What is left of the last page is soon used up.
    if on_failure != "serve":
        wait_until(lambda: client.read(token, key)[0] == 503, "requests are refused", server.process)
        status, body = client.read(token, key)
        assert status == 503 and "audit log" in body["errors"][0] and "permission denied" not in str(body)
    else:
        for _ in range(100):
            assert client.read(token, key, minimum=5)[0] == 200
    status, body = client.request("POST", "auth/token/revoke-self", child)
    assert status == (503 if on_failure == "refuse" else 204), body

    def confirmed():
        return subprocess.run(
            [GRIDKEEP, "operator", "confirm-clock", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE,
            env={"PATH": os.environ["PATH"]},
        ).returncode

    if on_failure == "refuse":
        # A short line may still find room.
        wait_until(lambda: confirmed() == 1, "an operator's order is refused", server.process)
    else:
        assert confirmed() == 0
    if on_failure is None:
        # Refreshing goes on in the background.
        wait_until(lambda: refreshed() > before, "the used grant is refreshed ahead", server.process)
    os.unlink(f"{inside}/filler")
    wait_until(lambda: client.read(token, key)[0] == 200, "requests are served again without a restart", server.process)
    assert issuer.admin("counters")["grants"][0]["alive"]
    wait_until(lambda: client.request("GET", "auth/token/lookup-self", child)[0] == (200 if on_failure == "refuse" else 403), "the revocation counts")
    copy = tmp_path / "copy.log"
    shutil.copyfile(f"{inside}/audit.log", copy)
    assert ("auth/token/revoke-self" in copy.read_text()) == (on_failure != "refuse"), "the line is written when it can be"
    server.stop()
    code, told = verify(server, "--older", copy)
    assert code == 0, told
