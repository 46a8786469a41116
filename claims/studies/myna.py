"""Myna's claims (its tables 1 and 2, figure 4): patch shape, objective, masking ratio, batch size, views."""

from claims.comparisons import Claim, Comparisons
from claims.study import Question

_MUSIC, _NOTES, _PRETRAINING = "datasets/claims/music", "datasets/claims/notes", "datasets/claims/pretraining"
_RENDERED = (
    "Everything here is rendered music: rules composed it and one SoundFont played it. It tells whether the code does "
    "what the paper describes, and in which direction; it says nothing about the paper's own numbers, which are of "
    "AudioSet and of published test sets."
)
_SWEEPS = ("variants", "masking_ratio", "batch_size", "views")
_AXES = {"masking_ratio": "masking ratio", "batch_size": "batch size (examples)"}


def study(size: str = "paper") -> Comparisons:
    """What is run at a size: published corpora at paper size, rendered ones else."""
    return {"paper": _paper, "laptop": _laptop, "debug": _debug}[size]()


def _paper() -> Comparisons:
    """As published: AudioSet's music, probed on GTZAN and GiantSteps; corpora must lie in data/."""
    corpora = ("audioset", "gtzan", "giantsteps")
    return Comparisons(
        system="myna",
        size="paper",
        preparations=tuple(_build(name, f"data/{name}", f"datasets/{name}") for name in corpora),
        sweeps=dict.fromkeys(_SWEEPS, ("--data.dataset", "datasets/audioset")),
        questions=(
            Question("giantsteps", "datasets/giantsteps", ("key",), "source_path"),
            Question("gtzan", "datasets/gtzan", ("genre",), "source_path"),
        ),
        claims=_claims(key="giantsteps/key", other="gtzan/genre", batches=("4096", "256")),
        axes=_AXES,
    )


def _laptop() -> Comparisons:
    """Ten hours of rendered AudioSet and 5,000 notes to train on; some five hours of labelled tracks to ask about.

    Three seeds of each variant and one of each other member; changed sound costs ten times a masked step, so ways to
    make views get fewer steps.
    """
    dataset = ("--data.dataset", _PRETRAINING)
    return Comparisons(
        system="myna",
        size="laptop",
        preparations=(
            ("render", "audioset", "--out", "data/audioset-rendered", "--hours", "10"),
            ("render", "nsynth", "--out", "data/nsynth-rendered", "--notes", "5000"),
            ("render", "folder", "--out", "data/music-rendered", "--tracks", "480"),
            _build("audioset", "data/audioset-rendered", "datasets/claims/audioset"),
            _build("nsynth", "data/nsynth-rendered", _NOTES),
            ("merge", "datasets/claims/audioset", _NOTES, "--out", _PRETRAINING),
            (
                *_build("folder", "data/music-rendered", _MUSIC),
                *("--span-seconds", "10", "--hop-seconds", "10", "--labels", "data/music-rendered/labels.csv"),
                *("--valid-share", "0.2", "--test-share", "0.3"),
            ),
        ),
        sweeps={
            "variants": (*dataset, "--epochs", "20"),
            "masking_ratio": (*dataset, "--epochs", "20", "--seeds", "1"),
            "batch_size": (*dataset, "--epochs", "20", "--seeds", "1"),
            "views": (*dataset, "--epochs", "6", "--seeds", "1"),
        },
        questions=(
            Question("music", _MUSIC, ("key", "style", "tempo"), "source_path"),
            Question("notes", _NOTES, ("pitch", "instrument_family"), "instrument"),
        ),
        claims=_claims(key="music/key", other="music/style", batches=("512", "64")),
        caveat=_RENDERED,
        axes=_AXES,
    )


def _debug() -> Comparisons:
    """The same commands on a few hundred notes, with encoders of two tiny blocks: it shows that they run."""
    root = "data/claims-debug"
    return Comparisons(
        system="myna",
        size="debug",
        preparations=(
            ("render", "nsynth", "--out", root, "--notes", "300"),
            _build("nsynth", root, "datasets/claims-debug"),
        ),
        sweeps={"variants": ("--data.dataset", "datasets/claims-debug")},
        questions=(Question("notes", "datasets/claims-debug", ("pitch", "instrument_family"), "instrument"),),
        claims=_claims(key="notes/pitch", other="notes/instrument_family", batches=("16", "8")),
        caveat=f"{_RENDERED} At this size nothing is learned, and the claims are asked of notes, which have no key.",
        axes=_AXES,
    )


def _build(corpus: str, root: str, out: str) -> tuple[str, ...]:
    return ("build", corpus, "--root", root, "--out", out, "--features", "mel", "mel:vit1d", "waveform")


def _claims(*, key: str, other: str, batches: tuple[str, str]) -> tuple[Claim, ...]:
    largest, smallest = batches
    return (
        Claim("vertical patches are better on key", "variants", key, "vertical", ("base",), published="68.6, 63.5"),
        Claim(
            "the hybrid is at least as good as both on key",
            *("variants", key, "hybrid", ("base", "vertical")),
            margin=0.02,
            published="68.0; 63.5, 68.6",
        ),
        Claim(
            "the hybrid is at least as good as both beside key",
            *("variants", other, "hybrid", ("base", "vertical")),
            margin=0.02,
            published="77.9; 78.3, 75.9 (genre)",
        ),
        Claim("contrastive is above MAE on key", "variants", key, "base", ("mae",), published="63.5, 53.6"),
        Claim(
            "hiding 90 % is the best ratio, on key",
            *("masking_ratio", key, "0.9", ("0.5", "0.75", "0.95")),
            published="63.5; 58.3, 61.2, 62.8 (figure 4)",
        ),
        Claim("a larger batch is better", "batch_size", key, largest, (smallest,), published="63.5, 60.4"),
        Claim(
            "masking is at least as good as the augmentation chain on key",
            *("views", key, "masking", ("augment",)),
            margin=0.02,
        ),
    )
