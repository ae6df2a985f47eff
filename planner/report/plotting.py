"""The report's colours for matplotlib (imported on use), so that a strategy looks the same in a notebook."""

from __future__ import annotations

from typing import Any

from planner.report.palette import STYLES, style_key

__all__ = ["cost_axis", "look", "percent_axis", "use_style"]


def use_style() -> None:
    """Set matplotlib's defaults: plain axes, no frame, sizes that can be read at the width of a page."""
    from matplotlib import rcParams

    rcParams.update(
        {
            "figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True, "figure.facecolor": "white",
            "font.size": 10, "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
            "grid.color": "#e2e4e1", "axes.edgecolor": "#59626f", "axes.labelcolor": "#59626f",
            "xtick.color": "#59626f", "ytick.color": "#59626f", "legend.frameon": False, "lines.linewidth": 2,
            "lines.markersize": 5, "svg.hashsalt": "compute-planner",
        }
    )  # fmt: skip


def look(strategy: str) -> dict[str, Any]:
    """Colour and dashes of a strategy or method, for `axes.plot(x, y, **look("majority"))`."""
    style = STYLES[style_key(strategy)]
    dash = tuple(float(part) for part in style.dash.split())
    return {"color": style.light, "linestyle": (0, dash) if dash else "-"}


def percent_axis(axes: Any) -> None:
    """Show an axis of shares in percent; call it when everything is drawn, on all panels that share the axis."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g}%"))
    low, high = axes.get_ylim()
    if low < 1 < high:
        axes.set_ylim(low, min(high, 1.005))


def cost_axis(axes: Any, unit: str = "FLOPs") -> None:
    """Show a logarithmic axis of costs as 50M, 200M, 1G."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    from planner.report.numbers import short_cost

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1.0, 2.0, 5.0) if high / low < 60 else (1.0, 3.0) if high / low < 600 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_cost(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"mean {unit} for one prompt")
