"""Five hundred designs of a water network, on every core of one machine.

Each design is a run of EPANET on its example network 3 (two sources, two pumps, three tanks, 59 places where
people draw water) over three days of demand. Four things vary: how much water people want, how rough the pipes
are, how fast the pumps turn, and how full the tanks are at the start. The table says what comes of it.

    python water_network.py --designs 500 --output .
"""

import argparse
import logging
import re
from pathlib import Path

import pandas as pd
import wntr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from scipy.stats import qmc

from scythe import (
    BaseExperiment,
    ExperimentInputSpec,
    ExperimentOutputSpec,
    ExperimentRegistry,
    FileReference,
)

HOURS = 72
"""Simulated time [h]: a tank that no longer refills overnight shows on the second and third day."""

SERVICE_PRESSURE_M = 14.06
"""Pressure at which a customer gets all the water they ask for [m]: 20 psi, the least that US design practice
allows at ground level under any flow (Recommended Standards for Water Works, section 8.2.1)."""

TANK_MAIN_M = 0.61
"""Largest diameter of a pipe that joins a tank [m]: 24 inches, as the main from the river."""

VARIABLES = ("demand_multiplier", "roughness_factor", "pump_speed", "initial_fill")
OBSERVED = ("15", "35", "153", "203", "253")
SEED = 20_250_101

# WNTR logs each of EPANET's warnings with the time 0:00:00. The report has them with the right time.
logging.getLogger("wntr.epanet.toolkit").setLevel(logging.ERROR)


class DesignInput(ExperimentInputSpec):
    """One design of the network, and the state it starts from."""

    demand_multiplier: float = Field(
        ..., ge=0.5, le=1.5, description="Demand multiplier [-]"
    )  # 1 is the average day of the model; 0.5 a winter day, 1.5 the day a network is designed for
    roughness_factor: float = Field(
        ..., ge=0.6, le=1.1, description="Factor on Hazen-Williams coefficients [-]"
    )  # the model has C = 110 to 141: 0.6 makes that old unlined iron (C = 66 to 85), 1.1 new plastic
    pump_speed: float = Field(
        ..., ge=0.4, le=1.1, description="Relative pump speed [-]"
    )  # what a variable-speed drive covers; at 0.4 a pump lifts a sixth of its rated head
    initial_fill: float = Field(
        ..., ge=0.1, le=1.0, description="Tank fill at the start [share of usable depth]"
    )  # of all three tanks; operators keep a reserve, so never empty
    network: FileReference = Field(..., description="EPANET network [.inp]")


class DesignOutput(ExperimentOutputSpec):
    """What the design does over three days. The frame `pressure` holds the series of a few junctions [m]."""

    min_pressure: float = Field(..., description="Lowest pressure where water is drawn [m]")
    min_pressure_junction: str = Field(..., description="Junction where it occurs")
    min_pressure_hour: float = Field(..., description="When it first occurs, after the start [h]")
    pumping_energy: float = Field(..., description="Electricity used by the pumps [kWh]")
    unserved_demand: float = Field(..., description="Water asked for and not delivered [m3]")
    report: FileReference = Field(..., description="EPANET's own report [.rpt]")


class HydraulicFailure(RuntimeError):
    """EPANET warns that this design cannot be run as asked. The message is EPANET's."""


@ExperimentRegistry.Register()
def simulate_network(input_spec: DesignInput, tempdir: Path) -> DesignOutput:
    """Run EPANET on one design.

    The analysis is pressure-driven (EPANET 2.2 User Manual, "Pressure Driven Analysis"; Wagner et al. 1988): a
    junction at pressure p gets sqrt(p / 14.06 m) of its demand, all of it from 14.06 m (20 psi) up and nothing
    below 0. Unserved demand is the rest, summed over junctions and hours. So low pressure is a result here and
    not a failure: it costs water, and EPANET's numbers remain good. A lowest pressure below 0 means that some
    junction runs dry.

    What remains of EPANET's warnings says that the numbers are not good, and any of them fails the design: the
    equations are unbalanced, or balanced only with the pumps and tanks held still; demand is cut off from every
    source; a pump is asked to run outside its curve. The last is what happens here. A slow pump has so little
    head that water is pushed through it beyond the end of its curve, where EPANET goes on with a pump that takes
    head away and is paid for it; or it cannot open against the network at all.

    Raises:
        HydraulicFailure: EPANET warned; the message is its first warning.
        wntr.epanet.exceptions.EpanetException: EPANET gave up; the message is its error.
    """
    model = build_model(input_spec)
    results = wntr.sim.EpanetSimulator(model).run_sim(file_prefix=str(tempdir / "network"))
    report = tempdir / "network.rpt"
    text = report.read_text(encoding="latin-1")
    raise_on_warnings(text)

    customers = [name for name, junction in model.junctions() if junction.base_demand > 0]
    pressure = results.node["pressure"].set_axis(results.node["pressure"].index / 3600).rename_axis("hour")
    hour, junction = pressure[customers].stack().idxmin()
    return DesignOutput(
        min_pressure=float(pressure.loc[hour, junction]),
        min_pressure_junction=junction,
        min_pressure_hour=hour,
        pumping_energy=pumping_energy_kwh(text, model.pump_name_list),
        unserved_demand=unserved_demand_m3(model, results.node["demand"][customers]),
        report=report,
        dataframes={"pressure": pressure[list(OBSERVED)].rename_axis(columns=None)},
    )


def build_model(design: DesignInput) -> wntr.network.WaterNetworkModel:
    """Read the network anew, so that no design sees another's changes, and apply the design to it.

    Two things are not what they seem. A control that opens a pump sets its speed to 1 whatever was asked for
    (OpenWaterAnalytics/EPANET#558), and both pumps here have one: so the speed goes into the pumps' curves, by
    the affinity laws, as EPANET itself would apply it. And EPANET 2.2 does not notice that a tank is empty if the
    pipe from it has next to no head loss (OpenWaterAnalytics/EPANET#623), which is how this network joins its
    tanks, with 99 inches: they would go on delivering for days. A pipe the size of a main cures it.
    """
    model = wntr.network.WaterNetworkModel(str(design.network))
    model.options.time.duration = HOURS * 3600
    model.options.quality.parameter = "NONE"
    model.options.report.energy = "YES"
    hydraulic = model.options.hydraulic
    hydraulic.demand_model = "PDA"
    hydraulic.minimum_pressure = 0.0
    hydraulic.required_pressure = SERVICE_PRESSURE_M
    hydraulic.pressure_exponent = 0.5
    hydraulic.demand_multiplier = design.demand_multiplier

    for _, pipe in model.pipes():
        pipe.roughness *= design.roughness_factor
    for _, pump in model.head_pumps():
        curve, speed = pump.get_pump_curve(), design.pump_speed
        curve.points = [(flow * speed, head * speed**2) for flow, head in curve.points]
    for name, tank in model.tanks():
        tank.init_level = tank.min_level + design.initial_fill * (tank.max_level - tank.min_level)
        for pipe in map(model.get_link, model.get_links_for_node(name)):
            pipe.diameter = min(pipe.diameter, TANK_MAIN_M)
    return model


def raise_on_warnings(report: str) -> None:
    """Raise EPANET's first warning, if its report has any."""
    warnings = re.findall(r"^\s*(WARNING: .*\S)", report, flags=re.MULTILINE)
    if warnings:
        raise HydraulicFailure(f"{warnings[0]} (the first of {len(warnings)})")


def pumping_energy_kwh(report: str, pumps: list[str]) -> float:
    """Add up the report's energy table: share of time on [%] times mean power while on [kW] times hours."""
    rows = map(str.split, report.partition("Energy Usage:")[2].splitlines())
    return sum(float(row[1]) / 100 * float(row[4]) * HOURS for row in rows if row and row[0] in pumps)


def unserved_demand_m3(model: wntr.network.WaterNetworkModel, delivered: pd.DataFrame) -> float:
    """Compare demand with delivery [m3/s], both constant from one hourly report to the next."""
    wanted = wntr.metrics.expected_demand(model)[delivered.columns]
    shortfall = (wanted - delivered).clip(lower=0).iloc[:-1]
    return float(shortfall.to_numpy().sum() * model.options.time.report_timestep)


def sample_designs(count: int, network: Path) -> list[DesignInput]:
    """Draw designs from the ranges that `DesignInput` declares, by Latin hypercube with a fixed seed."""
    ranges = [DesignInput.model_json_schema()["properties"][name] for name in VARIABLES]
    sample = qmc.scale(
        qmc.LatinHypercube(d=len(VARIABLES), rng=SEED).random(count),
        [field["minimum"] for field in ranges],
        [field["maximum"] for field in ranges],
    )
    return [
        DesignInput.model_validate({**dict(zip(VARIABLES, row, strict=True)), "network": network})
        for row in sample.tolist()
    ]


def draw(scalars: pd.DataFrame, errors: pd.DataFrame, path: Path) -> None:
    """Plot the lowest pressure against each variable; failed designs have none and stand below the axis."""
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for panel, name in zip(panels.flat, VARIABLES, strict=True):
        draw_panel(panel, name, scalars, errors)
    for panel in panels[:, 0]:
        panel.set_ylabel("Lowest pressure [m]")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"EPANET Net3: {len(scalars) + len(errors)} designs over {HOURS} hours")
    figure.savefig(path, dpi=150)


def draw_panel(panel: Axes, name: str, scalars: pd.DataFrame, errors: pd.DataFrame) -> None:
    """Plot the lowest pressure against one variable."""
    served = scalars["unserved_demand"] == 0
    for subset, label, style in (
        (scalars[served], "all demand met", {"color": "#1f5a92", "marker": "o"}),
        (scalars[~served], "some demand not met", {"color": "#e08214", "marker": "^"}),
    ):
        x = subset.index.get_level_values(name)
        panel.scatter(x, subset["min_pressure"], s=14, alpha=0.7, linewidths=0, label=label, **style)
    failed = errors.index.get_level_values(name)
    panel.plot(
        failed,
        [0.03] * len(failed),
        "x",
        color="#b2182b",
        transform=panel.get_xaxis_transform(),
        label="failed in EPANET",
    )
    panel.axhline(
        SERVICE_PRESSURE_M, color="black", lw=1, ls="--", label=f"required, {SERVICE_PRESSURE_M:.1f} m (20 psi)"
    )
    panel.set_xlabel(DesignInput.model_fields[name].description)
    panel.grid(alpha=0.3)


def main() -> None:
    """Run the designs, say how many failed and why, and draw the picture."""
    parser = argparse.ArgumentParser(description="Simulate designs of EPANET's example network 3.")
    parser.add_argument("--designs", type=int, default=500, help="how many designs (default: 500)")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the picture (default: here)")
    arguments = parser.parse_args()

    network = Path(wntr.library.ModelLibrary().get_filepath("Net3"))
    experiment = BaseExperiment(runnable=simulate_network)
    run, ref = experiment.allocate(sample_designs(arguments.designs, network), version="bumpminor")
    ref.result()

    scalars, errors = run.scalars(), run.errors()
    hidden = [level for level in scalars.index.names if level not in ("sort_index", *VARIABLES)]
    print(scalars.droplevel(hidden).head(10).round(2).to_string(), end="\n\n")
    print(errors["message"].str.replace(r" at [\d:]+ hrs.*", "", regex=True).value_counts().to_string())
    print(f"\n{len(scalars)} designs with results + {len(errors)} failed = {len(scalars) + len(errors)}")

    picture = arguments.output / "water_network.png"
    draw(scalars, errors, picture)
    print(f"Results: {run.as_uri(run.prefix)}\nPicture: {picture.resolve()}")


if __name__ == "__main__":
    main()
