"""First logins at npm's oidc-provider, in each of its flows: the original client and ours."""

import pytest
from support.house import lookup, mode
from support.tokens import claims, header

SEVEN_DAYS = 7 * 86400


def in_order(text: str, *parts: str) -> bool:
    """Whether `parts` stand in `text` one after the other."""
    start = 0
    for part in parts:
        found = text.find(part, start)
        if found < 0:
            return False
        start = found + len(part)
    return True


@pytest.mark.parametrize("issuer", ["dune", "noconfirm", "direct"])
def test_first_login(house, newcomer, kind, issuer):
    user = f"{kind}-first"
    outcome = newcomer.log_in(house.person(user), issuer=issuer)
    assert outcome.code == 0, outcome
    assert in_order(
        outcome.out, "Complete the authentication at:\n", f"Storing vault token in {newcomer.vault_token}\n",
        f"Attempting to get token from {house.server.url} ... succeeded\n", f"Storing bearer token in {newcomer.bearer}\n",
    ), outcome

    # What the person saw.
    ours = [page for page in outcome.pages if page.url.startswith(house.server.url)]
    if issuer == "dune":
        assert not ours, "the device flow ends at the issuer"
    else:
        assert "Login complete" in ours[-1].text and user in ours[-1].text
        assert len(ours) == (2 if issuer == "direct" else 1)
    if issuer == "direct":
        assert "127.0.0.1" in ours[0].text, "the confirmation page names the address of the program that asked"

    # What is in the files, and who may read them.
    bearer = newcomer.bearer.read_text()
    assert bearer.endswith("\n") and bearer.count("\n") == 1
    assert claims(bearer)["sub"] == user
    assert header(bearer)["alg"] == "ES256"
    token = newcomer.vault_token.read_text()
    assert token.startswith("hvs.") and token.endswith("\n") and token.count("\n") == 1
    assert mode(newcomer.bearer) == mode(newcomer.vault_token) == 0o600
    assert (newcomer.home / f".config/htgettoken/credkey-{issuer}-default").read_text() == f"{user}\n"

    # What the vault token may do, and for how long.
    data = lookup(house.server, token.strip())
    assert SEVEN_DAYS - 60 < data["ttl"] <= SEVEN_DAYS
    assert data["renewable"] is False
    assert not any(policy.startswith("sshregister") for policy in data["policies"])

    second = newcomer.run(issuer=issuer, terminal=False)
    assert second.code == 0, second
    assert newcomer.bearer.read_text() == bearer and newcomer.vault_token.read_text() == token


@pytest.mark.parametrize("issuer", ["dune", "noconfirm"])
def test_user_denies(house, newcomer, kind, issuer):
    outcome = newcomer.log_in(house.person(f"{kind}-denier"), issuer=issuer, decision="deny")
    assert outcome.code == 1, outcome
    assert "access_denied" in outcome.out, outcome
    assert outcome.out.splitlines()[-1].startswith("htgettoken: "), outcome
    assert "permission denied" not in outcome.out.lower()
    assert not newcomer.bearer.exists() and not newcomer.vault_token.exists()
    if issuer == "noconfirm":
        assert "refused" in outcome.pages[-1].text and outcome.pages[-1].status == 400


def test_prompt_goes_to_standard_error_when_standard_output_is_data(house, newcomer, kind):
    outcome = newcomer.log_in(
        house.person(f"{kind}-apart"), "--vaulttokenttl=28d", "--vaulttokeninfile=/nonexistent/vt", "--vaulttokenfile=/dev/stdout",
        "--nobearertoken", apart=True,
    )
    assert outcome.code == 0, outcome
    token = outcome.out.removesuffix("\n")
    assert token.startswith("hvs.") and "\n" not in token
    assert lookup(house.server, token)["ttl"] > 27 * 86400
    assert not newcomer.bearer.exists() and not newcomer.vault_token.exists()


def test_robot_names_its_own_credential_key(house, newcomer, kind):
    """`--credkey` at a login binds a second name to the grant; no file remembers it."""
    user = f"{kind}-robot"
    key = f"{user}/cron/host.example.org"
    outcome = newcomer.log_in(house.person(user), f"--credkey={key}")
    assert outcome.code == 0, outcome
    assert claims(newcomer.bearer.read_text())["sub"] == user
    assert not (newcomer.home / ".config/htgettoken/credkey-dune-default").exists()
    again = newcomer.run(f"--credkey={key}", "--nooidc", terminal=False)
    assert again.code == 0, again
