"""Why a run stopped, each with its exit code."""

import signal


class TrainingFault(RuntimeError):
    """Training met a state it must not go on from (NaN, explosion, broken invariant); exit code 1."""


class NoMemory(TrainingFault):
    """Memory does not hold one row: no state of training, and other seeds would meet it too; exit code 1."""


class GateStopped(RuntimeError):
    """A quality gate failed under `gates: stop`; exit code 3."""


class Interrupted(RuntimeError):
    """A signal asked the run to stop, and what was done is saved; exit code 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command continues")

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number."""
        return 128 + self.signum
