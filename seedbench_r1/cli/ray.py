"""eval with --engine ray: the same run, answered by a pool of workers on one or many machines."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def run_with_ray(
    options: dict[str, Any],
    config_file: Path | None,
    mode: dict[str, bool],
    ray: dict[str, Any],
    lmms: dict[str, str | None],
) -> None:
    """The part of `eval` that differs when Ray's workers answer. `ray` holds ray_workers and ray_address."""
    from seedbench_r1.cli.eval import draining_signals, finish, parse_options
    from seedbench_r1.cli.progress import EvalProgress
    from seedbench_r1.cli.results import print_config, print_dry_run
    from seedbench_r1.config import resolve_eval_config
    from seedbench_r1.engines.local import plan
    from seedbench_r1.engines.ray import check_ray, evaluate_with_ray, ray_cluster
    from seedbench_r1.errors import ConfigError

    other = [name for name, value in lmms.items() if value is not None and name != "engine"]
    if lmms["engine"] != "ray" or other:
        wrong = f"--{other[0].replace('_', '-')} belongs to lmms-eval" if other else "--ray-* need --engine ray"
        raise ConfigError(f"{wrong}. Fix: give the options of one engine.")
    config = resolve_eval_config(parse_options(options), config_file=config_file)
    check_ray(config)
    if mode["print_config"]:
        print_config(config)
        return
    planned = plan(config, command=shlex.join(["seedbench-r1", *sys.argv[1:]]))
    if mode["dry_run"]:
        print_dry_run(planned, as_json=mode["json"])
        return
    with (
        redirect_stdout(sys.stderr),  # where Ray prints that a worker died
        ray_cluster(ray["ray_address"], ray["ray_workers"], planned.config) as pool,
        # after the cluster: Ray sets a handler of its own
        draining_signals() as (stop, received),
        EvalProgress(planned, quiet=mode["quiet"] or mode["json"]) as progress,
    ):
        result = evaluate_with_ray(planned, pool, stop=stop, observe=progress.observe)
    finish(planned, result, received[0] if received else 0, mode)
