import math

from pydantic import Field

from scythe import BaseExperiment, ExperimentInputSpec, ExperimentOutputSpec, ExperimentRegistry


class Throw(ExperimentInputSpec):
    """A ball thrown over level ground."""

    speed: float = Field(ge=0, le=100, description="Initial speed [m/s]")
    angle: float = Field(ge=0, le=90, description="Angle above the ground [deg]")


class Flight(ExperimentOutputSpec):
    distance: float = Field(description="Where it lands [m]")
    height: float = Field(description="How high it gets [m]")


@ExperimentRegistry.Register()
def throw_ball(input_spec: Throw) -> Flight:
    v, a = input_spec.speed, math.radians(input_spec.angle)
    return Flight(distance=v**2 * math.sin(2 * a) / 9.81, height=(v * math.sin(a)) ** 2 / (2 * 9.81))


if __name__ == "__main__":
    specs = [Throw(speed=v, angle=a) for v in range(10, 60) for a in range(5, 90, 5)]
    run, ref = BaseExperiment(runnable=throw_ball).allocate(specs, version="bumpminor")
    ref.result()
    print(run.scalars()["distance"].groupby("angle").mean())
