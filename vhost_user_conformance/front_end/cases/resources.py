"""VU-F-18xx: open files and repeated messages over many stops and resets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.front_end.acts import CONT, RESET, START, STOP
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("resources", FRONT_END, "long-running VMs")
CYCLES = 8


def _check_open_files(recording: Recording) -> None:
    counts = recording.open_files
    if not counts:
        unsupported("the suite has not started the front-end: use --exec")
    check(counts[-1] <= counts[0], f"{counts[0]} open files, as after the first cycle", f"{counts}")


@area.case(1801, "Stopping and continuing does not leave files open", spec="")
def descriptors(fe: FrontEnd) -> None:
    acts = (START, *(STOP, CONT) * CYCLES)
    recording = fe.session(Script(f"stopped and continued {CYCLES} times", acts))
    recording.did(CONT)
    _check_open_files(recording)


@area.case(1803, "Resetting does not leave files open", spec="")
def descriptors_of_resets(fe: FrontEnd) -> None:
    recording = fe.session(Script("reset 4 times", (START, *(RESET,) * 4)))
    recording.did(RESET)
    _check_open_files(recording)


@area.case(1802, "The same messages are sent each time that the VM continues", spec="")
def same_messages(fe: FrontEnd) -> None:
    acts = (START, *(STOP, CONT) * CYCLES)
    recording = fe.session(Script(f"stopped and continued {CYCLES} times", acts))
    recording.did(CONT)
    rounds: list[list[int]] = []
    act = ""
    for each in recording.messages:
        if each.act != act and each.act == CONT:
            rounds.append([])
        act = each.act
        if act == CONT:
            rounds[-1].append(each.id)
    lengths = [len(each) for each in rounds]
    check(len(rounds) == CYCLES, f"messages in each of {CYCLES} cycles", f"{lengths}")
    check(lengths[-1] <= lengths[0], f"no more than {lengths[0]} messages", f"{lengths}")
