"""Tokens that gridkeep hands out are accepted by other people's verifiers, and our verifier agrees with them."""

import os
import subprocess
from pathlib import Path

import pytest
import scitokens

from support.processes import GRIDKEEP, PATIENCE


@pytest.fixture
def kind():
    return "ours"


def fetched(make_issuer, make_server, make_client, entry, **options):
    issuer = make_issuer(auto_login="alice", **options)
    server = make_server([entry(issuer)])
    client = make_client(server)
    done = client.run()
    assert done.code == 0, done
    return issuer, client


def ours(issuer, token, *words, home):
    return subprocess.run(
        [GRIDKEEP, "verify", "--cafile", issuer.ca, "--issuer", issuer.url, *words, "-"],
        input=token, capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )


def python_verdict(token, issuer, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", issuer.ca)
    monkeypatch.setenv("SSL_CERT_FILE", issuer.ca)
    return scitokens.SciToken.deserialize(token, audience=None, insecure=False)


@pytest.fixture(autouse=True)
def private_key_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "python-cache"))
    (tmp_path / "python-cache").mkdir()


def test_python_scitokens_accepts(make_issuer, make_server, make_client, entry, monkeypatch, tmp_path):
    issuer, client = fetched(make_issuer, make_server, make_client, entry)
    token = client.bearer.read_text().strip()
    parsed = python_verdict(token, issuer, monkeypatch)
    assert parsed["iss"] == issuer.url and "storage.read:/" in parsed["scope"].split()
    done = ours(issuer, token, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_token_is_refused_by_both(make_issuer, make_server, make_client, entry, monkeypatch, tmp_path):
    issuer, client = fetched(make_issuer, make_server, make_client, entry)
    header, payload, signature = client.bearer.read_text().strip().split(".")
    forged = ".".join([header, payload, signature[:-8] + ("A" * 8 if signature[-8:] != "A" * 8 else "B" * 8)])
    with pytest.raises(Exception):
        python_verdict(forged, issuer, monkeypatch)
    done = ours(issuer, forged, home=tmp_path)
    assert done.returncode != 0 and "bad_signature" in done.stdout + done.stderr


def test_scitokens_cpp_accepts_and_refuses(make_issuer, make_server, make_client, entry, tmp_path):
    """The library takes its certificates from the system's bundle alone, so it sees one with our authority in a mount namespace."""
    issuer, client = fetched(make_issuer, make_server, make_client, entry)
    token = client.bearer.read_text().strip()
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(system.read_text() + Path(issuer.ca).read_text())

    def verdict(text):
        script = f'mount --bind "{bundle}" "{system}" && exec scitokens-verify "$1"'
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        return subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", text], capture_output=True, text=True, timeout=PATIENCE, env=env)

    done = verdict(token)
    assert done.returncode == 0, done.stdout + done.stderr
    header, payload, signature = token.split(".")
    assert verdict(".".join([header, payload, signature[:-8] + "AAAAAAAA"])).returncode != 0
