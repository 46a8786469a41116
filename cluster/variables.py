"""Which variables of a shell a job gets: where its stores are, and no secret that was not named."""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from cluster.problem import ClusterProblem

STOP_SECONDS = 60  # between SIGTERM and SIGKILL of a stopped job: time for a checkpoint; Ray's default is 3 s
PASSED_ON = (  # none is a secret: addresses, names, and paths of files that hold one
    *("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION"),
    *("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED"),
    *("FSSPEC_S3_ANON", "FSSPEC_S3_ENDPOINT_URL", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"),
    *("SONOGRAPH_CACHE", "SONOGRAPH_CACHE_GIB"),
)
_S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_OPENERS = {  # variables by any of which a job can open the stores of a scheme
    "s3": ("AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE", "FSSPEC_S3_ANON", "FSSPEC_S3_KEY", *_S3_KEYS),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
}


def job_environment(home: str, environment: Mapping[str, str], *, named: Sequence[str] = ()) -> dict[str, str]:
    """The variables of a job that works in `home`: those that are no secret, and those `named`; never Ray's token.

    Raises ClusterProblem for a password in an address, and for a name that is not set or not the user's to set.
    """
    own = {
        "RAY_AUTH_MODE": environment.get("RAY_AUTH_MODE", "token"),
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        "SONOGRAPH_HOME": home,
    }
    for name in named:
        _require_sendable(name, own, environment)
    passed_on = {name: environment[name] for name in PASSED_ON if environment.get(name)}
    for name, value in passed_on.items():
        _refuse_password(name, value)
    return {**passed_on, **{name: environment[name] for name in named}, **own}


def without_credentials(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """What to say of a command that names a store which nothing in a job's environment opens; empty where all is well.

    The cluster's machines may still have what opens it: nobody here knows.
    """
    for place in _places(words):
        openers = _OPENERS.get(place.partition(":")[0], ())
        if openers and not any(environment.get(name) for name in openers):
            keys = f", or send your key, which every reader of the cluster's pages can see: --env {' '.join(_S3_KEYS)}"
            return (
                f"{place}: no credential goes with this job, so it is refused there unless the cluster's machines have "
                f"their own: a role, a file in their home, variables of the head. If not, name a file that they see "
                f"({openers[0]}){keys if place.startswith('s3:') else ''}."
            )
    return ""


def _places(words: Sequence[str]) -> Iterator[str]:
    """The URLs on a command line, those behind an `=` too."""
    for word in words:
        value = word.partition("=")[2] if word.startswith("--") and "=" in word else word
        if "://" in value:
            yield value


def _require_sendable(name: str, own: Mapping[str, str], environment: Mapping[str, str]) -> None:
    if name in own or name.startswith("RAY_"):
        raise ClusterProblem(
            f"--env {name}: a job has that from the cluster, so nothing was submitted. Leave it out.", exit_code=2
        )
    if not environment.get(name):
        raise ClusterProblem(
            f"--env {name.partition('=')[0]}: there is no such variable here, and the job would lack it, so nothing "
            "was submitted. Set it in this shell and give its name alone: others see what stands on a command line.",
            exit_code=2,
        )


def _refuse_password(name: str, value: str) -> None:
    if not urlsplit(value).password:
        return
    remedy = "Take it out, and give the store's credentials to the cluster's machines."
    if name == "MLFLOW_TRACKING_URI":
        remedy = "Take it out, and set MLFLOW_TRACKING_USERNAME and _PASSWORD where the cluster is started."
    raise ClusterProblem(
        f"{name} holds a password, which the cluster's pages would show to every reader, so nothing was submitted. "
        f"{remedy}",
        exit_code=2,
    )
