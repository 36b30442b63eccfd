"""Carbon intensity of a country's electricity, from codecarbon's packaged table.

Nothing else of codecarbon is used, and it is not imported: energy is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json

TABLE = "codecarbon/data/private_infra/global_energy_mix.json"


def grid_factor(country: str) -> dict[str, Any]:
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
    found = table[country]
    return {
        "g_co2e_per_kwh": found["carbon_intensity"],
        "source": f"codecarbon {package.version}: {found['country_name']}, {found['year']}",
    }


def emissions(grid: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A grid's factor, with ``co2e_ug_per_token`` where a record's energy is known.

    Args:
        grid: What `grid_factor` gave, and the country.
        metrics: The record's.
    """
    energy_mwh = metrics["energy_mwh_per_token"]["value"]
    if energy_mwh is None:
        return dict(grid)
    # mWh × g/kWh are µg.
    return {**grid, "co2e_ug_per_token": energy_mwh * grid["g_co2e_per_kwh"]}
