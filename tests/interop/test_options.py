"""htgettoken's options once a user is known at the provider: the original client and ours do the same."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.house import lookup, mode, new_token
from support.processes import wait_until
from support.tokens import claims

DAY = 86400
NOTHING = "--vaulttokeninfile=/nonexistent/vt"
QUIET = ("--nooidc", "-q")


def url(house, client, issuer="dune", role="default", kind="creds"):
    return f"{house.server.url}/v1/secret/oauth/{kind}/{issuer}/{client.user}:{role}"


def short_token(house, client, ttl):
    """A vault token that lives no longer than `ttl`, in a file of its own."""
    path = client.home / "short"
    path.write_text(new_token(house.server, client.vault_token.read_text().strip(), ttl) + "\n")
    path.chmod(0o600)
    return path


def test_second_call_needs_no_browser(house, resident):
    first = resident.run(terminal=False)
    assert first.code == 0, first
    bearer = resident.bearer.read_text()
    second = resident.run(terminal=False)
    assert second.code == 0, second
    assert second.out == (
        f"Attempting to get token from {house.server.url} ... succeeded\nStoring bearer token in {resident.bearer}\n"
    ), second
    assert second.err == ""
    assert resident.bearer.read_text() == bearer


def test_credkey_instead_of_the_remembered_one(resident):
    remembered = resident.home / ".config/htgettoken/credkey-dune-default"
    remembered.unlink()
    outcome = resident.run(f"--credkey={resident.user}", terminal=False)
    assert outcome.code == 0, outcome
    assert not remembered.exists()


def test_credkey_of_somebody_else(house, resident):
    other = resident.run("--credkey=somebody", "--nooidc", terminal=False)
    assert other.code == 1, other
    assert not resident.bearer.exists()


def test_minsecs_longer_than_the_cached_token_lasts(house, resident):
    """The provider's tokens live 3000 seconds after a login and 3600 after a refresh."""
    assert resident.run(terminal=False).code == 0
    before = claims(resident.bearer.read_text())
    # The server may have dated it a moment later than the provider.
    minimum = before["exp"] - before["iat"] - 2
    wait_until(lambda: before["exp"] - time.time() < minimum - 1, "the cached token is three seconds old")
    outcome = resident.run(f"--minsecs={minimum}", terminal=False)
    assert outcome.code == 0, outcome
    after = claims(resident.bearer.read_text())
    assert after["jti"] != before["jti"] and after["exp"] - after["iat"] == 3600
    again = resident.run(terminal=False)
    assert again.code == 0, again
    assert claims(resident.bearer.read_text())["jti"] == after["jti"], "the newer token is the cached one from now on"


def test_nobearertoken_wants_a_new_vault_token(house, resident):
    old = resident.vault_token.read_text()
    refused = resident.run("--nobearertoken", "--nooidc", terminal=False)
    assert refused.code == 1, refused
    outcome = resident.log_in(house.person(resident.user), "--nobearertoken")
    assert outcome.code == 0, outcome
    assert resident.vault_token.read_text() != old
    assert not resident.bearer.exists()
    assert f"Storing vault token in {resident.vault_token}\n" in outcome.out
    assert "bearer token in" not in outcome.out
    usable = resident.run(terminal=False)
    assert usable.code == 0, usable


def test_a_month_long_vault_token_stays_off_the_disk(house, resident):
    on_disk = resident.run("--vaulttokenttl=28d", terminal=False)
    assert on_disk.code == 1, on_disk
    assert "htgettoken: " in on_disk.err
    outcome = resident.log_in(
        house.person(resident.user), "--vaulttokenttl=28d", NOTHING, apart=True, own_files=False,
    )
    assert outcome.code == 0, outcome
    token = outcome.out.removesuffix("\n")
    assert token.startswith("hvs.") and "\n" not in token, outcome
    assert 27 * DAY < lookup(house.server, token)["ttl"] <= 28 * DAY
    assert resident.bearer.exists()
    assert f"Storing bearer token in {resident.bearer}\n" in outcome.err

    # The exchange that the storer does: through a pipe, into a shorter one that may lie on disk.
    resident.vault_token.unlink()
    exchanged = resident.run("--vaulttokeninfile=/dev/stdin", *QUIET, stdin=token + "\n")
    assert exchanged.code == 0, exchanged
    assert exchanged.out == exchanged.err == ""
    child = resident.vault_token.read_text().strip()
    assert child != token and mode(resident.vault_token) == 0o600
    assert 6 * DAY < lookup(house.server, child)["ttl"] <= 7 * DAY
    only = resident.run("--vaulttokeninfile=/dev/stdin", "--nobearertoken", "--vaulttokenttl=1h", *QUIET, stdin=token)
    assert only.code == 0, only
    assert lookup(house.server, resident.vault_token.read_text().strip())["ttl"] <= 3600

    # A child dies with its parent.
    assert house.server.call("POST", "auth/token/revoke-self", token)[0] == 204
    assert house.server.call("GET", "auth/token/lookup-self", child)[0] == 403


def test_exchange_of_nothing(resident):
    outcome = resident.run("--vaulttokeninfile=/dev/stdin", "--nooidc", stdin="")
    assert outcome.code == 1, outcome
    assert not resident.bearer.exists()


def test_showbearerurl(house, resident):
    outcome = resident.run("--showbearerurl", terminal=False)
    assert outcome.code == 0, outcome
    assert outcome.out == url(house, resident) + "\n"
    assert outcome.err == (
        f"Attempting to get token from {house.server.url} ... succeeded\nStoring bearer token in {resident.bearer}\n"
    )
    status, body = house.server.call("GET", outcome.out.strip().split("/v1/")[1], resident.vault_token.read_text().strip())
    assert (status, body["data"]["access_token"]) == (200, resident.bearer.read_text().strip())


def test_showbearerurl_alone_asks_nobody(house, resident, kind):
    outcome = resident.run("--showbearerurl", "--nobearertoken", terminal=False)
    if kind == "original":
        # 2.2 wants a new vault token even for this; 2.6, which ours follows, does not.
        assert (outcome.code, outcome.out) == (1, ""), outcome
        return
    assert (outcome.code, outcome.out, outcome.err) == (0, url(house, resident) + "\n", ""), outcome
    assert not resident.bearer.exists()


def test_vaulttokeninfile(house, resident):
    elsewhere = resident.home / "elsewhere"
    resident.vault_token.rename(elsewhere)
    content = elsewhere.read_text()
    elsewhere.chmod(0o400)
    outcome = resident.run(f"--vaulttokeninfile={elsewhere}", terminal=False)
    assert outcome.code == 0, outcome
    assert elsewhere.read_text() == content and mode(elsewhere) == 0o400
    assert not resident.vault_token.exists(), "a vault token that works is not written again"


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_without_a_usable_vault_token_in_the_background(resident, content):
    if content is None:
        resident.vault_token.unlink()
    else:
        resident.vault_token.write_text(content)
    outcome = resident.run(terminal=False)
    assert outcome.code == 1, outcome
    assert "Complete the authentication" not in outcome.out + outcome.err
    assert outcome.err.splitlines()[-1].startswith("htgettoken: "), outcome
    assert not resident.bearer.exists()


def test_vaulttokenminttl(house, resident):
    day_long = short_token(house, resident, "1d")
    enough = resident.run(f"--vaulttokeninfile={day_long}", "--vaulttokenminttl=10s", "--nooidc", terminal=False)
    assert enough.code == 0, enough
    resident.bearer.unlink()
    words = ("--vaulttokenttl=3d", "--vaulttokenminttl=2d", f"--vaulttokenfile={day_long}")
    short = resident.run(*words, "--nooidc", terminal=False)
    assert short.code == 1, short
    assert not resident.bearer.exists()
    renewed = resident.log_in(house.person(resident.user), *words)
    assert renewed.code == 0, renewed
    token = day_long.read_text().strip()
    assert 2 * DAY < lookup(house.server, token)["ttl"] <= 3 * DAY
    same = resident.run(*words, "--nooidc", terminal=False)
    assert same.code == 0, same
    assert day_long.read_text().strip() == token


@pytest.mark.parametrize(("words", "code"), [
    (("--vaulttokenminttl=7d",), 1),
    (("--vaulttokenttl=1w",), 1),
    (("--vaulttokenttl=",), 1),
    (("--minsecs=some",), 2),
    (("--nosuchoption",), 2),
    (("--vault=x",), 2),
    (("stray",), 2),
])
def test_refused_words(resident, words, code):
    outcome = resident.run(*words, terminal=False)
    assert outcome.code == code, outcome
    assert "htgettoken: " in outcome.err
    assert not resident.bearer.exists()


def test_habits_of_the_option_parser(house, resident):
    outcome = resident.run("--minsecs", "0x10", "--vaulttokenmin", "1s", "-qi", "dune", terminal=False)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", ""), outcome


def test_options_from_the_environment(house, resident):
    options = f"--credkey='{resident.user}' --vaulttokenminttl=10s -q # a remark"
    (resident.home / ".config/htgettoken/credkey-dune-default").unlink()
    outcome = resident.run(terminal=False, env={"HTGETTOKENOPTS": options})
    assert (outcome.code, outcome.out, outcome.err) == (0, "", ""), outcome


def test_places_of_the_bearer_token(resident):
    named = resident.home / f"bt_{os.geteuid()}"
    outcome = resident.run("-o", resident.home / "bt_%uid", terminal=False)
    assert outcome.code == 0, outcome
    assert named.exists() and mode(named) == 0o600 and not resident.bearer.exists()
    runtime = resident.home / "run"
    runtime.mkdir()
    environment = resident.environment({"XDG_RUNTIME_DIR": str(runtime)})
    del environment["BEARER_TOKEN_FILE"]
    outcome = resident.execute(resident.arguments([], "dune"), env=environment)
    assert outcome.code == 0, outcome
    assert (runtime / f"bt_u{os.geteuid()}").read_text() == named.read_text()


def test_a_link_is_replaced_and_not_followed(resident):
    victim = resident.home / "victim"
    victim.write_text("kept")
    resident.bearer.symlink_to(victim)
    outcome = resident.run(terminal=False)
    assert outcome.code == 0, outcome
    assert victim.read_text() == "kept" and not resident.bearer.is_symlink()


def test_bearer_token_to_a_directory_that_is_not_there(resident):
    outcome = resident.run(f"--outfile={resident.home}/none/bt", terminal=False)
    assert outcome.code == 1, outcome
    assert outcome.err.splitlines()[-1].startswith("htgettoken: "), outcome


def test_nearly_empty_environment(resident):
    outcome = resident.execute(
        [*resident.arguments(["-c", resident.home / ".config/htgettoken", f"--outfile={resident.bearer}"], "dune")],
        env={"HTGETTOKENOPTS": "--vaulttokenminttl=10s"},
    )
    assert outcome.code == 0, outcome


# The original's debugging output holds every token.
@pytest.mark.parametrize("kind, word", [("original", "-v"), ("ours", "-v"), ("ours", "-d")])
def test_details_hold_no_secret(resident, kind, word):
    outcome = resident.run(word, "--vaulttokenminttl=1h", terminal=False)
    assert outcome.code == 0, outcome
    said = outcome.out + outcome.err
    assert resident.bearer.read_text().strip() not in said
    assert resident.vault_token.read_text().strip() not in said


def test_runs_at_the_same_time(resident):
    """Several runs with one home: all succeed, and nobody who looks sees half a token."""
    assert resident.run(terminal=False).code == 0
    bearer = resident.bearer.read_text()
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: resident.run(terminal=False), range(6)))
    assert [outcome.code for outcome in outcomes] == [0] * 6, outcomes
    assert resident.bearer.read_text() == bearer
    assert [path.name for path in resident.home.iterdir() if path.name.startswith(".htgettoken")] == []
