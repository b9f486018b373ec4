"""The conformance cases as test items; `plugin` imports this module when there is a peer to test.

With ``--vhost-user-socket`` or ``--vhost-user-exec`` each case is an item of its own. If a test of
the user's own uses the fixture `vhost_user_case`, only such tests run the cases.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from vhost_user.errors import VhostUserError
from vhost_user_conformance.errors import ConformanceError, OptionError
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.pytest_plugin.options import PREFIX
from vhost_user_conformance.pytest_plugin.selection import Selection
from vhost_user_conformance.pytest_plugin.workers import check_mode, claim, is_worker, scheduler
from vhost_user_conformance.report import terminal
from vhost_user_conformance.target import (
    DEVICES,
    DIALECTS,
    LONGEST_PATIENCE,
    PATIENCE,
    ROLES,
    SHORTEST_PATIENCE,
    Target,
    cases_of,
    select,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult
    from vhost_user_conformance.peer.runner import CaseRunner

#: Errors that are reported in one line.
_ERRORS = (ConformanceError, VhostUserError, OSError)
_OPTION = re.compile(
    r"(?<![\w-])--(socket|exec|destination|device|only|dialect|patience|scratch)(?![\w-])"
)
_Made = TypeVar("_Made")


class Suite:
    """The cases that the options select, as a plugin.

    Args:
        config: pytest's.

    Attributes:
        target: the peer under test.

    Raises:
        pytest.UsageError: an option has an invalid value.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._worker = is_worker(config)
        try:
            self.target = _target(config)
            self.target.check()
            selection = Selection.of(config)
            cases = cases_of(self.target.role)
            select(cases, selection.only)  # an unknown name is an error
            self._cases = selection.chosen(cases)
        except ConformanceError as error:
            raise pytest.UsageError(_prefixed(str(error))) from None
        if not self._worker:
            check_mode(config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        """Add the cases, if no test of the user's own runs them."""
        if not any("vhost_user_case" in getattr(item, "fixturenames", ()) for item in items):
            items.extend(session.genitems(Cases.of(session, self.target, self._cases)))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """A scheduler that assigns all cases to one worker."""
        return scheduler(config, log)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Connect to the peer once: if that fails, it is one error instead of one for each case."""
        config = session.config
        if self._worker or config.option.collectonly or session.testsfailed:
            return
        distributed = config.pluginmanager.hasplugin("dsession")
        if distributed or any(item.get_closest_marker("vhost_user") for item in session.items):
            mine = [item.case for item in session.items if isinstance(item, CaseItem)]
            try:
                Trial.of(config, self.target).guard(mine)
            except _ERRORS as error:
                raise pytest.UsageError(_prefixed(str(error))) from None
            if distributed:
                Trial.close_all(config)


class Cases(pytest.Collector):
    """The cases of the options' peer, with a collector for each area, so that ``-k`` knows it."""

    def __init__(self, *, target: Target, cases: Sequence[Case], **settings: Any) -> None:
        super().__init__(**settings)
        self._target = target
        self._cases = cases

    @classmethod
    def of(cls, session: pytest.Session, target: Target, cases: Sequence[Case]) -> Cases:
        """The collector of all areas."""
        name = f"vhost-user-{target.role}"
        made: Cases = cls.from_parent(session, name=name, nodeid=name, target=target, cases=cases)
        return made

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """The areas, or the items of one."""
        if isinstance(self.parent, Cases):
            for case in self._cases:
                yield CaseItem.made(self, case, self._target)
            return
        for area in dict.fromkeys(case.area for case in self._cases):
            mine = [case for case in self._cases if case.area == area]
            yield Cases.from_parent(self, name=area, target=self._target, cases=mine)


class CaseItem(pytest.Item):
    """One case of the options' peer."""

    def __init__(self, *, case: Case, target: Target, **settings: Any) -> None:
        super().__init__(**settings)
        self.case = case
        self._target = target
        self._run: CaseRun | None = None
        self.add_marker(_mark(case))

    @classmethod
    def made(cls, parent: pytest.Collector, case: Case, target: Target) -> CaseItem:
        """The item for a case."""
        name = f"test_conformance[{case.id}]"
        item: CaseItem = cls.from_parent(parent, name=name, case=case, target=target)
        return item

    def setup(self) -> None:
        """Start the peer, or connect to it."""
        self._run = CaseRun(self, self.case, _trial(self.config, self._target))

    def runtest(self) -> None:
        """Run the case."""
        assert self._run is not None  # noqa: S101  pytest calls setup first
        self._run.check()

    def reportinfo(self) -> tuple[Path, None, str]:
        """The rule stands in the headline of a failure."""
        return self.path, None, f"{self.case.id} {self.case.rule}"


class CaseRun:
    """One case, ready to run against a peer: the value of the fixture `vhost_user_case`.

    Args:
        item: the test that runs it; its properties get the case's attributes, for JUnit's XML.
        case: the case.
        trial: of the peer.
    """

    def __init__(self, item: pytest.Item, case: Case, trial: Trial) -> None:
        self.case = case
        self._item = item
        self._trial = trial
        self._set(area=case.area, rule=case.rule, spec=case.spec, severity=str(case.severity))

    @classmethod
    def made(cls, request: pytest.FixtureRequest, target: Target) -> CaseRun:
        """For a test that uses the fixture."""
        case: Case = request.param
        if case.role != target.role:
            pytest.fail(f"{case.id} is a case for a {case.role}, and the peer is a {target.role}")
        return cls(request.node, case, _trial(request.config, target))

    def run(self) -> CaseResult:
        """Any verdict."""
        result = self._trial.run(self.case)
        self._set(verdict=str(result.verdict))
        return result

    def check(self) -> None:
        """Pass, fail or skip the test by the verdict: UNSUPPORTED and OBSERVED skip it.

        A known failure is an expected one (xfail); if it does not fail any more, the test fails.
        """
        selection = _selection(self._item.config)
        result = selection.marked(self.run())
        if result.known is not None:
            self._set(known=result.known.reason)
        if result.known_failure and result.known is not None:
            pytest.xfail(f"{result.verdict}: {result.known.reason or 'known to fail'}")
        if complaint := selection.complaint(result):
            pytest.fail(complaint, pytrace=False)
        if result.verdict in (Verdict.FAIL, Verdict.ERROR):
            pytest.fail(terminal.evidence_text(result), pytrace=False)
        if result.verdict is Verdict.OBSERVED:
            pytest.skip(f"OBSERVED: {self.case.id} {self.case.rule}: {result.seen}")
        if result.verdict is Verdict.UNSUPPORTED:
            pytest.skip(f"UNSUPPORTED: {_prefixed(result.seen)}")

    def _set(self, **properties: str) -> None:
        self._item.user_properties.extend(properties.items())


class Trial:
    """A peer under test, from the first case that needs it to the end of the run."""

    def __init__(self, target: Target, config: pytest.Config) -> None:
        with ExitStack() as owned:
            claim(target, config, owned)
            self._runner: CaseRunner = owned.enter_context(target.opened())
            self._runner.probe()
            self._owned = owned.pop_all()

    @classmethod
    def of(cls, config: pytest.Config, target: Target) -> Trial:
        """The trial of this peer; that of another peer is closed.

        Raises:
            ConformanceError: the peer cannot be had.
        """
        if _TRIALS not in config.stash:
            config.stash[_TRIALS] = {}
            config.pluginmanager.register(_SessionEnd(), "vhost-user-session-end")
        trials = config.stash[_TRIALS]
        if target not in trials:
            cls.close_all(config)
            trials[target] = cls(target, config)
        return trials[target]

    @staticmethod
    def close_all(config: pytest.Config) -> None:
        """End the program under test, if there is one."""
        trials = config.stash.get(_TRIALS, {})
        while trials:
            trials.popitem()[1].close()

    def run(self, case: Case) -> CaseResult:
        """Run it; skip the test if the peer is gone."""
        gone = self._runner.gone
        if gone:
            pytest.skip(f"not run, as the peer is gone: {gone}")
        return _or_fail(lambda: self._runner.run([case], lambda _result: None)[0])

    def guard(self, cases: Sequence[Case]) -> None:
        """As `CaseRunner.guard`."""
        self._runner.guard(cases)

    def close(self) -> None:
        """End it."""
        self._owned.close()


class _SessionEnd:
    """Ends the program under test before a worker of pytest-xdist reports that its session is over.

    The controller may kill the worker once it has reported that.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Close the trial."""
        Trial.close_all(session.config)


_TRIALS = pytest.StashKey[dict[Target, Trial]]()


def parametrize(metafunc: pytest.Metafunc) -> None:
    """One run of a test for each case that the options or its mark ``vhost_user_cases`` choose."""
    config = metafunc.config
    mark = metafunc.definition.get_closest_marker("vhost_user_cases")
    only, named = (mark.args, mark.kwargs) if mark else ((), {})
    role = named.get("role") or config.getoption("vhost_user_role") or ROLES[0]
    try:
        if role not in ROLES:
            raise OptionError(f"role {role!r} is not one of {', '.join(ROLES)}")
        chosen = select(cases_of(role), only)
    except OptionError as error:
        why = f"vhost_user_cases of {metafunc.definition.nodeid}: {error}"
        chosen = []
    else:
        why = ""
    if why:
        pytest.fail(why.replace("--only ", ""), pytrace=False)
    chosen = _selection(config).chosen(chosen)
    marked = [pytest.param(case, id=case.id, marks=_mark(case)) for case in chosen]
    metafunc.parametrize("vhost_user_case", marked, indirect=True)


def _selection(config: pytest.Config) -> Selection:
    """As `Selection.of`, for a test."""
    return _or_fail(lambda: Selection.of(config))


def _mark(case: Case) -> pytest.MarkDecorator:
    """The mark by which ``-m`` selects the case."""
    return pytest.mark.vhost_user(
        id=case.id, area=case.area, severity=str(case.severity), spec=case.spec
    )


def _target(config: pytest.Config) -> Target:
    """The peer that the options name.

    Raises:
        OptionError: an option has an invalid value.
    """
    socket = config.getoption("vhost_user_socket")
    patience = config.getoption("vhost_user_patience")
    return Target(
        role=_choice(config, "role", ROLES) or ROLES[0],
        socket=Path(socket).absolute() if socket else None,
        command=config.getoption("vhost_user_exec"),
        device=_choice(config, "device", DEVICES),
        dialect=_choice(config, "dialect", DIALECTS) or DIALECTS[0],
        patience=PATIENCE if patience is None else _seconds(patience),
        scratch=config.getoption("vhost_user_scratch"),
        destination=config.getoption("vhost_user_destination"),
    )


def _choice(config: pytest.Config, name: str, known: tuple[str, ...]) -> str:
    value: str = config.getoption(f"vhost_user_{name}") or ""
    if value and value not in known:
        raise OptionError(f"{PREFIX}{name} {value}: not one of {', '.join(known)}")
    return value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_PATIENCE <= seconds <= LONGEST_PATIENCE:
        limits = f"{SHORTEST_PATIENCE:g} to {LONGEST_PATIENCE:g}"
        raise OptionError(f"{PREFIX}patience {text}: not in the range of {limits} seconds")
    return seconds


def _trial(config: pytest.Config, target: Target) -> Trial:
    """As `Trial.of`, for a test."""
    return _or_fail(lambda: Trial.of(config, target))


def _or_fail(act: Callable[[], _Made]) -> _Made:
    """What the function returns; its error fails the test in one line."""
    try:
        return act()
    except _ERRORS as error:
        why = str(error)
    pytest.fail(_prefixed(why), pytrace=False)


def _prefixed(text: str) -> str:
    """The text with the options' names in this plugin instead of those in ``emu conform``."""
    return _OPTION.sub(rf"{PREFIX}\1", " ".join(text.split()))
