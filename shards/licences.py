"""On what terms the recordings of published corpora may be used: what a dataset made of them says of itself.

A dataset of features or latents is derived from the recordings, so that their terms are its terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """`licence` is a sentence, `url` its full text, `identifier` the word that dataset hubs use."""

    licence: str
    identifier: str = "other"
    url: str = ""
    creators: tuple[str, ...] = ()
    cite: str = ""
    home: str = ""


UNKNOWN = Terms(
    "not known to sonograph: the rights in the recordings are their owners'. Ask them before passing the dataset on",
    "unknown",
)
RENDERED = Terms(
    "composed by rules and played with the sound font FluidR3_GM (Frank Wen, MIT licence); no recording of "
    "anybody is in it",
    "mit",
    "https://spdx.org/licenses/MIT.html",
    ("sonograph render",),
)
_PUBLISHED = {
    "audioset": Terms(
        "segment lists CC BY 4.0, ontology CC BY-SA 4.0 (Google); the recordings are videos whose rights are their "
        "uploaders'",
        creators=("Jort F. Gemmeke and others",),
        cite="Gemmeke et al., Audio Set: An ontology and human-labeled dataset for audio events, ICASSP 2017",
        home="https://research.google.com/audioset/",
    ),
    "emomusic": Terms(
        "recordings of the Free Music Archive, each under a Creative Commons licence of its own",
        creators=("Mohammad Soleymani and others",),
        cite="Soleymani et al., 1000 Songs for Emotional Analysis of Music, CrowdMM 2013",
        home="https://cvml.unige.ch/databases/emoMusic/",
    ),
    "giantsteps": Terms(
        "annotations CC BY-SA 4.0; the recordings are excerpts from an online shop, whose rights are their owners'",
        creators=("Peter Knees and others",),
        cite="Knees et al., Two Data Sets for Tempo Estimation and Key Detection in Electronic Dance Music, ISMIR 2015",
        home="https://github.com/GiantSteps/giantsteps-key-dataset",
    ),
    "gtzan": Terms(
        "none was published; the recordings are commercial ones, whose rights are their owners'",
        creators=("George Tzanetakis", "Perry Cook"),
        cite="Tzanetakis and Cook, Musical Genre Classification of Audio Signals, IEEE TSAP 2002",
    ),
    "magnatagatune": Terms(
        "CC BY-NC-SA 3.0, clips and annotations: not for commercial use",
        "cc-by-nc-sa-3.0",
        "https://creativecommons.org/licenses/by-nc-sa/3.0/",
        ("Edith Law", "Olivier Gillet", "John Buckman"),
        "Law et al., Evaluation of Algorithms Using Games: The Case of Music Tagging, ISMIR 2009",
        "https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
    ),
    "nsynth": Terms(
        "CC BY 4.0 (Google)",
        "cc-by-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        ("Jesse Engel and others",),
        "Engel et al., Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders, ICML 2017",
        "https://magenta.tensorflow.org/datasets/nsynth",
    ),
    "slakh": Terms(
        "CC BY 4.0",
        "cc-by-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        ("Ethan Manilow", "Gordon Wichern", "Prem Seetharaman", "Jonathan Le Roux"),
        "Manilow et al., Cutting Music Source Separation Some Slakh, WASPAA 2019",
        "http://www.slakh.com/",
    ),
}


def terms_of(corpus: str, *, is_rendered: bool, stated: str = "") -> Terms:
    """The terms of a corpus' recordings: what its user states, else what its authors published, else UNKNOWN."""
    parts = [_PUBLISHED.get(part, UNKNOWN) for part in corpus.split("+")]  # how a merged corpus is spelled
    found = RENDERED if is_rendered else parts[0] if len(parts) == 1 else _joined(parts)
    if not stated:
        return found
    url = stated if stated.startswith(("http://", "https://")) else ""
    return Terms(stated, "other", url, found.creators, found.cite, found.home)


def _joined(parts: Sequence[Terms]) -> Terms:
    """Those of a dataset that holds recordings of several corpora: all of them hold."""
    return Terms(
        "; ".join(dict.fromkeys(part.licence for part in parts)),
        creators=tuple(dict.fromkeys(name for part in parts for name in part.creators)),
        cite="; ".join(dict.fromkeys(part.cite for part in parts if part.cite)),
    )
