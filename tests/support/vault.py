"""The requests of htgettoken by hand, many at once: for tests that count answers."""

import concurrent.futures
import http.client
import json
import ssl
import threading
import time

from .processes import PATIENCE


class Gone(Exception):
    """The server went away before, during or after the request."""


class Vault:
    """One connection to a server, opened when needed, kept, and thrown away on trouble."""

    def __init__(self, server):
        self.server = server
        self.context = ssl.create_default_context(cafile=str(server.authority.path))
        self.local = threading.local()

    def request(self, method, path, token=None, body=None, timeout=PATIENCE):
        """Status and parsed body, or `Gone`."""
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = http.client.HTTPSConnection("localhost", self.server.port, timeout=timeout, context=self.context)
            self.local.connection = connection
        headers = {"X-Vault-Token": token} if token else {}
        try:
            connection.request(method, f"/v1/{path}", body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as trouble:
            connection.close()
            self.local.connection = None
            raise Gone(str(trouble)) from trouble
        return answer.status, (json.loads(text) if text else None)

    def past_later(self, *what, **more):
        """`request`, repeated for as long as the server says "later" and why, as a node of a cluster that is late with its heartbeat may."""
        end = time.monotonic() + PATIENCE
        while True:
            status, body = self.request(*what, **more)
            if status != 503 or not (body or {}).get("errors") or time.monotonic() > end:
                return status, body
            threading.Event().wait(0.1)

    def login(self, issuer="dune", role="default") -> tuple[str, str]:
        """A device login that the issuer approves by itself: vault token and credkey, the credential stored."""
        nonce = "n" * 43
        body = {"role": role, "client_nonce": nonce, "redirect_uri": ""}
        status, started = self.past_later("POST", f"auth/oidc-{issuer}/oidc/auth_url", body=body)
        assert status == 200, started
        state = started["data"]["state"]
        end = time.monotonic() + PATIENCE
        while True:
            status, polled = self.past_later("POST", f"auth/oidc-{issuer}/oidc/poll", body={"state": state, "client_nonce": nonce})
            if status == 200:
                break
            assert polled["errors"] == ["authorization_pending"], polled
            assert time.monotonic() < end, "the login was never finished"
            threading.Event().wait(0.2)
        auth = polled["auth"]
        key = auth["metadata"]["credkey"]
        status, stored = self.past_later(
            "POST", f"secret/oauth/creds/{issuer}/{key}:{role}", auth["client_token"],
            {"server": issuer, "refresh_token": auth["metadata"]["oauth2_refresh_token"]},
        )
        assert status == 204, stored
        return auth["client_token"], key

    def read(self, token, key, issuer="dune", role="default", minimum=60):
        return self.request("GET", f"secret/oauth/creds/{issuer}/{key}:{role}?minimum_seconds={minimum}", token)

    def refreshed(self, token, key) -> dict:
        """The answer of a read for which the server had to ask the issuer: of a token, or of why there is none."""
        first = self.read(token, key)[1]["data"]["access_token"]
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            # Nearly all the life a token of the test bed has: true for its first second only.
            status, body = self.read(token, key, minimum=3599)
            if status != 200 or body["data"]["access_token"] != first:
                return {"status": status, **(body or {})}
            threading.Event().wait(0.1)
        raise AssertionError("the token was never refreshed")


def at_once(number, work, *arguments):
    """Runs `work(i, *arguments)` for each i below `number` in threads of their own; returns the results in order."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(number, 64)) as pool:
        return list(pool.map(lambda index: work(index, *arguments), range(number)))
