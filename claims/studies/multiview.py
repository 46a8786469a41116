"""The multi-view autoencoder's claims (arXiv 2507.22995, section 4 and table 1), on features that run offline."""

from claims.margins import GridStudy
from claims.study import Question

_TASKS = ("pitch", "instrument_family")
_RENDERED = (
    "Everything here is rendered notes: one SoundFont played them, and instruments of the test split are in no other. "
    "It tells whether the code does what the paper describes, and in which direction; it says nothing about the "
    "paper's own numbers, which are of NSynth and of AudioMAE's latents."
)


def study(size: str = "paper") -> GridStudy:
    """What is run at a size: NSynth and AudioMAE's latents at paper size, rendered notes and their log mels else."""
    return {"paper": _paper, "laptop": _laptop, "debug": _debug}[size]()


def _paper() -> GridStudy:
    """As published; the corpus must lie in data/nsynth, AudioMAE's weights in weights/audiomae."""
    data = "datasets/nsynth-audiomae"
    build = ("build", "nsynth", "--root", "data/nsynth", "--out", data)
    return _study("paper", [(*build, "--features", "mel", "audiomae@weights/audiomae")], data, "audiomae", "")


def _laptop() -> GridStudy:
    """12,000 rendered notes, of which each training sees 2,000."""
    return _rendered("laptop", notes=12_000)


def _debug() -> GridStudy:
    """The same commands with tiny networks; as many notes as it takes for ten test clips of a pitch."""
    return _rendered("debug", notes=6_000)


def _rendered(size: str, *, notes: int) -> GridStudy:
    root, data, column = f"data/multiview-{size}", f"datasets/multiview-{size}", "logmel_stats"
    render = ("render", "nsynth", "--out", root, "--notes", str(notes))
    build = ("build", "nsynth", "--root", root, "--out", data, "--features", "mel", column)
    study = _study(size, [render, build], data, column, _RENDERED)
    return study if size == "laptop" else study.only(("paper", "baselines"))  # tiny networks see all there is


def _study(size: str, preparations: list[tuple[str, ...]], data: str, column: str, caveat: str) -> GridStudy:
    return GridStudy(
        system="multiview",
        size=size,
        preparations=tuple(preparations),
        sweeps=dict.fromkeys(("paper", "baselines", "training_sizes"), ("--data.dataset", data)),
        questions=(Question("notes", data, evaluator="margins"),),
        controls=(f"column:{column}", f"pca:{column}"),
        caveat=caveat,
        tasks=_TASKS,
        column=f"column:{column}",
        recipe="infonce-both-0.4",
    )
