"""The checks on copies: across splits first of all, then under two labels, then the rest."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from linnaeus.data.findings import Case, Finding

# More near copies than this number, and than this share of the earlier split, are no accident but how the set was made.
LEAKS, LEAK_SHARE = 10, 0.05


def check_leaks(case: Case) -> Iterable[Finding]:
    """Images of an earlier split whose twin is in a later one: of train in val or test, of val in test."""
    splits = case.splits
    files: dict[int, str] = {}
    groups: list[tuple[int, ...]] = []
    sentences = []
    for later in reversed(splits[1:]):
        for earlier in splits[: splits.index(later)]:
            found = _Leak(case, earlier, later)
            if found.everywhere:
                yield Finding("leak_everywhere", found.near_sentence(), found.near, tuple(found.near_groups))
                found.near, found.near_groups = {}, []
            if found.exact or found.near:
                sentences.append(found.sentence())
                files = {**found.near, **found.exact, **files}
                groups += found.exact_groups + found.near_groups
    if files:
        yield Finding("leak", " ".join(sentences), dict(sorted(files.items())), tuple(groups))


class _Leak:
    """What of one split is also in a later one."""

    def __init__(self, case: Case, earlier: str, later: str) -> None:
        self.case, self.earlier, self.later = case, earlier, later
        splits, self.copies = case.labels.splits, _Copies(case)
        self.exact: dict[int, str] = {}
        self.near: dict[int, str] = {}
        self.exact_groups: list[tuple[int, ...]] = []
        self.near_groups: list[tuple[int, ...]] = []
        for group in self.copies.groups():
            self._add(self.exact, self.exact_groups, group, group, "exact copy")
        for a, b, mirrored in self.copies.near():
            word = "mirrored near copy" if mirrored else "near copy"
            self._add(self.near, self.near_groups, a, b, word)
            self._add(self.near, self.near_groups, b, a, word)
        self.near = {position: reason for position, reason in self.near.items() if position not in self.exact}
        self.total = int((splits == earlier).sum())

    def _add(
        self,
        files: dict[int, str],
        groups: list[tuple[int, ...]],
        first: tuple[int, ...],
        second: tuple[int, ...],
        word: str,
    ) -> None:
        splits = self.case.labels.splits
        ours = [position for position in first if splits[position] == self.earlier]
        theirs = [position for position in second if splits[position] == self.later]
        if ours and theirs:
            files.update({position: f"{word} of {self.case.name(theirs[0])}" for position in ours})
            groups.append((*ours, *theirs))

    @property
    def everywhere(self) -> bool:
        """Whether near copies are so many that leaving them out would be wrong."""
        return len(self.near) > max(LEAKS, LEAK_SHARE * self.total)

    def sentence(self) -> str:
        """How many of the later split are known from the earlier one: what scores would be wrong by."""
        exact = _count(len(self.exact), "exact copy", "exact copies")
        near = _count(len(self.near), "near copy", "near copies")
        return self._sentence(self.exact_groups + self.near_groups, f"{exact} and {near}")

    def near_sentence(self) -> str:
        """The same for near copies alone."""
        return self._sentence(self.near_groups, _count(len(self.near), "near copy", "near copies"))

    def _sentence(self, groups: list[tuple[int, ...]], copies: str) -> str:
        splits = self.case.labels.splits
        seen = {position for group in groups for position in group if splits[position] == self.later}
        total = int((splits == self.later).sum())
        share = f"{len(seen):,} of {total:,} images of {self.later} ({len(seen) / total:.1%})"
        return f"{share} {'has' if len(seen) == 1 else 'have'} a twin in {self.earlier}: {copies}."


def check_two_labels(case: Case) -> Iterable[Finding]:
    """Copies and near copies that are labelled differently."""
    copies, labels = _Copies(case), case.label_numbers()
    groups = [group for group in copies.groups() if len(set(labels[list(group)].tolist())) > 1]
    files = {position: _as(case, position, group) for group in groups for position in group}
    if files:
        reason = f"{_count(len(groups), 'image is', 'images are')} there under several labels, in {len(files):,} files."
        yield Finding("two_labels", reason, files, tuple(groups))
    pairs = [(a[0], b[0]) for a, b, _ in copies.near() if labels[a[0]] != labels[b[0]]]
    files = {position: _as(case, position, pair) for pair in pairs for position in pair}
    if files:
        reason = f"{_count(len(pairs), 'pair of near copies has', 'pairs of near copies have')} different labels."
        yield Finding("near_two_labels", reason, files, tuple(pairs))


def check_copies(case: Case) -> Iterable[Finding]:
    """All copies, wherever they are. The first of them is not at fault."""
    copies = _Copies(case)
    groups = list(copies.groups())
    files = {position: f"exact copy of {case.name(group[0])}" for group in groups for position in group[1:]}
    if files:
        reason = f"{_count(len(files), 'exact copy', 'exact copies')} of {_count(len(groups), 'image', 'images')}."
        yield Finding("copies", reason, files, tuple(groups))
    families = case.twins.families()
    linked = np.unique(np.concatenate([case.twins.first, case.twins.second]))
    members: dict[int, list[int]] = defaultdict(list)
    for position in linked.tolist():
        members[int(families[position])].append(position)
    near_groups = [tuple(group) for group in members.values()]
    files = {position: f"near copy of {case.name(group[0])}" for group in near_groups for position in group[1:]}
    if files:
        reason = f"{_count(len(files), 'near copy', 'near copies')} of {_count(len(near_groups), 'image', 'images')}."
        yield Finding("near_copies", reason, files, tuple(near_groups))
    if not case.twins.complete:
        yield Finding("too_alike", "More pairs of images are alike than can be gone through.")


class _Copies:
    """The copies of a case, as lists of positions."""

    def __init__(self, case: Case) -> None:
        self._twins = case.twins
        self._members: dict[int, list[int]] = defaultdict(list)
        copied = np.unique(case.twins.copy_of[case.twins.copy_of != np.arange(len(case.twins.copy_of))])
        for position in np.flatnonzero(np.isin(case.twins.copy_of, copied)).tolist():
            if position not in case.audit.broken:
                self._members[int(case.twins.copy_of[position])].append(position)

    def groups(self) -> Iterator[tuple[int, ...]]:
        """Positions with the same content, for contents that are there several times."""
        for members in self._members.values():
            yield tuple(members)

    def near(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], bool]]:
        """Pairs of near copies, each with all its exact copies, and whether they are mirrored."""
        pairs = (self._twins.first.tolist(), self._twins.second.tolist(), self._twins.mirrored.tolist())
        for a, b, mirrored in zip(*pairs, strict=True):
            yield tuple(self._members.get(a, [a])), tuple(self._members.get(b, [b])), mirrored


def _as(case: Case, position: int, group: Iterable[int]) -> str:
    own = case.labels.text(position)
    others = sorted({case.labels.text(other) for other in group} - {own})
    return f"'{own}' here, {' and '.join(repr(other) for other in others)} elsewhere"


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"
