"""A wall clock that a program is started under, and what the kernel says of it.

Debian's libfaketime stands in for the host's clock; the boot-time clock goes on as it is. What the kernel says about synchronisation
differs from host to host, so two lines of C answer adjtimex(2) in its place.
"""

import subprocess

KERNEL = """
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
int adjtimex(void *unused) { (void)unused; return access(getenv("KERNEL_CLOCK_RIGHT"), F_OK) ? 5 : 0; }
"""


class HostClock:
    """The wall clock that a server is started under."""

    def __init__(self, directory):
        directory.mkdir()
        self.offset, self.right = directory / "offset", directory / "right"
        source, kernel = directory / "kernel.c", directory / "kernel.so"
        source.write_text(KERNEL)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", kernel, source], check=True)
        self.environment = {
            "LD_PRELOAD": f"{libfaketime()}:{kernel}",
            "FAKETIME_TIMESTAMP_FILE": str(self.offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "KERNEL_CLOCK_RIGHT": str(self.right),
        }
        self.jump(0)

    def jump(self, seconds):
        """Sets the clock this far from the true time, in one step."""
        new = self.offset.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self.offset)

    def synchronised(self, right):
        """What the kernel says of the clock."""
        self.right.touch() if right else self.right.unlink(missing_ok=True)


def libfaketime():
    machine = subprocess.run(["cc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    return f"/usr/lib/{machine}/faketime/libfaketimeMT.so.1"
