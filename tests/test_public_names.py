"""The public API is what it is: a name that appears or goes is a decision, not an accident."""

import subprocess
import sys
import tomllib
from pathlib import Path

import swarmtrain


def test_public_names() -> None:
    assert set(swarmtrain.__all__) == {
        "Reference",
        "RunConfig",
        "Scenario",
        "SwarmError",
        "TrainedModel",
        "__version__",
        "load_config",
        "simulate",
    }
    assert all(hasattr(swarmtrain, name) for name in swarmtrain.__all__)
    assert not hasattr(swarmtrain, "no_such_name")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, swarmtrain; assert not {'torch', 'hivemind', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["version"] == swarmtrain.__version__
