"""A person logs in with a device code, and gets tokens from then on without a browser: the original client and ours."""

import json
import base64


def claims(token: str) -> dict:
    payload = token.strip().split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def test_device_login_then_no_browser(make_issuer, make_server, make_client, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    client = make_client(server)

    first = client.run()
    assert first.code == 0, first
    assert claims(client.bearer.read_text())["iss"] == issuer.url
    assert client.vault_token.read_text().startswith("hvs.")
    assert (client.home / ".config/htgettoken/credkey-dune-default").read_text().strip() == "alice"

    token = client.bearer.read_text()
    second = client.run(terminal=False)
    assert second.code == 0, second
    assert "Complete the authentication" not in second.out + second.err
    assert client.bearer.read_text() == token, "the cached token is handed out again"
    assert "refresh_token" not in issuer.admin("counters")["grant_types"]
