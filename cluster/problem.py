"""The errors of this package that are meant for people."""


class ClusterProblem(Exception):
    """Cause, consequence and remedy. `exit_code`: 1 failed, 2 usage, 4 environment, 130 detached, 143 stopped."""

    def __init__(self, message: str, exit_code: int = 4) -> None:
        super().__init__(message)
        self.exit_code = exit_code
