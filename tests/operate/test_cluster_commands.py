"""What operators of several nodes type: the words of `cluster status`, and `config publish`. The nodes share one real etcd."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from support.etcd import Etcd
from support.processes import GRIDKEEP, PATIENCE, wait_until


def gridkeep(server, *words):
    return subprocess.run(
        [GRIDKEEP, *words, "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]},
    )


@pytest.fixture
def etcd(tmp_path, ending):
    made = Etcd(tmp_path / "etcd")
    ending(made)
    return made


@pytest.fixture
def nodes(etcd, make_issuer, make_server, entry):
    """Two nodes, the second of which takes its issuers from the store."""
    def node(name, issuers):
        return make_server(
            issuers, name=name, start=False, own={"store": {"etcd": {"endpoints": [etcd.client]}}},
            extra={"cluster": {"name": "localhost", "myname": f"{name}.test", "auditlog": "none"}},
        )

    first = node("a", [entry(make_issuer(), name="default")]).start()
    second = node("b", [])
    shutil.copy(first.etc / "root.key", second.etc / "root.key")
    second.start()
    return first, second


def status(server, wanted, code, unwanted=None):
    """The text, once it holds `wanted` and not `unwanted`, and the exit code is `code`: nodes hear of each other, and of themselves, with
    their heartbeats, and one that comes late is told of with them."""
    last = []

    def asked():
        last[:] = [gridkeep(server, "cluster", "status")]
        text = last[0].stdout
        return wanted in text and (unwanted is None or unwanted not in text) and last[0].returncode == code

    try:
        wait_until(asked, f"{wanted!r} is told", server.process)
    except AssertionError as error:
        raise AssertionError(f"{error}\nwith exit code {code}, but the last time: {last}") from None
    return last[0].stdout


def test_the_words_of_cluster_status_and_publishing(nodes):
    first, second = nodes
    text = status(first, "b.test         live", 0)
    assert text.startswith("store: etcd, answers\nconfiguration: version 1; records: level 1\n") and "a.test (here)  live" in text, text

    second.stop()
    second.config["issuers"] = [{**first.config["issuers"][0], "name": "other"}]
    second.write_config()
    second.start()
    text = status(second, "b.test: files differ: it serves version 1", 1)
    assert "run gridkeep config publish there" in text and "1, files differ" in text, text

    done = gridkeep(second, "config", "publish")
    assert (done.returncode, done.stdout) == (0, "the files of this node are version 2 of the configuration of all nodes\n"), done
    status(second, "a.test: files differ: it serves version 2", 1, unwanted="b.test: ")

    second.kill()
    text = status(first, "b.test: silent: it was not stopped", 1)
    assert "look at its log" in text, text
    first.stop()
    done = gridkeep(first, "cluster", "status")
    assert done.returncode == 2 and "no server answers on" in done.stderr, done


def at_once(servers, commands):
    """Operators' commands, one on each node, at the same time: for each the exit code and what it says on both outputs."""
    begun = [
        subprocess.Popen(
            [GRIDKEEP, "operator", *words, "--config", server.etc / "config.d"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"]},
        )
        for server, words in zip(servers, commands)
    ]
    said = [one.communicate(timeout=PATIENCE) for one in begun]
    return [(one.returncode, *both) for one, both in zip(begun, said)]


def keys(server):
    return {path.name: path.read_text() for path in server.etc.glob("root.key*")}


def state(server):
    """What `gridkeep status` says, and its exit code."""
    done = gridkeep(server, "status", "--json")
    return json.loads(done.stdout), done.returncode


def test_a_root_key_that_live_nodes_do_not_know_is_not_put_in_force(nodes, tmp_path):
    first, second = nodes
    status(first, "b.test         live", 0)
    status(second, "a.test         live", 0)
    before = [keys(node) for node in nodes]
    for (code, out, error), other in zip(at_once(nodes, [["rotate-root-key"]] * 2), ("b.test", "a.test")):
        assert code == 1 and not out and "do not know root key" in error and f": {other}." in error, error
        assert "nothing was changed" in error and "gridkeep operator expect-root-key FILE" in error, error
    assert [keys(node) for node in nodes] == before
    new = tmp_path / "new.key"
    done = gridkeep(first, "operator", "rotate-root-key", "--key", new)
    assert done.returncode == 1 and not new.exists(), "nothing needs it"
    assert gridkeep(first, "operator", "expect-root-key", new).returncode == 0
    done = gridkeep(first, "operator", "rotate-root-key", "--key", new)
    assert done.returncode == 1 and "b.test" in done.stderr and new.exists(), done
    assert status(first, "b.test         live", 0) and status(second, "b.test (here)  live", 0)
    assert state(first)[1] == state(second)[1] == 0

    done = gridkeep(first, "operator", "rotate-root-key", "--key", new, "--force")
    assert done.returncode == 0 and f"safe place is out of date: copy {new} there now" in done.stdout, done
    text = status(first, "b.test: silent: when it was last heard of it did not know root key", 1)
    assert "run gridkeep operator expect-root-key FILE there" in text and "is down" not in text, text
    text = status(second, "b.test (here)  cut off", 1)
    assert text.startswith("store: etcd, CANNOT BE USED: it is sealed under root key") and "a.test         live" in text, text
    told, code = state(second)
    assert code == 3 and told["passes_on"] and "expect-root-key FILE" in told["store"]["trouble"], told
    text = gridkeep(second, "status").stdout
    assert "requests: PASSED TO OTHER NODES" in text and "takes writes" not in text, text
    found = json.loads(gridkeep(second, "doctor", "--json").stdout)
    bad = [finding["what"] for finding in found if finding["state"] == "bad"]
    assert any("which another node has put in force" in what for what in bad) and any("passes requests to other nodes" in what for what in bad), bad
    log = second.log()
    assert log.count("gridkeep operator expect-root-key FILE") == 1 and "Give the key that belongs to this data" not in log, log

    assert gridkeep(second, "operator", "expect-root-key", new).returncode == 0
    status(second, "b.test (here)  live", 0)
    wait_until(lambda: state(second)[1] == 0, "it serves by itself", second.process)


def test_of_two_rotations_at_once_no_node_is_locked_out(nodes, tmp_path):
    """Every node expects both keys."""
    status(nodes[0], "b.test         live", 0)
    wanted = [tmp_path / "one.key", tmp_path / "two.key"]
    for new in wanted:
        for node in nodes:
            assert gridkeep(node, "operator", "expect-root-key", new).returncode == 0
    said = at_once(nodes, [["rotate-root-key", "--key", new] for new in wanted])
    assert any(code == 0 for code, _, _ in said), said
    for code, _, error in said:
        assert code == 0 or "Nothing was changed by this one" in error, error
    assert all(new.exists() for new in wanted)
    for node, here in zip(nodes, ("a.test (here)  live", "b.test (here)  live")):
        status(node, here, 0)
        wait_until(lambda: state(node)[1] == 0, "it serves by itself", node.process)
    (key,) = {json.loads(gridkeep(node, "cluster", "status", "--json").stdout)["root_key"] for node in nodes}
    assert key


def test_a_node_that_does_not_reach_etcd_accuses_no_other(nodes, etcd):
    first, _ = nodes
    status(first, "b.test         live", 0)
    etcd.process.signal(signal.SIGSTOP)
    try:
        # Either may be the first to be over the time after which nothing heard means something.
        status(first, "a.test (here)  cut off", 1)
        text = status(first, "b.test         unknown", 1)
        assert text.startswith("store: etcd, CANNOT BE USED: it has not answered this node for") and "etcdctl endpoint health" in text, text
        assert "a.test (here)  cut off" in text and "is down" not in text and "start it" not in text, text
        told, code = state(first)
        assert code == 3 and told["passes_on"] and "has not answered this node for" in told["store"]["trouble"], told
    finally:
        etcd.process.signal(signal.SIGCONT)
    status(first, "b.test         live", 0)


def test_a_server_alone_publishes_nothing(make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(), name="default")])
    done = gridkeep(server, "config", "publish")
    assert done.returncode == 1 and "a reload puts its files into force" in done.stderr, done
    done = gridkeep(server, "cluster", "status")
    assert done.returncode == 0 and "nodes: this one alone" in done.stdout, done
