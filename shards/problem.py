"""What can go wrong in a user's hands; each message says cause, consequence and remedy."""


class UsageProblem(Exception):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 2


class DataProblem(Exception):
    """Files are missing, broken, or not what they claim to be."""

    exit_code = 3


class EnvironmentProblem(Exception):
    """The machine lacks something: a program, a server, a token, space."""

    exit_code = 4


class RunFailed(Exception):
    """The work started in good order and could not be finished."""

    exit_code = 1
