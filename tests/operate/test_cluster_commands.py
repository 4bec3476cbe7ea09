"""What operators of several nodes type: the words of `cluster status`, and `config publish`. The nodes share one real etcd."""

import os
import shutil
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


def test_a_server_alone_publishes_nothing(make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(), name="default")])
    done = gridkeep(server, "config", "publish")
    assert done.returncode == 1 and "a reload puts its files into force" in done.stderr, done
    done = gridkeep(server, "cluster", "status")
    assert done.returncode == 0 and "nodes: this one alone" in done.stdout, done
