"""What the suite does to a front-end under test in a session, one act after the other."""

from __future__ import annotations

#: The front-end is started, stopped and continued as a whole, its dirty memory is logged for a
#: while, its devices are reset, and it is told to end.
START, STOP, CONT, LOG, RESET, END = "start", "stop", "cont", "log", "reset", "end"
#: The suite's back-end acts by itself, as the script's ``asks`` does.
ASKED = "ask"
#: All that can be done to a front-end, in an order in which each act is possible.
EVERYTHING = (START, STOP, CONT, LOG, STOP, CONT, RESET, END)
