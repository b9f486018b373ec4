"""A peer that is tested in parts: its verdicts, once all parts have run, and the table of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from emu.conformance.parts import PartError, Whole, whole
from vhost_user_conformance.model import baseline
from vhost_user_conformance.model.result import document, not_sane, summary
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.report.terminal import STYLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from emu.cluster.worker import Output, Task
    from emu.conformance.peers_file import Peer
    from vhost_user_conformance.model.result import Known


@dataclass(slots=True)
class PeerVerdicts:
    """A peer, and what is known of it.

    Attributes:
        peer: it.
        known: the cases that are known to fail, by their ids.
        tasks: the parts of its cases.
        whole: the results of all parts; None until all have run.
        error: why there are none, if a part was not run.
    """

    peer: Peer
    known: Mapping[str, Known] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    whole: Whole | None = None
    error: str = ""
    _outputs: dict[Task, Output] = field(default_factory=dict)

    def add(self, task: Task, output: Output) -> None:
        """Take the output of a part; after the last one `whole` or `error` is set."""
        self._outputs[task] = output
        if len(self._outputs) < len(self.tasks):
            return
        try:
            found = whole(self.peer, [self._outputs[each] for each in self.tasks])
        except PartError as error:
            self.error = str(error)
        else:
            marked = [baseline.marked(result, self.known) for result in found.results]
            self.whole = found._replace(results=marked)

    def failure(self, *, strict: bool) -> str:
        """Why the peer fails the command, in a line; empty if it does not.

        Args:
            strict: a case that ended as ERROR does, too.
        """
        if self.whole is None:
            return self.error or "it was not tested to the end"
        results = self.whole.results
        bad = {Verdict.FAIL, Verdict.ERROR} if strict else {Verdict.FAIL}
        failed = [each.case.id for each in results if each.verdict in bad and not each.known]
        mended = [each.case.id for each in results if each.mended]
        if failed:
            return f"{len(failed)} cases failed, such as {failed[0]}"
        if mended:
            return f"{mended[0]} is known to fail, and does not fail any more"
        if insane := not_sane(results):
            return f"{insane[0].case.id}: the peer does not work, so its verdicts show nothing"
        return ""

    def document(self) -> dict[str, Any]:
        """What ``emu conform --json`` writes.

        Raises:
            ValueError: the peer was not tested to the end.
        """
        if self.whole is None:
            raise ValueError(f"{self.peer.name} was not tested")
        known = self.peer.known is not None
        found = self.whole
        return document(
            self.peer.target.role, found.peer, found.offered, found.results, known=known
        )


def table(tested: Iterable[PeerVerdicts]) -> Table:
    """A row for each peer: how often each verdict came."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    result.add_column("peer")
    for verdict in Verdict:
        result.add_column(str(verdict), justify="right", style=STYLES[verdict])
    for each in tested:
        if each.whole is None:
            result.add_row(each.peer.name, "not tested")
            continue
        counts = summary(each.whole.results)
        result.add_row(each.peer.name, *[str(counts[name] or "-") for name in map(str, Verdict)])
    return result
