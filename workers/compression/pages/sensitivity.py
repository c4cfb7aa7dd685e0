"""What an analysis found, as a plot."""

from matplotlib.figure import Figure

from app.domain.sensitivity import GroupSensitivity, SensitivityTable
from workers.compression.pages.plots import any_script, finite, name_rows
from workers.compression.pages.svg import COMPRESSED, Plot, plot
from workers.compression.pages.words import share, shorten

MOST_GROUPS = 40


def draw_sensitivity(table: SensitivityTable) -> Plot | None:
    """Draw the drop of each measured group at the largest amount that all of them were measured at."""
    measured = [group for group in table.groups if group.measurements]
    shared = (
        set.intersection(*({row.amount for row in group.measurements} for group in measured)) if measured else set()
    )
    if not shared:
        return None
    amount = max(shared)
    ranked = sorted(measured, key=lambda group: (-_drop(group, amount), group.group))
    shown = ranked[:MOST_GROUPS]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.barh(range(len(shown)), [finite(_drop(group, amount)) for group in shown], 0.7, color=COMPRESSED)
        name_rows(axes, [shorten(group.layers[0], 28) for group in shown])
        axes.set_xlabel(f"drop of {table.metric}")

    worst = ranked[0]
    label = (
        f"Sensitivity: without {share(amount)} of itself, {shorten(worst.layers[0], 60)} costs most,"
        f" {_drop(worst, amount):.4f} of {table.metric}."
    )
    caption = (
        f"What {table.metric} loses on {table.rows} {table.split} rows with {share(amount)} of one group gone,"
        " named by its first layer."
    )
    with any_script():
        return plot("sensitivity", 0.7 + 0.19 * max(len(shown), 2), paint, label=label, caption=caption)


def _drop(group: GroupSensitivity, amount: float) -> float:
    return next(row.drop for row in group.measurements if row.amount == amount)
