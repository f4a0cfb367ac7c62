"""Owners of claims: a process is gone when its machine says so, and only then."""

import os
import socket
import subprocess
import sys
import time

from transforms import owners
from transforms.owners import is_gone, this_process


def test_a_process_describes_itself() -> None:
    """Twice the same, and it lives."""
    me = this_process()
    assert (me.host, me.pid) == (socket.gethostname(), os.getpid())
    assert this_process()[:4] == me[:4]
    assert not is_gone(me)


def test_an_owner_is_gone_when_its_process_has_ended_here() -> None:
    """Another machine's process is never judged, nor is one whose machine does not tell its boot."""
    me = this_process()
    process = subprocess.Popen([sys.executable, "-c", ""])
    born = owners._born(process.pid)
    assert born is not None
    while owners._born(process.pid) is not None:  # it is not waited for: one that has ended counts as gone
        time.sleep(0.01)
    gone = me._replace(pid=process.pid, born=born)
    if me.boot is not None:
        assert is_gone(gone)
        assert is_gone(me._replace(born="1"))  # its pid was given again
    assert not is_gone(gone._replace(boot="another"))
    assert not is_gone(gone._replace(boot=None))
    process.wait()
