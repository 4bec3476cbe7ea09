"""httokensh, htdecodetoken and htdestroytoken: the scripts that PyPI's package ships, and ours."""

import json
import os
import shutil
import subprocess

import pytest
from support.processes import CACHE
from support.tokens import claims, header

# What the original's shell scripts call; scitokens-verify is not among them, as it would ask the network about a token of ours.
TOOLS = ("bash", "sh", "jq", "id", "cut", "tr", "base64", "date", "md5sum", "sleep", "rm", "cat", "env", "stat", "kill", "true")


class Companions:
    """The commands of one kind, for a client."""

    def __init__(self, client, directory):
        self.client = client
        tools = directory / "tools"
        tools.mkdir()
        for tool in TOOLS:
            (tools / tool).symlink_to(shutil.which(tool))
        own = client.names if client.kind == "ours" else CACHE / "venv" / "bin"
        self.directory = own
        self.path = f"{own}:{tools}"

    def run(self, name, *words, stdin=None, env=None):
        environment = {**self.client.environment(env), "PATH": self.path}
        return self.client.execute([self.directory / name, *words], stdin=stdin, env=environment)


@pytest.fixture
def companions(resident, tmp_path):
    return Companions(resident, tmp_path)


@pytest.fixture
def bearer(resident):
    """A bearer token on disk."""
    assert resident.run(terminal=False).code == 0
    return resident.bearer.read_text().strip()


def indented(payload):
    return json.dumps(payload, indent=2, ensure_ascii=False) + "\n"


def test_decode_the_token_on_disk(companions, bearer):
    outcome = companions.run("htdecodetoken")
    assert (outcome.code, outcome.out, outcome.err) == (0, indented(claims(bearer)), ""), outcome


def test_decode_from_elsewhere(companions, resident, bearer):
    resident.bearer.unlink()
    elsewhere = resident.home / "elsewhere"
    # Without a newline at its end, as some write it.
    elsewhere.write_text(bearer)
    wanted = (0, indented(claims(bearer)), "")
    for words, stdin, env in (
        ((elsewhere,), None, None),
        (("-",), bearer + "\n", None),
        ((), None, {"BEARER_TOKEN": bearer}),
        ((), None, {"BEARER_TOKEN_FILE": str(elsewhere)}),
    ):
        outcome = companions.run("htdecodetoken", *words, stdin=stdin, env=env)
        assert (outcome.code, outcome.out, outcome.err) == wanted, (words, outcome)


def test_decode_with_header_and_dates(companions, bearer):
    outcome = companions.run("htdecodetoken", "-a")
    assert (outcome.code, outcome.out) == (0, indented(header(bearer)) + indented(claims(bearer))), outcome
    outcome = companions.run("htdecodetoken", "-H", env={"TZ": "UTC", "LC_ALL": "C"})
    assert outcome.code == 0, outcome
    shown = json.loads(outcome.out)
    date = subprocess.run(
        ["date", f"--date=@{claims(bearer)['exp']}"], env={"TZ": "UTC", "LC_ALL": "C", "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True,
    ).stdout.strip()
    # The original's shell takes the second blank out that `date` writes before the days 1 to 9.
    assert shown["exp"] == " ".join(date.split()) and shown["sub"] == claims(bearer)["sub"]


@pytest.mark.parametrize(("words", "content"), [
    ((), None), ((), ""), ((), "not a token\n"), (("/nonexistent/token",), None), (("a", "b"), None), (("-x",), None),
])
def test_nothing_to_decode(companions, resident, kind, words, content):
    if content is not None:
        resident.bearer.write_text(content)
    outcome = companions.run("htdecodetoken", *words)
    assert outcome.code != 0 and outcome.out == "", outcome
    # The original says nothing about an empty file.
    assert outcome.err or (kind, content) == ("original", ""), outcome


def test_sh_gives_a_token_to_a_command(companions, resident):
    runtime = resident.home / "run"
    runtime.mkdir()
    script = 'cat "$BEARER_TOKEN_FILE"; stat -c %a "$BEARER_TOKEN_FILE"; echo "$BEARER_TOKEN_FILE"; exit 7'
    environment = {**resident.environment({"XDG_RUNTIME_DIR": str(runtime)}), "PATH": companions.path}
    del environment["BEARER_TOKEN_FILE"]
    options = resident.arguments(("-q",), "dune")[len(resident.program):]
    outcome = resident.execute([companions.directory / "httokensh", *options, "--", "sh", "-c", script], env=environment)
    assert outcome.code == 7, outcome
    token, permissions, place = outcome.out.splitlines()[-3:]
    assert claims(token)["sub"] == resident.user and permissions == "600"
    assert place.startswith(f"{runtime}/bt_u{os.geteuid()}.sh-")
    assert list(runtime.iterdir()) == [], "token and log are gone with the command"
    assert resident.vault_token.exists()


def test_sh_needs_a_token_first(companions, resident):
    resident.vault_token.unlink()
    options = resident.arguments((), "dune")[len(resident.program):]
    mark = resident.home / "mark"
    outcome = companions.run("httokensh", *options, "--", "touch", mark)
    assert outcome.code == 1 and "not running command" in outcome.err, outcome
    assert not mark.exists()


@pytest.mark.parametrize("words", [(), ("-h",), ("--", "true"), ("-a", "x")])
def test_sh_usage(companions, words):
    outcome = companions.run("httokensh", *words)
    assert outcome.code == 1 and outcome.out == "" and "Usage" in outcome.err, outcome


@pytest.fixture
def private_tmp(tmp_path):
    """Words that give a command a /tmp of its own: the default places of tokens are there."""
    place = tmp_path / "private"
    place.mkdir()
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind "$0" /tmp && exec "$@"', str(place)]
    allowed = subprocess.run([*words, "true"], capture_output=True, text=True)
    assert allowed.returncode == 0, f"the tests need user namespaces (kernel.unprivileged_userns_clone): {allowed.stderr}"
    return words, place


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_destroy_in_the_default_places(companions, resident, private_tmp, quiet):
    words, place = private_tmp
    program = companions.directory / "htdestroytoken"
    if not program.is_relative_to("/tmp"):
        inside = [program]
    else:
        # The links to our program are hidden by that /tmp; it goes by the name of its file, whose ever that is.
        shutil.copy(program.resolve(), place / "htdestroytoken")
        inside = ["/tmp/htdestroytoken"]
    bearer, vault = place / "bt_u0", place / "vt_u0"
    environment = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    for name in (bearer, vault):
        name.write_text("token\n")
    outcome = resident.execute([*words, *inside, *quiet], env=environment)
    said = "" if quiet else "Removing /tmp/bt_u0\nRemoving /tmp/vt_u0\n"
    assert (outcome.code, outcome.out, outcome.err) == (0, said, ""), outcome
    assert not bearer.exists() and not vault.exists()
    again = resident.execute([*words, *inside], env=environment)
    assert (again.code, again.out, again.err) == (0, "", ""), again


def test_destroy_usage(companions):
    outcome = companions.run("htdestroytoken", "--nosuch")
    assert outcome.code == 2 and outcome.out == "" and "Usage" in outcome.err, outcome


def test_destroy_on_the_server_too(house, tmp_path):
    """`-f` came after the version on PyPI, so only ours has it; another user's login is used up by it."""
    client = house.client("ours", tmp_path / "leaver")
    client.user = "ours-destroyer"
    assert client.log_in(house.person(client.user)).code == 0
    companions = Companions(client, tmp_path)
    token = client.vault_token.read_text().strip()
    path = f"secret/oauth/creds/dune/{client.user}:default"
    assert house.server.call("GET", path, token)[0] == 200
    options = ["-a", f"localhost:{house.server.port}", "-i", "dune", f"--cafile={house.authority.path}"]
    outcome = companions.run("htdestroytoken", "-f", *options, env={"VAULT_TOKEN_FILE": str(client.vault_token)})
    assert outcome.code == 0, outcome
    assert not client.bearer.exists() and not client.vault_token.exists()
    assert house.server.call("GET", path, token)[0] == 404
