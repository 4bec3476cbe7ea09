"""The ways in which a node of a cluster, its host, its disk or its clock can fail, and the ways back."""

import signal

from .cluster import NODES, etcd_address


def others(name):
    return [other for other in NODES if other != name]


class Away:
    """The ways in which a node or its host can be away, each with its end."""

    def __init__(self, cluster, clock):
        self.cluster, self.network, self.clock = cluster, cluster.network, clock

    def kinds(self) -> list:
        return [
            self.kill, self.stop, self.minority, self.unplug, self.majority_gone, self.storeless, self.kill_etcd, self.slow_disk, self.skew,
            self.skew_back, self.restart,
        ]

    def spares_others(self, kind) -> bool:
        """Whether the nodes that are not its own go on serving while such a fault lasts."""
        return kind != self.majority_gone

    def kill(self, name):
        self.cluster.nodes[name].kill()
        return lambda: self.cluster.nodes[name].start()

    def restart(self, name):
        """An orderly stop, as for a new version."""
        self.cluster.nodes[name].stop()
        return lambda: self.cluster.nodes[name].start()

    def kill_etcd(self, name):
        self.cluster.members[name].stop()
        return lambda: self.cluster.members[name].start()

    def stop(self, name):
        self.cluster.nodes[name].process.signal(signal.SIGSTOP)
        return lambda: self.cluster.nodes[name].process.signal(signal.SIGCONT)

    def unplug(self, name):
        self.network.unplug(name)
        return lambda: self.network.plug(name)

    def minority(self, name):
        """Clients reach the node, and it reaches no other: the rest is the majority."""
        self.network.part([name], others(name))
        return lambda: self.network.join([name], others(name))

    def majority_gone(self, name):
        """Every node is alone: nobody has a majority."""
        pairs = [("n1", "n2"), ("n1", "n3"), ("n2", "n3")]
        for one, other in pairs:
            self.network.part([one], [other])

        def end():
            for one, other in pairs:
                self.network.join([one], [other])

        return end

    def storeless(self, name):
        """The node reaches the other nodes, and no member of etcd."""
        away = [etcd_address(other) for other in others(name)]
        self.network.cut(name, away)
        self.cluster.members[name].process.signal(signal.SIGSTOP)

        def end():
            self.network.mend(name, away)
            self.cluster.members[name].process.signal(signal.SIGCONT)

        return end

    def slow_disk(self, name):
        """Each flush of the host's disk takes longer than it takes etcd to give a leader up."""
        self.cluster.members[name].stop()
        self.cluster.members[name].start(flush_takes=1.5)

        def end():
            self.cluster.members[name].stop()
            self.cluster.members[name].start()

        return end

    def skew(self, name, seconds=7200):
        """The node is started under a clock that is wrong, and that its kernel calls right."""
        self.clock.jump(seconds)
        self.clock.synchronised(True)
        self.cluster.nodes[name].kill()
        self.cluster.nodes[name].start(self.clock.environment)

        def end():
            self.cluster.nodes[name].kill()
            self.cluster.nodes[name].start()

        return end

    def skew_back(self, name):
        return self.skew(name, -7200)
