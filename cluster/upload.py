"""What a job takes along: the code of one folder, without data, results or secrets, as one reproducible zip."""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pathspec import GitIgnoreSpec

from cluster.problem import ClusterProblem

MAX_UPLOAD_BYTES = 64 * 2**20  # the code is under 1 MiB: more is data that slipped in; Ray itself stops at 512 MiB
IGNORE_FILES = (".gitignore", ".rayignore")
ALWAYS_IGNORED = ("/.git/", "__pycache__/")
SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.keystore", "id_rsa*", "id_ed25519*", "id_ecdsa*"),
    *("auth_token", "token", "token.txt", "*.token", ".netrc", ".pypirc", ".pgpass", "credentials", "credentials.json"),
    *("kubeconfig", "*.kubeconfig", ".git-credentials", ".htpasswd", "secrets.*", ".dockercfg"),
)
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same zip, so a repeated job uploads nothing


@dataclass(frozen=True)
class Upload:
    """The files of `folder` that a job takes along: sorted relative POSIX paths with their bytes, and a zip of them."""

    folder: Path
    file_bytes: dict[str, int]
    archive: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the zip: the same for the same names, contents and modes, whatever the files' times and owners."""
        return hashlib.sha256(self.archive).hexdigest()

    def summary(self) -> str:
        """One line for people."""
        return f"{len(self.file_bytes)} files of code, {mebibytes(sum(self.file_bytes.values()))}"


def upload_of(folder: Path) -> Upload:
    """The files under `folder` that neither .gitignore nor .rayignore excludes; links are left out.

    Raises ClusterProblem when a secret or more than MAX_UPLOAD_BYTES would travel.
    """
    names = sorted(_kept(folder, _ignored(folder)))
    _refuse_secrets(folder, names)
    file_bytes = {name: (folder / name).stat().st_size for name in names}
    _refuse_bulk(folder, file_bytes)
    return Upload(folder, file_bytes, _zip(folder, names))


def _zip(folder: Path, names: list[str]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            member = zipfile.ZipInfo(name, date_time=ZIP_EPOCH)
            member.external_attr = ((folder / name).stat().st_mode & 0o777) << 16
            archive.writestr(member, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return whole.getvalue()


def _ignored(folder: Path) -> GitIgnoreSpec:
    lines = list(ALWAYS_IGNORED)
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            lines += (folder / name).read_text().splitlines()
    return GitIgnoreSpec.from_lines(lines)


def _kept(folder: Path, ignored: GitIgnoreSpec) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        here = Path(where).relative_to(folder)
        folders[:] = [name for name in folders if not ignored.match_file(f"{(here / name).as_posix()}/")]
        for name in files:
            path = (here / name).as_posix()
            if not ignored.match_file(path) and not (folder / path).is_symlink():
                yield path


def _refuse_secrets(folder: Path, names: list[str]) -> None:
    secrets = [name for name in names if any(fnmatch(Path(name).name.lower(), pattern) for pattern in SECRETS)]
    if secrets:
        raise ClusterProblem(
            f"{', '.join(secrets[:5])} in {folder} looks like a secret, and every reader of the cluster's storage "
            "would see it, so nothing was uploaded. Move it out of this folder or add it to .rayignore.",
            exit_code=2,
        )


def _refuse_bulk(folder: Path, file_bytes: dict[str, int]) -> None:
    if sum(file_bytes.values()) <= MAX_UPLOAD_BYTES:
        return
    largest = sorted(file_bytes, key=lambda name: -file_bytes[name])[:3]
    listed = ", ".join(f"{name} ({mebibytes(file_bytes[name])})" for name in largest)
    raise ClusterProblem(
        f"The job would take along {mebibytes(sum(file_bytes.values()))} from {folder}, more than the "
        f"{mebibytes(MAX_UPLOAD_BYTES)} that code may have, so nothing was uploaded. The largest: {listed}. "
        "Add what is data to .rayignore.",
        exit_code=2,
    )


def mebibytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**20:.1f} MiB"
