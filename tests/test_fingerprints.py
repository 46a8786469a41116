"""Fingerprints number texts as a dictionary would, in whatever batches they come."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines import fingerprints
from pipelines.fingerprints import NOWHERE, Fingerprints

TEXTS = st.lists(st.lists(st.text("ab\udc80", max_size=4), max_size=30), max_size=12)


@given(batches=TEXTS, asked=st.lists(st.text("ab", max_size=5), max_size=30))
def test_texts_are_numbered_in_the_order_in_which_they_first_come(batches: list[list[str]], asked: list[str]):
    known: dict[str, int] = {}
    prints = Fingerprints()
    for batch in batches:
        is_new = []
        for text in batch:
            is_new.append(text not in known)
            known.setdefault(text, len(known))
        numbers, found_new = prints.add(batch)
        assert numbers.tolist() == [known[text] for text in batch]
        assert found_new.tolist() == is_new
    assert len(prints) == len(known)
    assert prints.find(asked).tolist() == [known.get(text, NOWHERE) for text in asked]


def test_digests_that_share_their_first_half_are_told_apart(monkeypatch):
    monkeypatch.setattr(fingerprints.xxhash, "xxh3_128_digest", lambda text: b"the same" + text[:8].rjust(8))
    prints = Fingerprints()
    numbers, is_new = prints.add(["a", "b", "a", "c"])
    assert numbers.tolist() == [0, 1, 0, 2] and is_new.tolist() == [True, True, False, True]
    assert prints.add(["d", "c", "a"])[0].tolist() == [3, 2, 0]
    assert prints.find(["d", "b", "e"]).tolist() == [3, 1, NOWHERE]
