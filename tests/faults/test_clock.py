"""The host's wall clock jumps by days, forwards and back, under the whole server. Nobody hears a refusal while it is in doubt; when it
is known to be right, what has expired is refused as always.

Debian's libfaketime stands in for the host's clock; the boot-time clock goes on as it is. What the kernel says about synchronisation
differs from host to host, so two lines of C answer adjtimex(2) in its place.
"""

import re
import subprocess

import pytest
from support.clock import HostClock
from support.processes import GRIDKEEP, PATIENCE, wait_until
from support.vault import at_once

DAY = 86_400


@pytest.fixture
def clock(tmp_path):
    return HostClock(tmp_path / "clock")


@pytest.fixture
def world(make_issuer, make_server, entry, vault, clock):
    """A server under that clock, with a login of 28 days and a token of an hour."""
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)], start=False)
    server.start(clock.environment)
    client = vault(server)
    token, key = client.login()
    status, body = client.request("POST", "auth/token/create", token, {"ttl": "1h"})
    assert status == 200, body
    return server, client, token, key, body["auth"]["client_token"]


def lookup(client, token):
    status, body = client.request("GET", "auth/token/lookup-self", token)
    return status, "" if status == 200 else body["errors"][0]


def fetch(client, token, key):
    """The status of a read for which the issuer is asked, which may take longer than a reader is let wait."""
    return client.past_later("GET", f"secret/oauth/creds/dune/{key}:default?minimum_seconds=60", token)[0]


def confirm(server):
    done = subprocess.run(
        [GRIDKEEP, "operator", "confirm-clock", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE, env={}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("days", [3, 20, -3, -40])
def test_a_jump_refuses_nobody(world, clock, days):
    server, client, token, key, short = world
    clock.jump(days * DAY)
    # Sixteen at once, because the jump is noticed by whoever comes first.
    for status, body in at_once(16, lambda _: client.read(token, key)):
        assert status in (200, 503) and "permission denied" not in str(body), body
    assert wait_until(lambda: client.read(token, key)[0] == 200, "credentials are served", server.process)
    status, text = lookup(client, short)
    if days > 0:
        assert status == 503 and "this server's clock" in text, (status, text)
    else:
        assert status == 200, text
    jumped = next(line for line in server.log().splitlines() if "the wall clock jumped" in line)
    assert "gridkeep operator confirm-clock" in jumped and re.search(r"found=\"?[0-9]{4}-[0-9]{2}-[0-9]{2}T", jumped), jumped
    # The way back is a jump as well, and nothing is lost by the two.
    clock.jump(0)
    for known in (token, short):
        assert lookup(client, known) == (200, ""), known
    assert client.read(token, key)[0] == 200


@pytest.mark.parametrize("by", ["operator", "kernel"])
def test_a_clock_that_is_right_after_all_is_believed(world, clock, by):
    server, client, token, key, short = world
    clock.jump(3 * DAY)
    assert lookup(client, short)[0] == 503
    if by == "operator":
        confirm(server)
    else:
        clock.synchronised(True)
    status, text = lookup(client, short)
    assert status == 403 and text == "permission denied", (status, text)
    assert lookup(client, token)[0] == 200
    assert fetch(client, token, key) == 200


@pytest.mark.parametrize("days", [5, -5])
def test_a_start_under_another_clock(world, clock, days):
    server, client, token, key, short = world
    server.stop()
    clock.jump(days * DAY)
    server.start(clock.environment)
    assert client_again(client, token) == (200, "")
    assert fetch(client, token, key) == 200
    status, text = lookup(client, short)
    assert (status == 503 and "this server's clock" in text) if days > 0 else status == 200, (status, text)
    assert "the wall clock is before or more than a day after" in server.log()
    server.stop()
    clock.jump(0)
    server.start(clock.environment)
    for known in (token, short):
        assert client_again(client, known) == (200, ""), known


def client_again(client, token):
    """The first answer after a restart: the old connection is gone."""
    client.local.__dict__.clear()
    return lookup(client, token)
