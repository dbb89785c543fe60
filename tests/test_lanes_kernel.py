"""pack and unpack as the GPU runs them: the bodies for any grid, then the nvcc-built kernels."""

import subprocess

import ptxsim
import pytest
from build_tools import need, run


def test_bodies_on_the_cpu_for_any_number_of_threads(tmp_path):
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Icsrc/include"]
    exe = tmp_path / "test_lanes"
    run(need("c++"), *flags, "-o", exe, "tests/cpp/test_lanes.cpp")
    run(exe)


def simulate(program, *args, **env):
    command = [str(arg) for arg in (program, *args)]
    done = subprocess.run(
        command, env=ptxsim.environment() | env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{command} {env}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_kernels_give_the_results_of_the_cpu(seed):
    """Another interleaving of warps and blocks for each seed; shared-memory races are reported."""
    ptxsim.environment()
    program = ptxsim.build_program("test_lanes", [])
    assert "20 seeds" in simulate(program, 20, FAKECUDA_SEED=seed, FAKECUDA_RACE="1")
