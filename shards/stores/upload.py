"""Small files for a folder or a store alike: written here, and seen there when they are whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from shards.stores.remote import Store, url_of


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """A folder to write to: `folder` itself, or one whose files are uploaded, sorted by name, when the block has ended.

    Raises UsageProblem for a store that can only be read, EnvironmentProblem for one that refuses.
    """
    url = url_of(folder)
    if url is None:
        yield folder
        return
    store = Store(url).writable()
    with TemporaryDirectory(prefix="sonograph-") as name:
        here = Path(name)
        yield here
        for path in sorted(path for path in here.rglob("*") if path.is_file()):
            store.upload(path, path.relative_to(here).as_posix())
