"""Plans partition the listing, whatever happens later."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan import shard_tasks, spans
from pipelines.recording import Recording

_CONTRACTS = {"mel": {"fingerprint": "a"}}


def recordings(count: int) -> list[Recording]:
    return [Recording(f"note-{number}", f"{number}.wav", "train", {"pitch": number}, 4.0) for number in range(count)]


@given(count=st.integers(0, 200), shard_examples=st.integers(1, 64))
def test_tasks_partition_the_spans_in_order(count: int, shard_examples: int):
    tasks = list(shard_tasks(spans(recordings(count)), shard_examples=shard_examples, contracts=_CONTRACTS))
    assert [span.index for task in tasks for span in task.spans] == list(range(count))
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert all(len(task.spans) == shard_examples for task in tasks[:-1])


@given(broken=st.integers(0, 9))
def test_a_recording_with_a_problem_keeps_its_index_and_moves_no_other(broken: int):
    listing = recordings(10)
    listing[broken] = Recording("x", "x.wav", "train", {}, 4.0, problem="no pitch")
    assert [span.index for span in spans(listing)] == list(range(10))


def test_a_tasks_digest_changes_with_its_spans_and_contracts_and_with_nothing_else():
    def digests(listing: list[Recording], contracts: dict) -> list[str]:
        return [task.digest for task in shard_tasks(spans(listing), shard_examples=5, contracts=contracts)]

    before = digests(recordings(10), _CONTRACTS)
    assert digests(recordings(10), _CONTRACTS) == before
    assert digests(recordings(10), {"mel": {"fingerprint": "b"}})[0] != before[0]
    changed = [*recordings(9), Recording("note-9", "9.wav", "train", {"pitch": 99}, 4.0)]
    assert digests(changed, _CONTRACTS)[0] == before[0] and digests(changed, _CONTRACTS)[1] != before[1]
