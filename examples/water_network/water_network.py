"""Simulate five hundred designs of a water network on every core of one machine.

Each design is one EPANET run of its example network 3 (two sources, two pumps, three tanks, 59 junctions
where water is drawn) over three days. Four things vary: how much water is asked for, how rough the pipes are,
how fast the pumps turn, and how full the tanks are at the start.

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
"""Simulated time [h]: a tank that does not refill overnight shows on the second and third day."""

REQUIRED_PRESSURE = 14.06
"""Pressure from which a customer gets all the water asked for [m]: 20 psi, the least that US practice accepts
at ground level under any flow (Recommended Standards for Water Works, known as Ten States Standards, 8.2)."""

TANK_MAIN_DIAMETER = 0.61
"""Largest diameter of a pipe that joins a tank [m]: 24 inches, like the main from the river."""

OBSERVED_JUNCTIONS = ["15", "35", "153", "203", "253"]
VARIABLES = ["demand_multiplier", "roughness_factor", "pump_speed", "initial_fill"]
SEED = 2025

# WNTR logs EPANET's warnings as if all came at 0:00:00; we read them, with their time, from EPANET's report.
logging.getLogger("wntr.epanet.toolkit").setLevel(logging.ERROR)


class DesignInput(ExperimentInputSpec):
    """One design of the network and the state it starts from.

    The ranges: demand from half the model's own, a winter day, to one and a half times, a common ratio of
    the peak day to the average. Pipes from old unlined iron (0.6 times the model's C of 110 to 141) to new
    plastic (1.1). Pumps over what a variable-speed drive covers; at 0.4 a pump has a sixth of its head left.
    Tanks from an emergency reserve to full.
    """

    demand_multiplier: float = Field(..., ge=0.5, le=1.5, description="Demand multiplier [-]")
    roughness_factor: float = Field(..., ge=0.6, le=1.1, description="Factor on Hazen-Williams C [-]")
    pump_speed: float = Field(..., ge=0.4, le=1.1, description="Pump speed, relative to rated [-]")
    initial_fill: float = Field(..., ge=0.1, le=1.0, description="Initial tank fill, of usable depth [-]")
    network: FileReference = Field(..., description="EPANET network [.inp]")


class DesignOutput(ExperimentOutputSpec):
    """What the design does; its frame `pressure` has the hourly pressure at a few junctions [m]."""

    min_pressure: float = Field(..., description="Lowest pressure at a junction where water is drawn [m]")
    min_pressure_junction: str = Field(..., description="Junction where it occurs")
    min_pressure_hour: float = Field(..., description="Time from the start at which it occurs [h]")
    pumping_energy: float = Field(..., description="Electricity used by the pumps [kWh]")
    unserved_demand: float = Field(..., description="Water asked for and not delivered [m3]")
    report: FileReference = Field(..., description="EPANET's report [.rpt]")


class HydraulicError(RuntimeError):
    """EPANET warns that the design does not run as asked; the message is EPANET's."""


@ExperimentRegistry.Register(retries=0)  # EPANET gives the same answer every time
def simulate_network(input_spec: DesignInput, tempdir: Path) -> DesignOutput:
    """Run EPANET on one design.

    The analysis is pressure-driven (EPANET 2.2 User Manual, "Hydraulic Simulation Model"; Wagner, Shamir and
    Marks, 1988): at pressure p a junction gets sqrt(p / 14.06 m) of its demand, no more than all of it and
    nothing below 0. What it does not get is unserved. So low pressure is a result and not a failure; a lowest
    pressure below 0 means that some junction runs dry.

    Of EPANET's warnings that leaves those after which its numbers do not describe the design, and any of them
    fails it: the equations are unbalanced, or balanced only with pumps and valves held still; a pump is asked
    to run outside its curve (the same manual, "Troubleshooting Results"). Here it is the pumps. A slow one has
    so little head that water is drawn through it past the end of its curve, where EPANET goes on with a pump
    that resists the flow, or that it delivers nothing against the pressure of the network.

    Raises:
        HydraulicError: EPANET warned; the message is its first warning.
        wntr.epanet.exceptions.EpanetException: EPANET gave up; the message is its error.
    """
    model = build_model(input_spec)
    results = wntr.sim.EpanetSimulator(model).run_sim(file_prefix=str(tempdir / "network"))
    report = tempdir / "network.rpt"
    report_text = report.read_text(encoding="latin-1")
    raise_first_warning(report_text)

    customers = [name for name, junction in model.junctions() if junction.base_demand > 0]
    pressure = results.node["pressure"]
    pressure.index = pd.Index(pressure.index / 3600, name="hour")
    lowest = pressure[customers].min()
    return DesignOutput(
        min_pressure=lowest.min(),
        min_pressure_junction=lowest.idxmin(),
        min_pressure_hour=pressure[lowest.idxmin()].idxmin(),
        pumping_energy=pumping_energy(report_text, model.pump_name_list),
        unserved_demand=unserved_demand(model, results.node["demand"][customers]),
        report=report,
        dataframes={"pressure": pressure[OBSERVED_JUNCTIONS].rename_axis(columns=None)},
    )


def build_model(design: DesignInput) -> wntr.network.WaterNetworkModel:
    """Read the network, anew for each design so that none sees another's changes, and apply the design to it.

    Two things would go wrong without a word. A control that opens a pump also sets its speed to 1
    (OpenWaterAnalytics/EPANET, issue 558) and both pumps have one, so the speed goes into the pump curves, by
    the affinity laws, as EPANET applies it. And EPANET 2.2 lets an empty tank deliver if the pipe from it has
    next to no head loss (issue 623), as here with 99 inches; the size of a main cures it.
    """
    model = wntr.network.WaterNetworkModel(str(design.network))
    model.options.time.duration = HOURS * 3600
    model.options.quality.parameter = "NONE"
    model.options.report.energy = "YES"
    hydraulic = model.options.hydraulic
    hydraulic.demand_model = "PDA"
    hydraulic.minimum_pressure = 0.0
    hydraulic.required_pressure = REQUIRED_PRESSURE
    hydraulic.pressure_exponent = 0.5
    hydraulic.demand_multiplier = design.demand_multiplier

    for _, pipe in model.pipes():
        pipe.roughness *= design.roughness_factor
    speed = design.pump_speed
    for curve in map(model.get_curve, {pump.pump_curve_name for _, pump in model.head_pumps()}):
        curve.points = [(flow * speed, head * speed**2) for flow, head in curve.points]
    for name, tank in model.tanks():
        tank.init_level = tank.min_level + design.initial_fill * (tank.max_level - tank.min_level)
        for pipe in map(model.get_link, model.get_links_for_node(name)):
            pipe.diameter = min(pipe.diameter, TANK_MAIN_DIAMETER)
    return model


def raise_first_warning(report: str) -> None:
    """Raise the first warning of EPANET's report, if there is one."""
    warnings = re.findall(r"WARNING: .*\S", report)
    if warnings:
        raise HydraulicError(f"{warnings[0]} (the first of {len(warnings)})")


def pumping_energy(report: str, pumps: list[str]) -> float:
    """Add up the report's energy table [kWh]: time running [%] × mean power while running [kW]."""
    table = [line.split() for line in report.partition("Energy Usage:")[2].splitlines()]
    return sum(float(row[1]) / 100 * HOURS * float(row[4]) for row in table if row and row[0] in pumps)


def unserved_demand(model: wntr.network.WaterNetworkModel, delivered: pd.DataFrame) -> float:
    """Add up what was asked for and not delivered [m3], taking hourly flows [m3/s] to last until the next."""
    wanted = wntr.metrics.expected_demand(model)[delivered.columns]
    shortfall = (wanted - delivered).clip(lower=0).iloc[:-1]
    return float(shortfall.to_numpy().sum() * model.options.time.report_timestep)


def sample_designs(count: int, network: Path) -> list[DesignInput]:
    """Draw designs from the ranges that `DesignInput` declares: a Latin hypercube with a fixed seed."""
    fields = DesignInput.model_json_schema()["properties"]
    sample = qmc.scale(
        qmc.LatinHypercube(d=len(VARIABLES), rng=SEED).random(count),
        l_bounds=[fields[name]["minimum"] for name in VARIABLES],
        u_bounds=[fields[name]["maximum"] for name in VARIABLES],
    )
    rows = pd.DataFrame(sample, columns=VARIABLES).to_dict("records")
    return [DesignInput.model_validate({**row, "network": network}) for row in rows]


def draw_pressure(scalars: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Plot the lowest pressure against each variable, one panel each."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for panel, name in zip(panels.flat, VARIABLES, strict=True):
        draw_panel(panel, name, scalars, errors)
    for panel in panels[:, 0]:
        panel.set_ylabel("Lowest pressure at a customer [m]")
    figure.suptitle(f"EPANET example network 3: {len(scalars) + len(errors)} designs over {HOURS} h")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_panel(panel: Axes, name: str, scalars: pd.DataFrame, errors: pd.DataFrame) -> None:
    """Plot the lowest pressure against one variable, and failed designs, which have none, along the axis."""
    dry, kept = scalars["min_pressure"] < 0, scalars["min_pressure"] >= REQUIRED_PRESSURE
    for label, group, marker, color in [
        ("required pressure kept", scalars[kept], "o", "#1f5a92"),
        ("pressure too low", scalars[~kept & ~dry], "s", "#e08214"),
        ("a junction runs dry", scalars[dry], "v", "#8c510a"),
    ]:
        x, y = group.index.get_level_values(name), group["min_pressure"]
        label = f"{label}: {len(group)} designs"
        panel.scatter(x, y, s=13, c=color, marker=marker, lw=0, alpha=0.75, label=label)
    x, axis = errors.index.get_level_values(name), panel.get_xaxis_transform()
    label = f"failed in EPANET, no result: {len(errors)} designs"
    panel.scatter(x, [0.035] * len(x), s=30, c="#b2182b", marker="x", lw=1.2, transform=axis, label=label)
    label = f"required: {REQUIRED_PRESSURE} m (20 psi)"
    panel.axhline(REQUIRED_PRESSURE, color="black", ls="--", lw=1, label=label)
    panel.margins(y=0.13)
    panel.grid(alpha=0.3)
    panel.set_xlabel(DesignInput.model_fields[name].description or name)


def main() -> None:
    """Run the designs, say how many failed and why, and draw the picture."""
    parser = argparse.ArgumentParser(description="Simulate designs of EPANET's example network 3.")
    parser.add_argument("--designs", type=int, default=500, help="how many (default: 500)")
    parser.add_argument("--output", type=Path, default=Path(), help="where to put the picture (default: .)")
    arguments = parser.parse_args()

    network = Path(wntr.library.ModelLibrary().get_filepath("Net3"))
    experiment = BaseExperiment(runnable=simulate_network)
    run, ref = experiment.allocate(sample_designs(arguments.designs, network), version="bumpminor")
    ref.result()

    scalars, errors = run.scalars(), run.errors()
    hidden = [level for level in scalars.index.names if level not in ["sort_index", *VARIABLES]]
    print(scalars.droplevel(hidden).head().round(2).to_string())
    reasons = errors["message"].str.replace(r" at \S+ hrs.*", "", regex=True)
    print(f"\n{len(errors)} designs failed")
    print("".join(f"{count:>7}  {reason}\n" for reason, count in reasons.value_counts().items()))
    print(f"{len(scalars)} rows + {len(errors)} failures = {len(scalars) + len(errors)} designs")

    picture = arguments.output / "water_network.png"
    draw_pressure(scalars, errors).savefig(picture, dpi=150)
    print(f"Results: {run.as_uri(run.prefix)}\nPicture: {picture.resolve()}")


if __name__ == "__main__":
    main()
