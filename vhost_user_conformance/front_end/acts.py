"""The acts of a session: what the suite does to the front-end under test, in order."""

from __future__ import annotations

#: The front-end is started, stopped and continued as a whole, its dirty memory is logged for a
#: while, its devices are reset, and its program is asked to end.
START, STOP, CONT, LOG, RESET, END = "start", "stop", "cont", "log", "reset", "end"
#: As LOG, but it is over when logging is on.
LOGGING = "logging"
#: The VM is migrated to another program, which has a session of its own.
MIGRATE = "migrate"
#: The suite's back-end runs the script's ``asks``.
ASKED = "ask"
#: All acts but ASKED, LOGGING and MIGRATE, in an order in which each is possible.
EVERYTHING = (START, STOP, CONT, LOG, STOP, CONT, RESET, END)
