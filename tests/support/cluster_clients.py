"""Clients of a cluster that record what they were told. Run on the clients' host: an order and an answer a line, in JSON.

They follow the fail-over rules of the original: the first address of the list is asked; only a connection that is not made within
2 s moves on to the next, and a read may take 10 s.
"""

import http.client
import json
import random
import socket
import ssl
import sys
import threading
import time
import urllib.request

CONNECT, READ = 2.0, 10.0
PORT = 8200


class Caller:
    def __init__(self, addresses, ca):
        self.addresses = addresses
        self.context = ssl.create_default_context(cafile=ca)

    def once(self, address, method, path, token=None, body=None, extra=None):
        """One request to one address: status, body, and what kept it from being answered."""
        try:
            plain = socket.create_connection((address, PORT), timeout=CONNECT)
        except TimeoutError:
            return None, None, "connect"
        except OSError as error:
            return None, None, f"refused: {error}"
        try:
            plain.settimeout(READ)
            secure = self.context.wrap_socket(plain, server_hostname="localhost")
            connection = http.client.HTTPConnection(address, PORT)
            connection.sock = secure
            headers = {**({"X-Vault-Token": token} if token else {}), **(extra or {})}
            connection.request(method, path if path.startswith("/") else f"/v1/{path}", body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            text = answer.read()
            parsed = json.loads(text) if text else None
            return answer.status, parsed, None
        except TimeoutError:
            return None, None, "read"
        except (OSError, http.client.HTTPException) as error:
            return None, None, f"broken: {error}"
        finally:
            plain.close()

    def past_later(self, *what):
        """`once`, repeated for as long as a node says "later" and why, as one that is late with its heartbeat may; a minute at most."""
        end = time.monotonic() + 60
        while True:
            status, parsed, trouble = self.once(*what)
            if status != 503 or not (parsed or {}).get("errors") or time.monotonic() > end:
                return status, parsed, trouble
            time.sleep(0.1)

    def call(self, method, path, token=None, body=None, order=None):
        """`once` with the fail-over of the original."""
        trouble = None
        for address in order or self.addresses:
            status, parsed, trouble = self.once(address, method, path, token, body)
            if trouble != "connect":
                return status, parsed, trouble, address
        return None, None, trouble, None


class Load:
    """Threads that make tokens, revoke some of them, and read, each answer recorded."""

    def __init__(self, caller, logins, operator, threads, minimum):
        """`logins`: what `login` answered. What is read is to live for `minimum` seconds."""
        self.caller, self.logins, self.minimum = caller, logins, minimum
        # Revokes; lives for 15 minutes and is replaced in time.
        self.operator = operator
        self.lock, self.over = threading.Lock(), threading.Event()
        # Token to the moments between which its revocation was asked for and acknowledged.
        self.made, self.revoked, self.unsure = [], {}, set()
        self.counts, self.wrong = {}, []
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def note(self, status, parsed, trouble, refused_is_right=False):
        if trouble:
            kind = trouble.split(":")[0]
        else:
            kind = str(status)
            text = json.dumps(parsed)
            if "permission denied" in text and not refused_is_right:
                with self.lock:
                    self.wrong.append(f"{status} {text}")
            if status == 503 and not (parsed or {}).get("errors"):
                with self.lock:
                    self.wrong.append(f"a 503 without its reason: {text}")
        self.count(kind)

    def run(self, number):
        chance = random.Random(number)
        while not self.over.is_set():
            order = self.caller.addresses[:]
            chance.shuffle(order)
            what = chance.random()
            if what < 0.3:
                status, parsed, trouble, _ = self.caller.call("POST", "auth/token/create", self.logins[0]["token"], {"ttl": "1h"}, order)
                self.note(status, parsed, trouble)
                if status == 200:
                    with self.lock:
                        self.made.append(parsed["auth"]["client_token"])
            elif what < 0.4:
                self.revoke(chance, order)
            elif what < 0.7:
                self.look(chance, order)
            else:
                known = chance.choice(self.logins)
                path = f"secret/oauth/creds/dune/{known['key']}:{known['role']}?minimum_seconds={self.minimum}"
                status, parsed, trouble, _ = self.caller.call("GET", path, known["token"], None, order)
                self.note(status, parsed, trouble)

    def revoke(self, chance, order):
        with self.lock:
            alive = [token for token in self.made[-200:] if token not in self.revoked and token not in self.unsure]
            if not alive:
                return
            target = chance.choice(alive)
            # From now on nobody knows, until it is acknowledged.
            self.unsure.add(target)
        status, parsed, trouble, _ = self.caller.call("POST", "auth/token/revoke", self.operator, {"token": target}, order)
        acknowledged = time.monotonic()
        self.note(status, parsed, trouble)
        if status == 204:
            with self.lock:
                self.revoked[target] = acknowledged
                self.unsure.discard(target)

    def look(self, chance, order):
        with self.lock:
            if not self.made:
                return
            recent = list(self.revoked)[-20:]
            target = chance.choice(recent) if recent and chance.random() < 0.5 else chance.choice(self.made)
            doomed = target in self.revoked or target in self.unsure
            acknowledged = self.revoked.get(target)
        asked = time.monotonic()
        status, parsed, trouble, address = self.caller.call("GET", "auth/token/lookup-self", target, None, order)
        with self.lock:
            doomed = doomed or target in self.revoked or target in self.unsure
        self.note(status, parsed, trouble, refused_is_right=doomed)
        if status == 200 and acknowledged is not None and asked > acknowledged + 1.0:
            with self.lock:
                self.wrong.append(f"a token was accepted at {address} {asked - acknowledged:.2f} s after its revocation was acknowledged")

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        return {"counts": self.counts, "wrong": self.wrong[:20], "made": len(self.made), "revoked": len(self.revoked)}

    def check(self):
        """After all is whole again: is every acknowledged write there?"""
        lost, risen = [], []
        for number, token in enumerate(self.made):
            address = self.caller.addresses[number % len(self.caller.addresses)]
            status, parsed, trouble = self.caller.past_later(address, "GET", "auth/token/lookup-self", token)
            if token in self.revoked:
                if status != 403:
                    risen.append(f"{address} {status} {trouble}")
            elif token not in self.unsure and status != 200:
                lost.append(f"{address} {status} {trouble} {parsed}")
        return {"lost": lost[:20], "risen": risen[:20]}


def login(caller, role="default"):
    """A device login that the issuer approves by itself, its steps spread over the nodes."""
    nonce, addresses = "n" * 43, caller.addresses
    ask = lambda number, path, body, token=None: caller.past_later(addresses[number % len(addresses)], "POST", path, token, body)
    status, started, trouble = ask(0, "auth/oidc-dune/oidc/auth_url", {"role": role, "client_nonce": nonce, "redirect_uri": ""})
    assert status == 200, (started, trouble)
    state, end, number = started["data"]["state"], time.monotonic() + 60, 0
    while True:
        number += 1
        status, polled, trouble = ask(number, "auth/oidc-dune/oidc/poll", {"state": state, "client_nonce": nonce})
        if status == 200:
            break
        assert polled and polled["errors"] == ["authorization_pending"], (polled, trouble)
        assert time.monotonic() < end, "the login was never finished"
        time.sleep(0.2)
    auth = polled["auth"]
    key = auth["metadata"]["credkey"]
    status, stored, trouble = ask(
        number + 1, f"secret/oauth/creds/dune/{key}:{role}",
        {"server": "dune", "refresh_token": auth["metadata"]["oauth2_refresh_token"]}, auth["client_token"],
    )
    assert status == 204, (stored, trouble)
    return {"token": auth["client_token"], "key": key, "role": role}


def main():
    addresses, ca, admin = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    caller, load = Caller(addresses, ca), None
    for line in sys.stdin:
        order = json.loads(line)
        do = order.pop("do")
        try:
            if do == "login":
                answer = login(caller, **order)
            elif do == "once":
                answer = caller.once(order.pop("address"), **order)
            elif do == "call":
                began = time.monotonic()
                answer = [*caller.call(**order), time.monotonic() - began]
            elif do == "load":
                load = Load(caller, **order)
                answer = True
            elif do == "operator":
                load.operator = order["token"]
                answer = True
            elif do == "answers":
                answer = sum(load.counts.values())
            elif do == "stop":
                answer = load.stop()
            elif do == "check":
                answer = load.check()
            elif do == "issuer":
                data = None if order.get("body") is None else json.dumps(order["body"]).encode()
                request = urllib.request.Request(
                    f"{admin}/{order['what']}", data=data, method=order.get("method") or ("GET" if data is None else "POST"),
                    headers={"content-type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=60) as reply:
                    text = reply.read()
                answer = json.loads(text) if text else None
            else:
                raise ValueError(do)
            print(json.dumps({"answer": answer}), flush=True)
        except Exception as error:  # the other end says what it means
            print(json.dumps({"error": f"{do}: {error!r}"}), flush=True)


if __name__ == "__main__":
    main()
