"""Imported by the fork server of processes that read: it leaves the process group, and they with it.

dumb-init, the first process of the container, sends SIGTERM to the whole group. The process that trains ends
its batch with what they read, writes a checkpoint, and ends them.
"""

import os

os.setpgid(0, 0)
