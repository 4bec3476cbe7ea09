"""Strangers attack the port: guesses, tricks with paths and heads, floods, nonsense instead of TLS, connections that never finish.

After each the server lives, nothing in it panicked, its memory is below a stated bound, and an honest user, who is served all the time,
is still answered. Attackers come from loopback addresses of their own, 127.0.0.2 and up, because limits count by address.
GRIDKEEP_SOAK makes the flood of logins as large as the server's limit in total.
"""

import collections
import contextlib
import json
import os
import random
import re
import socket
import ssl
import struct
import threading
import time
from pathlib import Path

import pytest

from support.processes import PATIENCE, wait_until
from support.vault import at_once

SOAK = "GRIDKEEP_SOAK" in os.environ
# Resident memory that no attack may exceed, MiB. The server may hold 2,048 connections, each with less than 128 KiB of a head and 64 KiB
# of a body of somebody unknown, but one address only an eighth of them; unoptimised builds are larger than what is shipped.
MOST_MEMORY = 256
# What the server grants to one address.
CONNECTIONS_PER_ADDRESS = 256
LOGINS_PER_ADDRESS = 200
LOGINS_IN_TOTAL = 10_000
OPEN_BODY = 64 << 10
BODY = 1 << 20
GUESSES = 20_000
# The limit is 64 KiB, noticed at the latest at twice that.
LONGER_THAN_ANY_HEAD = 200_000


class World:
    """A server, its honest user, and the means of those who are not."""

    def __init__(self, issuer, server, vault):
        self.issuer, self.server, self.vault = issuer, server, vault
        self.context = ssl.create_default_context(cafile=str(server.authority.path))
        self.token, self.key = self.login("alice")

    def login(self, user):
        approved = self.issuer.approve(user)
        found = self.vault.login()
        approved.join(PATIENCE)
        return found

    def read(self):
        """One read of the honest user, who is served."""
        status, body = self.vault.read(self.token, self.key)
        assert status == 200, body

    def plain(self, source=2):
        """A TCP connection from 127.0.0.`source`."""
        return socket.create_connection(("127.0.0.1", self.server.port), PATIENCE, ("127.0.0." + str(source), 0))

    def connect(self, source=2):
        """The same with TLS."""
        return self.context.wrap_socket(self.plain(source), server_hostname="localhost")

    def raw(self, request: bytes, source=2) -> bytes:
        """Everything that is answered to these bytes until the server closes, or says that it keeps the connection."""
        with self.connect(source) as connection:
            with contextlib.suppress(OSError):  # a server that has heard enough closes; its answer is there all the same
                connection.sendall(request)
            return everything(connection)

    def memory(self):
        """Resident memory of the server, MiB."""
        text = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024

    def unharmed(self):
        assert self.server.process.popen.poll() is None, self.server.log()
        assert "panicked" not in self.server.log(), self.server.log()
        assert self.server.call("GET", "sys/health")[0] == 200
        self.read()
        assert self.memory() < MOST_MEMORY, f"{self.memory():.0f} MiB"


@pytest.fixture
def world(make_issuer, make_server, entry, vault):
    issuer = make_issuer()
    server = make_server([entry(issuer)])
    world = World(issuer, server, vault(server))
    yield world
    world.unharmed()


def everything(connection) -> bytes:
    connection.settimeout(PATIENCE)
    answer = b""
    with contextlib.suppress(OSError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def request(method, target, *headers, body=b"", close=True):
    lines = [f"{method} {target} HTTP/1.1", "host: localhost", *headers]
    if close:
        lines.append("connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def single(answer: bytes, what=""):
    """Status and parsed body of the only answer there is."""
    assert answer.count(b"HTTP/1.1 ") == 1, (what, answer[:2000])
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"content-type: application/json" in head.lower(), (what, answer[:2000])
    return int(head.split()[1]), json.loads(body)


def statuses_of(connection, number) -> collections.Counter:
    """The statuses of `number` answers to requests sent together on a kept connection."""
    found, buffer = collections.Counter(), b""
    while found.total() < number:
        chunk = connection.recv(65536)
        assert chunk, f"closed after {found}: {buffer[:500]}"
        buffer += chunk
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = buffer[:end].lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(buffer) < end + 4 + length:
                break
            found[int(head.split()[1])] += 1
            buffer = buffer[end + 4 + length :]
    return found


def test_guessing_tokens(world, make_server, entry, vault):
    elsewhere = make_server([entry(world.issuer)], name="elsewhere")
    stranger = World(world.issuer, elsewhere, vault(elsewhere)).token
    operator = world.server.operator_token()
    tokens = lambda: len(world.server.call("LIST", "auth/token/accessors", operator)[1]["data"]["keys"])
    data = world.server.directory / "data"
    size = lambda: sum(path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file())

    chance = random.Random(20_000)
    letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    known = world.token
    near = [known[:-1], known[:20], known[1:], known + "a", known.swapcase(), known.upper(), known[::-1], stranger, "hvs." + stranger, "root", "s", "."]
    near += [known[:at] + chance.choice(letters.replace(known[at], "")) + known[at + 1 :] for at in range(len(known)) if known[at] in letters]
    for guess in near:
        status, body = world.server.call("GET", f"secret/oauth/creds/dune/{world.key}:default", guess)
        assert (status, body["errors"]) == (403, ["permission denied"]) or "errors" in body and status == 403, (guess, status, body)

    before_tokens, before_size = tokens(), size()
    left = [GUESSES]
    lock = threading.Lock()
    seen = collections.Counter()

    def guess(source):
        generator = random.Random(source)
        with world.connect(source) as connection:
            while True:
                with lock:
                    if left[0] <= 0:
                        return
                    left[0] -= 50
                batch = b""
                for _ in range(50):
                    text = known[:4] + "".join(generator.choices(letters, k=len(known) - 4))
                    batch += request("GET", "/v1/auth/token/lookup-self", f"x-vault-token: {text}", close=False)
                connection.sendall(batch)
                found = statuses_of(connection, 50)
                with lock:
                    seen.update(found)

    guessers = [threading.Thread(target=guess, args=(source,), daemon=True) for source in range(2, 10)]
    for thread in guessers:
        thread.start()
    while any(thread.is_alive() for thread in guessers):
        world.read()
    for thread in guessers:
        thread.join(PATIENCE)
    assert seen == {403: GUESSES}, seen
    assert tokens() == before_tokens
    assert size() - before_size < 1 << 20, "guesses leave nothing in the store"


def test_tricks_with_paths(world):
    bob, bobs_key = world.login("bob")
    mine, others = f"dune/{world.key}:default", f"dune/{bobs_key}:default"
    token = f"x-vault-token: {world.token}"

    def ask(target, *headers):
        return single(world.raw(request("GET", target, token, *headers)), target)

    assert ask(f"/v1/secret/oauth/creds/{mine}")[0] == 200
    assert ask(f"/v1/secret/oauth/creds/{others}")[0] == 403
    for target in [
        f"/v1/secret/oauth/creds/dune/{world.key}:default/../{bobs_key}:default",
        f"/v1/secret/oauth/creds/dune/{world.key}:default/%2e%2e/{bobs_key}:default",
        f"/v1/secret/oauth/creds/dune/{world.key}:default%2f..%2f{bobs_key}:default",
        f"/v1/secret/oauth/creds/dune/{world.key}:default/%252e%252e/{bobs_key}:default",
        f"/v1/secret/oauth/creds/dune/{world.key}:default/.%2e/{bobs_key}:default",
        f"/v1/secret/oauth/creds/dune/{world.key}:default/..;/{bobs_key}:default",
        f"/v1/secret/oauth/creds/dune/{world.key}:default/..%5c{bobs_key}:default",
        f"/v1/secret/oauth/creds//{others}",
        f"//v1/secret/oauth/creds/{others}",
        f"/v1//secret/oauth/creds/{others}",
        f"/v1/secret/oauth/creds/{others}/",
        f"/v1/secret/oauth/creds/{others}%00",
        f"/v1/secret/oauth/creds/{mine}%00{bobs_key}",
        f"/v1/secret/oauth/creds/{others}%0a",
        f"/v1/secret/oauth/creds/{others}?",
        f"/v1/secret/oauth/creds/{others}#{mine}",
        f"/v1/secret/oauth/creds/{others};{mine}",
        f"/v1/secret/oauth/creds/%64une/%62ob:default",
        f"/v1/secret/oauth/creds/dune/BOB:default",
        f"/v1/secret/oauth/creds/dune/ｂob:default",
        f"/v1/secret/oauth/creds/dune/b%c3%b6b:default",
        f"/v1/secret/oauth/creds/dune/%c0%ae%c0%ae/bob:default",
        f"/v1/secret/oauth/creds/dune/*",
        f"/v1/secret/oauth/creds/dune/+",
        f"/v1/secret/oauth/sts/{others}",
        f"/v1/secret/oauth/sts/{mine}/../../../creds/{others}",
        f"/V1/secret/oauth/creds/{others}",
        f"https://localhost:{world.server.port}/v1/secret/oauth/creds/{others}",
        f"http://elsewhere.example/v1/secret/oauth/creds/{others}",
        f"https://alice@localhost/v1/secret/oauth/creds/{mine}/../bob:default",
        "/v1/sys/../secret/oauth/creds/" + others,
        "/v1/" + "../" * 1000 + "etc/passwd",
        "/v1/secret/oauth/creds/dune/" + "a" * 5000,
        "/v1/" + "a/" * 2000,
        "/v1/" + "%61" * 5000,
        "/v1/%",
        "/v1/%zz",
        "/v1/secret/oauth/creds/dune/%ff%fe",
        "/v1/auth/oidc-dune%2foidc/../poll",
        "*",
        "/",
        "/v1",
        "/v1/",
    ]:
        answer = world.raw(request("GET", target, token))
        assert answer.count(b"HTTP/1.1 ") == 1, (target, answer)
        status = int(answer.split()[1])
        assert 300 <= status < 500, (target, answer)
        assert b"access_token" not in answer, (target, answer)
        if status >= 400:
            single(answer, target)
    # Other ways to write what is allowed are the same thing.
    for target in [f"/v1/secret/oauth/creds/%64une/{world.key}%3Adefault", f"https://localhost/v1/secret/oauth/creds/{mine}"]:
        assert ask(target)[0] == 200, target
    # Headers do not make another path of it either.
    for header in ["x-original-url", "x-rewrite-url", "x-forwarded-path", "x-http-method-override"]:
        assert ask("/v1/sys/health", f"{header}: /v1/secret/oauth/creds/{others}")[1].get("data") is None
    # Longer than any head may be.
    status, body = single(world.raw(request("GET", "/v1/" + "a" * LONGER_THAN_ANY_HEAD)))
    assert status in (400, 414, 431) and body["errors"], (status, body)
    with world.connect() as connection:
        connection.sendall(b"GET /v1/sys/health\0 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert single(everything(connection))[0] == 400
    assert world.vault.read(bob, bobs_key)[0] == 200


def test_sizes(world):
    """What is too large is refused in JSON, as early as it is known, and without reading on."""
    token = f"x-vault-token: {world.token}"
    start = "/v1/auth/oidc-dune/oidc/auth_url"
    create = "/v1/auth/token/create"

    def declared(target, length, *headers):
        return request("POST", target, f"content-length: {length}", *headers, close=False)

    def chunked(target, length, *headers):
        chunks = b"".join(b"2000\r\n" + b" " * 0x2000 + b"\r\n" for _ in range(length // 0x2000 + 1))
        return request("POST", target, "transfer-encoding: chunked", *headers, body=chunks + b"0\r\n\r\n", close=False)

    for too_large in [
        declared(start, OPEN_BODY + 1),
        declared(start, 10 << 30),
        chunked(start, OPEN_BODY),
        declared(create, BODY + 1, token),
        chunked(create, BODY, token),
        declared("/v1/sys/init", OPEN_BODY + 1),
        declared("/v1/sys/unseal", 1 << 40),
    ]:
        status, body = single(world.raw(too_large), too_large[:100])
        assert status == 413 and "larger than" in body["errors"][0], (too_large[:100], body)
    # Somebody unknown is refused before a byte of a large body is read.
    status, body = single(world.raw(declared(create, BODY, "x-vault-token: hvs.unknown")))
    assert status == 403, body
    # What just fits is read.
    padded = json.dumps({"ttl": "1h"}).encode().ljust(BODY)
    status, body = single(world.raw(request("POST", create, token, f"content-length: {BODY}", body=padded)))
    assert status == 200, body
    for head in [
        request("GET", "/v1/sys/health", "x: " + "a" * LONGER_THAN_ANY_HEAD),
        request("GET", "/v1/sys/health", *[f"x-{number}: a" for number in range(200)]),
        request("GET", "/v1/sys/health", "x-vault-token: " + "a" * LONGER_THAN_ANY_HEAD),
        b"GET " + b"a" * LONGER_THAN_ANY_HEAD,
        b"A" * LONGER_THAN_ANY_HEAD,
        b"GET / HTTP/1.1\r\n" + b"a" * LONGER_THAN_ANY_HEAD,
        declared(start, (1 << 64) - 1),
        declared(start, 1 << 64),
        declared(start, "9" * 1000),
    ]:
        status, body = single(world.raw(head), head[:60])
        assert status in (400, 414, 431) and body["errors"], (head[:60], status, body)
    deep = b"[" * 30_000
    status, body = single(world.raw(request("POST", start, f"content-length: {len(deep)}", body=deep)))
    assert status == 400 and body["errors"]


def test_heads_that_two_servers_read_differently(world):
    """Nothing of what a front server could take for the rest of a body is taken for a request."""
    hidden = request("GET", f"/v1/secret/oauth/creds/dune/{world.key}:default", f"x-vault-token: {world.token}", close=False)
    post = "POST /v1/auth/oidc-dune/oidc/poll HTTP/1.1\r\nhost: localhost\r\n"
    length = len(hidden) + 5
    cases = {
        "length and chunks": f"{post}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunks and length": f"{post}transfer-encoding: chunked\r\ncontent-length: {length}\r\n\r\n0\r\n\r\n",
        "two lengths": f"{post}content-length: {length}\r\ncontent-length: 0\r\n\r\n",
        "two lengths in one": f"{post}content-length: 0, {length}\r\n\r\n",
        "a signed length": f"{post}content-length: +0\r\n\r\n",
        "a negative length": f"{post}content-length: -1\r\n\r\n",
        "a hexadecimal length": f"{post}content-length: 0x0\r\n\r\n",
        "chunks that are not last": f"{post}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "another encoding": f"{post}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "two encodings": f"{post}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        "a blank before the colon": f"{post}transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "a folded line": f"{post}transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "a folded length": f"{post}x: a\r\n content-length: {length}\r\n\r\n",
        "a tab in the name": f"{post}transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n",
        "a vertical tab in the value": f"{post}transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "a NUL in the value": f"{post}content-length: 0\0{length}\r\n\r\n",
        "a bare CR": f"{post}x: a\rcontent-length: {length}\r\n\r\n",
        "a chunk size too large": f"{post}transfer-encoding: chunked\r\n\r\n10000000000000000\r\n",
        "a chunk size with a sign": f"{post}transfer-encoding: chunked\r\n\r\n-1\r\n",
        "a chunk size with words": f"{post}transfer-encoding: chunked\r\n\r\n0 x\r\n\r\n",
        "a chunk that ends wrongly": f"{post}transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        "no version": "POST /v1/auth/oidc-dune/oidc/poll\r\n\r\n",
        "another version": post.replace("HTTP/1.1", "HTTP/1.9", 1) + "\r\n",
        "an old version with chunks": post.replace("HTTP/1.1", "HTTP/1.0", 1) + "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    }
    for what, head in cases.items():
        answer = world.raw(head.encode() + hidden)
        # Ended, not waited for: the server closes although it was not asked to.
        assert len(re.findall(rb"HTTP/\S+ \d{3} ", answer)) == 1, (what, answer)
        assert b"access_token" not in answer, (what, answer)
        status = int(answer.split()[1])
        assert 400 <= status < 500, (what, answer)
    # What is the beginning of another version of the protocol gets no answer at all, or an error.
    answer = world.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    # Line ends without CR are allowed by RFC 9112 section 2.2, and are one request as well.
    status, _ = single(world.raw(b"GET /v1/sys/health HTTP/1.1\nhost: localhost\nconnection: close\n\n"))
    assert status in (200, 400)
    # Requests one after the other on one connection stay what they are.
    with world.connect() as connection:
        connection.sendall(hidden * 5)
        assert statuses_of(connection, 5) == {200: 5}
    # A proxy's word about who asks is not believed.
    world.raw(request("GET", "/v1/auth/token/lookup-self", "x-forwarded-for: 203.0.113.9", f"x-vault-token: {world.token}"), source=7)
    # The lines that the server writes about its audit log come from nowhere.
    lines = [line["request"] for line in world.server.audit() if line["request"]["path"] != "operator/audit"]
    assert lines and {line["remote_address"] for line in lines} <= {"127.0.0.1", "127.0.0.2", "127.0.0.7"}


def test_slow_requests_keep_nobody_else_waiting(world):
    heads = [b"G", b"GET /v1/sys/health HTTP/1.1\r\n", b"GET /v1/sys/health HTTP/1.1\r\nhost: a\r\nx: "]
    body = b'POST /v1/auth/oidc-dune/oidc/auth_url HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{"role":'
    held = []
    try:
        # Of each address nearly as many as it may have.
        for source in range(2, 5):
            held += at_once(100, lambda number: opened(world, source, [*heads, body][number % 4]))
        bodies = [connection for number, connection in enumerate(held) if number % 4 == 3]
        for _ in range(50):
            world.read()
        # One more byte each does not buy more time for a body; all of them are told.
        for connection in bodies:
            with contextlib.suppress(OSError):
                connection.sendall(b" ")
        for connection in bodies:
            status, told = single(everything(connection))
            assert status == 408 and "in time" in told["errors"][0], told
        assert world.memory() < MOST_MEMORY
        # Connections that never begin TLS, many more than one address may have.
        raw = at_once(CONNECTIONS_PER_ADDRESS + 100, lambda _: world.plain(9))
        held += raw
        wait_until(lambda: sum(is_closed(connection) for connection in raw) >= 100, "those beyond the limit are refused", world.server.process)
        world.read()
        world.server.call("GET", "sys/health")
    finally:
        for connection in held:
            connection.close()
    # Their places are free again.
    wait_until(lambda: is_served(world, 9), "the address is served again", world.server.process)


def opened(world, source, text):
    connection = world.connect(source)
    connection.sendall(text)
    return connection


def is_served(world, source):
    try:
        return world.raw(request("GET", "/v1/sys/health"), source).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def is_closed(connection):
    """Whether the server has ended this connection by now."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_flood_of_logins(make_issuer, make_server, entry, vault):
    issuer = make_issuer()
    # Codes return to the server here: nothing slows the flood down but the server itself.
    server = make_server([entry(issuer), entry(issuer, name="flooded", mode="direct")])
    world = World(issuer, server, vault(server))
    callback = f"https://localhost:{server.port}/v1/auth/oidc-flooded/oidc/callback"
    sent = json.dumps({"role": "default", "client_nonce": "n" * 43, "redirect_uri": callback}).encode()
    start = request("POST", "/v1/auth/oidc-flooded/oidc/auth_url", f"content-length: {len(sent)}", body=sent, close=False)
    sources = range(2, 2 + (LOGINS_IN_TOTAL // LOGINS_PER_ADDRESS + 10 if SOAK else 8))
    before = world.memory()

    def flood(number):
        with world.connect(sources[number]) as connection:
            found = collections.Counter()
            for _ in range((LOGINS_PER_ADDRESS + 50) // 25):
                connection.sendall(start * 25)
                found += statuses_of(connection, 25)
            return found

    found = at_once(len(sources), flood)
    for counted in found:
        assert set(counted) <= {200, 503}, found
        assert counted[200] <= LOGINS_PER_ADDRESS and counted[503] >= 50, found
    assert sum(counted[200] for counted in found) == min(len(sources) * LOGINS_PER_ADDRESS, LOGINS_IN_TOTAL), found
    refusal = world.raw(request("POST", "/v1/auth/oidc-flooded/oidc/auth_url", f"content-length: {len(sent)}", body=sent), source=2)
    status, body = single(refusal)
    assert status == 503 and b"retry-after: " in refusal.lower(), refusal
    assert "too many logins" in body["errors"][0] and "permission denied" not in body["errors"][0], body
    assert world.memory() - before < 64, f"from {before:.0f} to {world.memory():.0f} MiB"
    if not SOAK:
        # Who did not flood logs in as ever.
        assert world.vault.read(*world.login("bob"))[0] == 200
    world.unharmed()


def test_few_file_descriptors(make_issuer, make_server, entry, vault):
    """Strangers' connections leave the server the descriptors it needs itself, to ask issuers for example."""
    issuer = make_issuer()
    server = make_server([entry(issuer)], wrapper=["prlimit", "--nofile=256:256"])
    world = World(issuer, server, vault(server))
    world.read()
    held = at_once(300, lambda number: world.plain(2 + number % 4))
    try:
        # As many as may be there at a time; the others wait to be accepted.
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        wait_until(lambda: len(list(descriptors.iterdir())) > 192, "the server has accepted what it may", server.process)
        asked = issuer.admin("counters")["grant_types"].get("refresh_token", {}).get("received", 0)
        # Nearly all the life that a token has: true for its first second only.
        wait_until(
            lambda: world.vault.read(world.token, world.key, minimum=3599)[0] == 200
            and issuer.admin("counters")["grant_types"].get("refresh_token", {}).get("received", 0) > asked,
            "a refresh succeeds", server.process,
        )
        assert len(list(descriptors.iterdir())) < 256
        assert "could not be accepted" not in server.log()
    finally:
        for connection in held:
            connection.close()
    world.unharmed()


def test_the_operators_socket_is_not_kept_busy(as_root, world):
    """Users of the host who may not ask, and say nothing, keep no operator waiting; who asks is told why not."""
    # The server has waited for some of them all the while: it was not their end that let the operator in. Where that took so long that
    # all of them were given up before, nothing is shown.
    wait_until(lambda: operator_beside_strangers(world), "the operator is answered before all the others are given up", world.server.process)


def operator_beside_strangers(world) -> int:
    """How many silent strangers the server still waits for when the operator has been answered."""
    nobody = 65534
    told_read, told_write = os.pipe()
    wait_read, wait_write = os.pipe()
    held_read, held_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(wait_write)
            os.close(held_read)
            os.chdir(world.server.directory / "run")
            os.setuid(nobody)
            asking = socket.socket(socket.AF_UNIX)
            asking.connect("operator.sock")
            asking.sendall(b'{"do":"token"}\n')
            answer = everything(asking)
            silent = [socket.socket(socket.AF_UNIX) for _ in range(60)]
            for one in silent:
                one.connect("operator.sock")
            os.write(told_write, answer)
            os.close(told_write)
            os.read(wait_read, 1)
            os.write(held_write, bytes([sum(is_open(one) for one in silent)]))
        finally:
            os._exit(0)
    os.close(told_write)
    os.close(wait_read)
    os.close(held_write)
    try:
        with os.fdopen(told_read, "rb") as told:
            answer = told.read()
        if not answer:
            # Those of the time before are not gone yet, and take all the places.
            return 0
        assert b"may not do this" in answer and b"hvs." not in answer, answer
        assert world.server.operator_token()
    finally:
        os.close(wait_write)
        os.waitpid(child, 0)
        with os.fdopen(held_read, "rb") as held:
            (still,) = held.read()
    return still


def is_open(connection) -> bool:
    """Whether the other end has not closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_nonsense_instead_of_tls(world):
    chance = random.Random(16)
    hello = client_hello(world)
    nonsense = [
        b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\xff\xff" + b"\0" * 70_000, b"\x16\x03\x01\x00\x00" * 5000,
        b"\x80\x2e\x01\x00\x02", b"\x15\x03\x03\x00\x02\x02\x28" * 100, b"\x17\x03\x03\x40\x00" + b"a" * 0x4000,
        b"\x14\x03\x03\x00\x01\x01" * 1000, b"\x18\x03\x02\x00\x03\x01\x40\x00", b"SSH-2.0-OpenSSH\r\n", b"\0" * 100_000,
        hello[: len(hello) // 2], hello + hello, hello + b"\x17\x03\x03\x00\x01a", hello[:5] + b"\xff" * (len(hello) - 5),
    ]
    for _ in range(150):
        damaged = bytearray(hello)
        for _ in range(chance.randrange(1, 12)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        nonsense.append(bytes(damaged))
    nonsense += [chance.randbytes(chance.randrange(1, 600)) for _ in range(150)]

    def send(number):
        connection = world.plain(2 + number % 4)
        with contextlib.suppress(OSError):
            connection.sendall(nonsense[number])
            connection.shutdown(socket.SHUT_WR)
            everything(connection)
        connection.close()

    at_once(len(nonsense), send)
    world.read()
    # Somebody who forgets the s is told.
    with world.plain() as connection:
        connection.sendall(b"GET /v1/sys/health HTTP/1.1\r\nhost: a\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        status, body = single(everything(connection))
        assert status == 400 and "https://" in body["errors"][0]


def client_hello(world) -> bytes:
    """The first bytes a client of TLS sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = world.context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_connections_that_end_at_once(world):
    reset = struct.pack("ii", 1, 0)

    def touch(number):
        try:
            connection = world.plain(2 + number % 8)
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            if number % 3 == 0:
                connection.send(b"\x16\x03\x01\x02")
            connection.close()
        except OSError:
            return 0
        return 1

    before = world.memory()
    assert sum(at_once(4000, touch)) > 3000
    # In the middle of a request, too: what was asked is not answered to the next one.
    ask = request("GET", f"/v1/secret/oauth/creds/dune/{world.key}:default", f"x-vault-token: {world.token}", close=False)
    for number in range(100):
        connection = world.connect(2 + number % 8)
        connection.sendall(ask[: len(ask) - number % 3])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        connection.close()
    descriptors = Path(f"/proc/{world.server.process.pid}/fd")
    wait_until(lambda: len(list(descriptors.iterdir())) < 100, "the server lets go of all of them", world.server.process)
    assert world.memory() - before < 64, f"from {before:.0f} to {world.memory():.0f} MiB"
