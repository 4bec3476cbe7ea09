"""A provider and a server that many tests share, and homes of people who are logged in there."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from .clients import Client
from .issuers import Provider
from .people import Person
from .servers import Server, past_later

# The modes of a login and the algorithms of the provider's keys, by the name of the issuer in the server's configuration.
MODES = {"dune": ("device", "gridkeep"), "noconfirm": ("noconfirm", "gridkeep-ec"), "direct": ("direct", "gridkeep")}
SCOPES = ["profile", "offline_access", "wlcg", "storage.read:/"]


def redirects() -> str:
    return " ".join(f"https://localhost/v1/auth/oidc-{name}/oidc/callback" for name in MODES)


def entries(provider, roles=("default", "other")) -> list[dict]:
    """The provider under each name of `MODES`, in the schema of the original's files."""
    return [
        {
            "name": name, "clientid": client, "secret": provider.client_secret, "url": provider.url, "callbackmode": mode,
            "credclaim": "wlcg.credkey", "ca_file": provider.ca,
            "roles": [{"name": role, "scopes": SCOPES} for role in roles],
        }
        for name, (mode, client) in MODES.items()
    ]


@dataclass
class House:
    """What tests share that do not disturb each other. Whoever stops or breaks something takes a house of their own."""

    directory: Path
    authority: object
    provider: Provider
    server: Server
    # A vault token of each kind's user that lives one second from the first login on.
    dying: dict = field(default_factory=dict)

    @classmethod
    def open(cls, directory: Path, authority, ending, **options) -> "House":
        # Short at first and longer after a refresh, so that --minsecs has something to replace.
        provider = Provider(directory, authority, redirects(), **{"access_seconds": 600, "refreshed_seconds": 3600, **options})
        ending(provider)
        (directory / "server").mkdir()
        server = Server(directory / "server", authority, entries(provider))
        ending(server)
        server.start()
        return cls(directory, authority, provider, server)

    def person(self, name: str) -> Person:
        return Person(name, self.authority.path)

    def client(self, kind: str, directory: Path) -> Client:
        directory.mkdir(exist_ok=True)
        return Client(kind, directory, self.server)

    def resident(self, kind: str, directory: Path, issuer: str = "dune") -> Client:
        """A client whose user has logged in: each kind its own user, once; the home is a copy."""
        user = f"{kind}-user"
        model = self.directory / f"home-{kind}-{issuer}"
        if not model.exists():
            client = self.client(kind, model)
            first = client.log_in(self.person(user), issuer=issuer)
            assert first.code == 0, first
            # Dead for good by the time a later test asks for it.
            self.dying.setdefault(kind, new_token(self.server, client.vault_token.read_text().strip(), "1s"))
        client = self.client(kind, directory)
        shutil.copytree(model / "home", client.home, dirs_exist_ok=True)
        client.bearer.unlink()
        client.user = user
        return client


def lookup(server, token: str) -> dict:
    """What the server says about a vault token."""
    status, body = server.call("GET", "auth/token/lookup-self", token)
    assert status == 200, body
    return body["data"]


def new_token(server, parent: str, ttl: str) -> str:
    """A child of a vault token."""
    status, body = past_later(server, "POST", "auth/token/create", parent, {"ttl": ttl, "renewable": "false"})
    assert status == 200, body
    return body["auth"]["client_token"]


def mode(path: Path) -> int:
    return os.stat(path).st_mode & 0o777


