"""What the options say of the cases: which ones run, and which ones are known to fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from vhost_user_conformance.errors import OptionError
from vhost_user_conformance.model import baseline
from vhost_user_conformance.pytest_plugin.options import PREFIX
from vhost_user_conformance.target import ROLES, cases_of, shard, shard_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult, Known


class Selection(NamedTuple):
    """The values of ``only``, ``shard`` and ``known``.

    Attributes:
        only: ids and areas; none of them means all cases.
        part: the number of the part and the number of parts, or None.
        path: the baseline, or None.
        known: what it says, by the cases' ids.
    """

    only: tuple[str, ...]
    part: tuple[int, int] | None
    path: Path | None
    known: Mapping[str, Known]

    @classmethod
    def of(cls, config: pytest.Config) -> Selection:
        """The values of the options; the baseline is read once.

        Raises:
            OptionError: a value is invalid, or the file is wrong or cannot be read.
        """
        if _SELECTION not in config.stash:
            only, text, name = (
                config.getoption(f"vhost_user_{option}") for option in ("only", "shard", "known")
            )
            part = None
            if text:
                try:
                    part = shard_of(text)
                except OptionError as error:
                    raise OptionError(f"{PREFIX}shard {error}") from None
            known = _read(config, Path(name)) if name else {}
            selection = cls(tuple(only), part, Path(name) if name else None, known)
            config.stash[_SELECTION] = selection
        return config.stash[_SELECTION]

    def chosen(self, cases: Iterable[Case]) -> list[Case]:
        """These cases, as far as the options select them; of unknown names in ``only`` none."""
        wanted = set(self.only)
        found = [case for case in cases if not wanted or {case.id, case.area} & wanted]
        return found if self.part is None else shard(found, *self.part)

    def marked(self, result: CaseResult) -> CaseResult:
        """The result, with what is known of its case."""
        return baseline.marked(result, self.known)

    def complaint(self, result: CaseResult) -> str:
        """The line about a known failure that is none any more; else empty."""
        if not result.mended or self.path is None:
            return ""
        return baseline.complaint(f"{PREFIX}known", self.path, [result])


_SELECTION = pytest.StashKey[Selection]()


def _read(config: pytest.Config, path: Path) -> Mapping[str, Known]:
    """The baseline: of the peer's role, or of both, as a suite of the user's own may have both."""
    role = config.getoption("vhost_user_role")
    roles: Sequence[str] = [role] if role in ROLES else ROLES
    cases = [case for each in roles for case in cases_of(each)]
    try:
        return baseline.read(f"{PREFIX}known", path, cases)
    except OSError as error:
        raise OptionError(f"{PREFIX}known {path}: {error.strerror}") from None
