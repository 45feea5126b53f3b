"""The one error for input that a person typed or supplied and that cannot be used."""

from collections.abc import Sequence


class InputError(ValueError):
    """Input that cannot be used: says what was given, what is accepted and what to do.

    Commands print its problems and leave with exit code 2. It is raised before a model is loaded
    or a result is written.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
