"""The figure of what a training sees: the views of a few examples, side by side."""

from matplotlib.figure import Figure

from shards.example import Batch

_EXAMPLES = 4
_DYNAMIC_RANGE_DB = 80.0


def views_figure(batch: Batch) -> Figure:
    """One row an example, one column a view; mel power in dB below the loudest cell of the row."""
    rows, columns = min(_EXAMPLES, len(batch.index)), len(batch.views)
    figure = Figure(figsize=(3.4 * columns + 1, 1.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for row in range(rows):
        loudest = max(float(view[row].max()) for view in batch.views) or 1.0
        for column, view in enumerate(batch.views):
            level_db = 10 * (view[row].clamp_min(1e-12) / loudest).log10()
            image = axes[row, column].imshow(
                level_db.numpy(), origin="lower", aspect="auto", vmin=-_DYNAMIC_RANGE_DB, vmax=0.0, cmap="magma"
            )
        axes[row, 0].set_ylabel(f"example {int(batch.index[row])}\nmel band", fontsize=8)
    for column in range(columns):
        axes[0, column].set_title(f"view {column + 1}", fontsize=9)
        axes[-1, column].set_xlabel("frame", fontsize=8)
    figure.colorbar(image, ax=axes, label="dB", shrink=0.8)
    return figure
