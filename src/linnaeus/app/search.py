"""The search itself: what to try next, when a trial is hopeless, and a journal of all trials that survives a kill.

Proposals are those of the tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for Hyper-Parameter
Optimization"), and pruning is by the median of earlier trials at the same evaluation (Golovin et al. 2017, "Google
Vizier", section 3.2.2), both as Optuna computes them. The seed of a proposal is a function of the run's seed and of the
number of trials before it, so that a search that was stopped proposes what it would have proposed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from linnaeus.app.space import Range, Space, Value
from linnaeus.core.errors import RequestError
from linnaeus.core.seed import derive

RANDOM = 5
"""Trials before the estimator proposes any; until then values are drawn at random."""
MATURE = 4
"""Trials that must have come to their end before another one is compared with them and pruned."""
PATIENCE = 0.25
"""Share of a trial's evaluations before it may be pruned: at first the score says little."""
_STUDY = "linnaeus"


@dataclass(frozen=True)
class Tried:
    """A trial that is over.

    Attributes:
        number: from 0, which is the trial with the defaults.
        values: what differs from the configuration that all trials share.
        curve: the score on val of each evaluation, the larger the better.
        measure: what the score is, as the record calls it; "" where nothing was evaluated.
        ended: why it did not come to its end; "" if it did.
        second: what decides between equal scores, of its best evaluation, the larger the better.
    """

    number: int
    values: dict[str, Value]
    curve: tuple[float, ...]
    seconds: float
    measure: str = ""
    second: float = 0.0
    ended: str = ""

    @property
    def score(self) -> float:
        """The best on val, which is that of the state a run would deliver; -inf where nothing was evaluated."""
        return max(self.curve, default=-inf)

    @property
    def rank(self) -> tuple[bool, float, float, int]:
        """How good it is, the larger the better: ended trials are behind all others, and of equals the first leads."""
        return not self.ended, self.score, self.second, -self.number


@dataclass
class Asked:
    """A trial that is to be made.

    Attributes:
        values: setting -> what to try.
        last: the number of its last evaluation.
    """

    values: dict[str, Value]
    last: int
    trial: Any = field(repr=False)

    def report(self, evaluation: int, score: float) -> bool:
        """Whether it is hopeless after so many evaluations, the last of which gave `score`, and not over anyway."""
        self.trial.report(score, evaluation)
        return evaluation < self.last and bool(self.trial.should_prune())


def check_installed() -> None:
    """Says whether there can be a search, before any work is done for it.

    Raises:
        RequestError: if Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise RequestError(f"tune needs Optuna: pip install 'linnaeus[tune]' ({error})") from None


class Search:
    """All trials of a search, in a journal of JSON lines that belongs to this process alone."""

    def __init__(self, journal: Path, space: Space, *, seed: int, evaluations: int) -> None:
        """Begins, or goes on with what the journal has. A trial that was running when it was written is tried again.

        Args:
            evaluations: of each trial that comes to its end.
        """
        import optuna
        import optuna.importance  # takes seconds, which are not there after the last trial
        from optuna.storages.journal import JournalFileBackend
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _mend(journal)
        self._space, self._seed, self._evaluations = space, seed, evaluations
        self._study: Any = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
            pruner=optuna.pruners.MedianPruner(MATURE, round(PATIENCE * evaluations)),
            study_name=_STUDY,
            direction="maximize",
            load_if_exists=True,
        )
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)
            self._study.enqueue_trial(trial.params)

    def trials(self) -> list[Tried]:
        """Those that are over, in their order."""
        from optuna.trial import TrialState

        over = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [_read(number, trial) for number, trial in enumerate(over)]

    def ask(self, number: int) -> Asked:
        """What to try as trial `number`. The first, that with the defaults, is not asked for and comes before."""
        import optuna

        seed = derive(self._seed, "tune", number) % 2**32
        self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM, seed=seed)
        trial = self._study.ask(_distributions(self._space))
        values = {path: _rounded(self._space, path, value) for path, value in trial.params.items()}
        return Asked(values, self._evaluations, trial)

    def tell(self, asked: Asked, tried: Tried) -> None:
        """Writes down what came of a trial."""
        from optuna.trial import TrialState

        for name, value in _about(tried).items():
            asked.trial.set_user_attr(name, value)
        if tried.ended:
            self._study.tell(asked.trial, state=TrialState.PRUNED)
        else:
            self._study.tell(asked.trial, tried.score)

    def begin_with(self, tried: Tried, values: Mapping[str, Value]) -> None:
        """Writes down the trial with the defaults, which are `values` where they lie in the space."""
        from optuna.trial import TrialState, create_trial

        distributions = _distributions(self._space)
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=tried.score,
            params=dict(values),
            distributions={path: distributions[path] for path in values},
            intermediate_values=dict(enumerate(tried.curve, start=1)),
            user_attrs=_about(tried),
        )
        self._study.add_trial(trial)

    def importances(self) -> dict[str, float]:
        """Setting -> its share in what tells good trials from others, the largest first; {} where nothing can be said.

        PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), of the trials that came to their end.
        """
        import optuna

        scores = [tried.score for tried in self.trials() if not tried.ended]
        if len(scores) < MATURE or len(set(scores)) == 1:
            return {}
        found = optuna.importance.get_param_importances(self._study, params=list(self._space))
        return {str(path): float(share) for path, share in found.items()}


def _mend(journal: Path) -> None:
    """Takes away what a kill left: a last line that is torn, and the lock of a process that is no more."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for path, setting in space.items():
        if not isinstance(setting, Range):
            found[path] = CategoricalDistribution(setting)
        elif setting.is_whole:
            found[path] = IntDistribution(int(setting.low), int(setting.high), log=setting.log)
        else:
            found[path] = FloatDistribution(setting.low, setting.high, log=setting.log)
    return found


def _rounded(space: Space, path: str, value: Value) -> Value:
    setting = space[path]
    return setting.round(value) if isinstance(setting, Range) and not isinstance(value, str) else value


def _about(tried: Tried) -> dict[str, Any]:
    return {name: value for name, value in vars(tried).items() if name not in ("number", "curve")}


def _read(number: int, trial: Any) -> Tried:
    curve = tuple(score for _, score in sorted(trial.intermediate_values.items()))
    return Tried(number=number, curve=curve, **trial.user_attrs)
