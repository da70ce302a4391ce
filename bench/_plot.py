"""Curves as SVG files in docs/plots."""

from __future__ import annotations

from pathlib import Path

from ._measure import Plot

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "plots"


def draw(plot: Plot, curves: dict[str, list[tuple[float, float]]]) -> Path:
    """Write docs/plots/NAME.svg; the same curves give the same file."""
    import matplotlib  # only bench-long needs it: `pip install gendurable_py[bench]`

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = plot.name
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1.5)
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y, ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}" if max(y for c in curves.values() for _, y in c) >= 10 else "{x:,.1f}")
    axes.grid(alpha=0.3)
    axes.legend()
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{plot.name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return path
