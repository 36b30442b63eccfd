"""Carbon intensity of a country's electricity, from codecarbon's packaged table.

Nothing else of codecarbon is used, and it is not imported: energy is measured here.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TypedDict

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.records.types import GridCarbon, PerformanceMetrics

TABLE = "codecarbon/data/private_infra/global_energy_mix.json"


class GridFactor(TypedDict):
    """Carbon intensity of a grid, and where the figure is from."""

    g_co2e_per_kwh: float
    source: str


def grid_factor(country: str) -> GridFactor:
    """Yearly mean of a country's grid.

    Args:
        country: ISO 3166 code of three letters, such as ``DEU``.

    Returns:
        ``g_co2e_per_kwh`` and ``source``, with the package's version and the year of the figure.

    Raises:
        UserError: when codecarbon is not installed, or does not know the country.
    """
    try:
        package = metadata.distribution("codecarbon")
    except metadata.PackageNotFoundError:
        raise UserError(
            "grid factors need codecarbon's table",
            fix="pip install codecarbon, or leave `country` out of the hardware's entry",
        ) from None
    table = read_json(Path(str(package.locate_file(TABLE))))
    if country not in table:
        raise UserError(
            "no grid factor for this country",
            field="country",
            value=country,
            fix="write an ISO 3166 code of three letters, such as DEU, or leave it out",
        )
    entry = table[country]
    return {
        "g_co2e_per_kwh": entry["carbon_intensity"],
        "source": f"codecarbon {package.version}: {entry['country_name']}, {entry['year']}",
    }


def emissions(grid: GridCarbon, metrics: PerformanceMetrics) -> GridCarbon:
    """A grid's factor, with ``co2e_ug_per_token`` where a record's energy is known.

    Args:
        grid: The country with what `grid_factor` gave.
        metrics: The record's.
    """
    energy_mwh = metrics["energy_mwh_per_token"]["value"]
    if energy_mwh is None:
        return grid.copy()
    # mWh × g/kWh are µg.
    return {**grid, "co2e_ug_per_token": energy_mwh * grid["g_co2e_per_kwh"]}
