"""The main job on rendered music: render notes, build shards, show them, train an encoder, probe it against controls.

    sonograph demo

Five commands in a row, each of which can be repeated alone; what is finished is not done again. About six minutes on
two cores the first time, seconds the second. Real notes in NSynth's layout join the rendered ones when they lie in
../shared/data/nsynth.
"""

from dataclasses import dataclass
from pathlib import Path

from claims.commands import Step, run

CORPUS, DATASET = Path("data/nsynth-rendered"), Path("datasets/nsynth-rendered")
PAGE = DATASET / "page.html"
REAL_NOTES = Path("../shared/data/nsynth")


@dataclass(frozen=True)
class Demo:
    notes: int = 5000
    """notes to render, in all splits together"""
    size: str = "laptop"
    """size of the model: laptop or debug"""
    workers: int = 2
    """workers of the training"""


COMMAND = Demo


def main(command: Demo) -> dict[str, object]:
    real = ["--real", str(REAL_NOTES)] if REAL_NOTES.is_dir() else []
    rendered = run("render", "nsynth", "--out", CORPUS, "--notes", command.notes, "--seed", 0, *real)
    built = run("build", "nsynth", "--root", CORPUS, "--out", DATASET, "--features", "mel", "audio")
    shown = run("inspect", DATASET, "--html", PAGE)
    options = ("--size", command.size, "--data.dataset", DATASET, "--model.log1p", "true", "--workers", command.workers)
    trained = run("train", "myna:base", *options)
    encoder = trained.place
    labels = ("--labels", "pitch", "instrument_family", "--cluster", "instrument")
    controls = ("--against", f"random:{encoder}", "column:mel")
    probed = run("evaluate", encoder, "probe", "--data", DATASET, *labels, *controls)
    print(probed.shown)
    print(report([rendered, built, shown, trained, probed], encoder))
    return {"output": encoder, "metrics": probed.result["metrics"]}


def report(steps: list[Step], encoder: str) -> str:
    """What happened, where it lies, and what to do next."""
    rows = [f"  {step.words[0]:<10}{step.seconds:6.0f} s   {step.place}" for step in steps]
    minutes = sum(step.seconds for step in steps) / 60
    return "\n".join(
        [
            "",
            f"Rendered notes to a probed encoder, {minutes:.1f} minutes (what was finished before is not done again):",
            *rows,
            "",
            "Next:",
            "  sonograph ui                                 the run in MLflow: curves, figures, the registered model",
            f"  xdg-open {PAGE}    the dataset: examples to hear, labels, contracts",
            f"  sonograph add-feature {DATASET} codec:logpower   one more column",
            "  sonograph train myna:base --help             every setting of the training",
            "  make cluster-up && sonograph submit -- train myna:base --size laptop --data.dataset " + str(DATASET),
            "  RAY_AUTH_MODE=token ray job submit --working-dir . -- sonograph train myna:base --size debug …",
        ]
    )


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("demo")
