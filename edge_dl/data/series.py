"""From a series to windows: `window` steps of input, `horizon` steps of target, parts cut by time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_dl.data.dataset import ForecastInfo, Split
from edge_dl.data.source import Source
from edge_dl.data.splitting import check_share
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class Series:
    """A multivariate series without gaps.

    Attributes:
        values: (rows, columns) float64, one row a time step, in time order.
        columns: names of the columns.
        first_row: row of `values[0]` in the source (leading rows may have been dropped).
    """

    values: np.ndarray
    columns: tuple[str, ...]
    first_row: int = 0


def cut_windows(
    series: Series,
    config: DataConfig,
    task: Task | None,
    *,
    name: str,
    source: str,
    licence: str = "",
    synthetic: bool = False,
    notes: tuple[str, ...] = (),
) -> Source:
    """Windows of a series, split by time.

    The targets of a part lie in that part's rows only. The inputs of the first windows of validation and test reach
    back into earlier rows: those are known when the forecast is made. Every target column is also an input column, so
    that naive forecasts can be read off the inputs.

    Args:
        series: the data; its columns are the chosen inputs with the targets.
        config: `window`, `horizon` (1 when 0), `stride` (1 when 0), `target`, `season`, `boundaries`, shares, `limit`.
        task: forecast (`forecast`: samples, horizon, targets) or regression (`value`: the next step's targets).

    Raises:
        UsageError: the task has no use for a series, settings do not fit, or there are too few rows.
    """
    if task not in (Task.FORECAST, Task.REGRESSION):
        raise UsageError(
            "A series is data for forecast or regression.",
            received=task.value if task else "no task",
            todo="For one labelled series a row set data.form=rows.",
        )
    if config.window < 1:
        raise UsageError("data.window must say how many time steps the model sees.", received=str(config.window))
    horizon = config.horizon or 1
    if task is Task.REGRESSION and horizon != 1:
        raise UsageError(
            "Regression predicts the next step: data.horizon is 1.",
            received=str(horizon),
            todo="For more steps use a forecast recipe.",
        )
    if config.season > config.window:
        raise UsageError(
            "data.season must fit into data.window: the seasonal baseline is read off the window.",
            received=f"season {config.season}, window {config.window}",
        )
    targets = (config.target,) if config.target else series.columns
    positions = tuple(series.columns.index(target) for target in targets)
    begin_validation, begin_test, end = _boundaries(series, config)
    values = series.values[:end].astype(np.float32)
    starts = {
        "train": np.arange(config.window, begin_validation - horizon + 1, config.stride or 1),
        "validation": np.arange(max(begin_validation, config.window), begin_test - horizon + 1, config.stride or 1),
        "test": np.arange(max(begin_test, config.window), end - horizon + 1, config.stride or 1),
    }
    for part, start in starts.items():
        if len(start) == 0:
            raise UsageError(
                f"The {part} part is too short for a window and its targets.",
                received=f"rows: train {begin_validation}, validation {begin_test - begin_validation}, "
                f"test {end - begin_test}; window {config.window}, horizon {horizon}",
                todo="Give more rows, or a smaller data.window or data.horizon.",
            )
        if config.limit and len(start) > config.limit:
            starts[part] = start[np.linspace(0, len(start) - 1, config.limit).round().astype(int)]
    _check_memory(sum(map(len, starts.values())), config.window * len(series.columns))
    parts = {}
    for part, start in starts.items():
        x = values[start[:, None] + np.arange(-config.window, 0)]
        y = values[start[:, None] + np.arange(horizon)][:, :, list(positions)]
        named = {"forecast": y} if task is Task.FORECAST else {"value": y[:, 0]}
        parts[part] = Split({"sequence": x}, named, (start + series.first_row).astype(np.int64))
    info = _forecast_info(series, targets, positions, begin_validation, horizon, config.season)
    cut = f"Cut by time: validation from row {begin_validation}, test from row {begin_test}, end at row {end}."
    return Source(
        name,
        parts,
        source=source,
        licence=licence,
        synthetic=synthetic,
        forecast=info if task is Task.FORECAST else None,
        notes=(*notes, cut),
    )


def naive_forecast(x: np.ndarray, info: ForecastInfo) -> np.ndarray:
    """The last value, repeated: (samples, horizon, targets) from inputs (samples, steps, columns)."""
    return np.repeat(x[:, -1:, list(info.target_columns)], info.horizon, axis=1)


def seasonal_forecast(x: np.ndarray, info: ForecastInfo) -> np.ndarray:
    """The value one season ago, the last season repeated where the horizon is longer.

    Args:
        x: (samples, steps, columns) inputs, at least a season of steps.
        info: its `season` is above 0.

    Returns:
        (samples, horizon, targets)

    Raises:
        UsageError: there is no season, or it is longer than the inputs.
    """
    if not 0 < info.season <= x.shape[1]:
        raise UsageError(
            "A seasonal forecast needs a season that fits into the window.",
            received=f"season {info.season}, window {x.shape[1]}",
        )
    steps = x.shape[1] - info.season + np.arange(info.horizon) % info.season
    return x[:, steps][:, :, list(info.target_columns)]


def _boundaries(series: Series, config: DataConfig) -> tuple[int, int, int]:
    rows = len(series.values)
    if not config.boundaries:
        check_share(config.test, "data.test")
        check_share(config.validation, "data.validation")
        begin_test = round(rows * (1 - config.test))
        return round(begin_test * (1 - config.validation)), begin_test, rows
    if len(config.boundaries) not in (2, 3):
        raise UsageError(
            "data.boundaries are the rows where validation and test begin, and perhaps where the data ends.",
            received=f"{config.boundaries}",
        )
    shifted = [row - series.first_row for row in config.boundaries]
    begin_validation, begin_test, end = (*shifted, rows)[:3]
    if not 0 < begin_validation < begin_test < end <= rows:
        raise UsageError(
            f"data.boundaries must rise and lie within the {rows} rows.", received=f"{tuple(config.boundaries)}"
        )
    return begin_validation, begin_test, end


def _forecast_info(
    series: Series, targets: tuple[str, ...], positions: tuple[int, ...], rows: int, horizon: int, season: int
) -> ForecastInfo:
    known = series.values[:rows, list(positions)]

    def numbers(array: np.ndarray) -> tuple[float, ...]:
        return tuple(float(value) for value in array)

    seasonal = numbers(np.abs(known[season:] - known[:-season]).mean(axis=0)) if 0 < season < rows else ()
    return ForecastInfo(
        columns=series.columns,
        targets=targets,
        target_columns=positions,
        horizon=horizon,
        season=season,
        mean=numbers(known.mean(axis=0)),
        scale=numbers(known.std(axis=0)),
        naive_error=numbers(np.abs(np.diff(known, axis=0)).mean(axis=0)),
        seasonal_error=seasonal,
    )


def _check_memory(samples: int, numbers: int) -> None:
    size = samples * numbers * 4
    if size > MAX_BYTES:
        raise UsageError(
            f"The windows must fit into {MAX_BYTES >> 30} GiB.",
            received=f"{samples} windows of {numbers} numbers, {size / 2**30:.1f} GiB",
            todo="Set data.stride, data.limit or data.columns.",
        )
