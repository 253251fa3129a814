"""Commands that train, and that judge a run: up, coordinator, peer, reference, simulate, check."""

from pathlib import Path
from typing import Annotated

import typer

from swarmtrain.cli import terms
from swarmtrain.cli.settings import Device, Out, Output, Overrides, Resume, RunFile, Sinks, Steps

Region = Annotated[
    str, typer.Option(help="Where this machine stands, as others there write it (europe-west4)")
]
Faults = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SWARMTRAIN_FAULT", hidden=True, help="For tests: POINT:ACTION:NTH; repeatable"
    ),
]
StagedBy = Annotated[
    Path | None,
    typer.Option(
        hidden=True, help="For experiments: JSON that says how slow lines and compute are made"
    ),
]
Sharers = Annotated[
    int, typer.Option(min=1, hidden=True, help="For up: peers that share this machine's device")
]
Island = Annotated[
    str,
    typer.Option(
        help="Swarm to help (0, 1, ...), which holds a whole model; auto: by measured links"
    ),
]

Join = Annotated[
    list[str],
    typer.Option(
        "--join",
        envvar="SWARMTRAIN_JOIN",
        help="Any peer or coordinator, host:port; repeatable: the first that answers is asked",
    ),
]
JoinTimeout = Annotated[
    str,
    typer.Option(
        "--join-timeout", help="Try so long to find the run, if nobody answers yet (15s, 1h)"
    ),
]
Stages = Annotated[
    str, typer.Option("--stage", help="auto, one stage (3), or a range (1:3 is 1, 2 and 3)")
]
Name = Annotated[str, typer.Option(help="Name that others see, and that your work is credited to")]
KeyFile = Annotated[
    Path | None, typer.Option(help="Key file; made when missing. Without it: a new identity")
]
OwnConfig = Annotated[
    list[Path] | None, typer.Option("--config", "-c", help="Your own RUN.toml; must match")
]
Listen = Annotated[str, typer.Option(help="host:port to listen on; port 0 takes a free one")]

DashboardAddress = Annotated[
    str,
    typer.Option(
        "--dashboard", help="host:port of the page that shows the run; auto: 127.0.0.1:8787 if free"
    ),
]
Metrics = Annotated[str, typer.Option(help="host:port where Prometheus reads this peer's figures")]
NoDashboard = Annotated[bool, typer.Option("--no-dashboard", help="Serve no page")]


def up(
    files: RunFile = None,
    peers: Annotated[
        int, typer.Option("--peers", min=1, help="Peer processes to start, in each island")
    ] = 4,
    islands: Annotated[
        int,
        typer.Option("--islands", min=1, max=100, help="Swarms of N peers each, with outer rounds"),
    ] = 1,
    steps: Steps = None,
    out: Out = None,
    overrides: Overrides = None,
    prompt: Annotated[str, typer.Option(help="Text the sample at the end continues")] = "def ",
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", help="Pin the stages of the first, second, ... peer; repeatable"),
    ] = None,
    kill: Annotated[
        str | None, typer.Option(help="Kill a peer without warning, as PEER@STEP (2@100)")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Rerun the plain loop and compare the parameters")
    ] = False,
    resume: Resume = "never",
    dashboard: DashboardAddress = "auto",
    no_dashboard: NoDashboard = False,
    device: Device = "auto",
    sink: Sinks = None,
    machine: Annotated[
        list[str] | None,
        typer.Option(help="Make peers like these of peers/machines, in turn (t4); repeatable"),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Make lines like those of peers/networks (home, gcp5)")
    ] = None,
) -> None:
    """Train on this machine: a coordinator and N peer processes, ending with a summary and a sample.

    Example: swarmtrain up deploy/runs/demo.toml --peers 5

    Ctrl+C stops after what is committed and keeps a checkpoint; Ctrl+C twice leaves at once.
    """
    from swarmtrain.cli.settings import founders_of, read_config, run_folder, sinks_to_open
    from swarmtrain.cli.up import UpOptions, parse_kill, run_up
    from swarmtrain.experiments.emulated import emulated

    config = read_config(files, overrides, steps, [f"swarm.min_peers={peers}"])
    if "founders" not in config.outer.model_fields_set:
        founders = founders_of(out, resume, islands)
        together = [f"swarm.min_peers={peers}", f"outer.founders={founders}"]
        config = read_config(files, overrides, steps, together)
    machines = emulated(machine or (), network, peers * islands, Path.cwd())
    stages, victim = tuple(stage or ()), parse_kill(kill, peers * islands)
    folder, goes_on = run_folder(out, config, resume)
    page = "" if no_dashboard else dashboard
    sinks = sinks_to_open(sink, config, folder)
    options = UpOptions(
        peers, islands, stages, victim, prompt, verify, goes_on, page, device, sinks, machines
    )
    run_up(config, folder, options)


def coordinator(
    files: RunFile = None,
    listen: Annotated[
        str, typer.Option(help="host:port to listen on; port 0 takes a free one")
    ] = "127.0.0.1:8765",
    announce: Annotated[
        str, typer.Option(help="host:port that peers dial, when it is not --listen")
    ] = "",
    steps: Steps = None,
    out: Out = None,
    overrides: Overrides = None,
    resume: Resume = "never",
    dashboard: DashboardAddress = "auto",
    no_dashboard: NoDashboard = False,
    directory_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port of the directory of peers; 0 is any free one"),
    ] = 0,
    sink: Sinks = None,
) -> None:
    """Start a run that others join: bootstrap, dashboard, journal, final checkpoint.

    Example: swarmtrain coordinator RUN.toml --listen 127.0.0.1:8765
    """
    from swarmtrain.cli.host import CoordinatorOptions, run_coordinator
    from swarmtrain.cli.settings import read_config, run_folder, sinks_to_open

    config = read_config(files, overrides, steps)
    folder, goes_on = run_folder(out, config, resume)
    page, sinks = "" if no_dashboard else dashboard, sinks_to_open(sink, config, folder)
    options = CoordinatorOptions(listen, announce, page, goes_on, directory_port, sinks)
    run_coordinator(config, folder, options)


def peer(
    join: Join,
    join_timeout: JoinTimeout = "15s",
    stage: Stages = "auto",
    name: Name = "volunteer",
    listen: Listen = "127.0.0.1:0",
    announce: Annotated[
        str, typer.Option(help="host:port that others dial, when it is not --listen")
    ] = "",
    identity: KeyFile = None,
    config: OwnConfig = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for this peer's journal and trace")
    ] = None,
    max_memory: terms.Memory = None,
    upload_limit: terms.UploadLimit = None,
    download_limit: terms.DownloadLimit = None,
    daily_transfer: terms.DailyTransfer = None,
    disk: terms.Disk = None,
    only_when_idle: terms.OnlyWhenIdle = False,
    idle_after: terms.IdleAfter = "3m",
    hours: terms.ServingHours = None,
    not_on_battery: terms.NotOnBattery = False,
    nice: terms.Nice = 10,
    state: terms.State = None,
    region: Region = "",
    island: Island = "0",
    metrics: Metrics = "",
    device: Device = "auto",
    lifeline: Annotated[
        bool, typer.Option("--lifeline", hidden=True, help="End when standard input closes")
    ] = False,
    fault: Faults = None,
    staged_by: StagedBy = None,
    sharers: Sharers = 1,
) -> None:
    """Join a run and serve: self-test, take stages, train until the run ends.

    Example: swarmtrain peer --join 127.0.0.1:8765

    Ctrl+C leaves the run; Ctrl+C twice leaves at once.
    """
    from swarmtrain.cli.host import PeerProcess, parse_island, parse_stages, run_peer
    from swarmtrain.cli.settings import read_config
    from swarmtrain.core.faultpoints import parse_fault
    from swarmtrain.core.units import parse_bytes, parse_seconds
    from swarmtrain.peer.joining import JoinOptions

    rates, when = (upload_limit, download_limit), (only_when_idle, idle_after)
    said = terms.Said(rates, daily_transfer, disk, when, hours, not_on_battery, nice, state)
    options = JoinOptions(
        join=tuple(join),
        name=name,
        stages=parse_stages(stage),
        listen=listen,
        announce=announce,
        identity=identity,
        config=read_config(config, overrides, None) if config or overrides else None,
        cache_folder=_cache_folder(),
        out=out,
        memory_bytes=parse_bytes(max_memory) if max_memory else None,
        region=region,
        island=parse_island(island),
        device=device,
        sharers=sharers,
        caps=terms.parse_caps(said),
    )
    faults, join_seconds = tuple(map(parse_fault, fault or ())), parse_seconds(join_timeout)
    run_peer(options, PeerProcess(lifeline, faults, metrics, said, staged_by, join_seconds))


def reference(
    files: RunFile = None, steps: Steps = None, out: Out = None, overrides: Overrides = None
) -> None:
    """Train the same run as one plain PyTorch loop: the yardstick for `up`.

    Example: swarmtrain reference deploy/runs/equality.toml --out runs/reference

    In exact mode its parameters_sha256 equals that of `up`, whatever the number of peers.
    """
    from swarmtrain.cli.settings import new_run_folder, read_config
    from swarmtrain.cli.yardstick import run_reference

    config = read_config(files, overrides, steps)
    run_reference(config, new_run_folder(out, config))


def simulate(
    scenario: Annotated[Path, typer.Argument(help="SCENARIO.toml", metavar="SCENARIO.toml")],
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of run and faults, instead of the run's")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="A:B runs seeds A to B-1 in parallel and prints a table")
    ] = None,
    steps: Steps = None,
    out: Out = None,
    overrides: Overrides = None,
) -> None:
    """Train the same run in virtual time: real peers and tensors, modelled links, compute and faults.

    Example: swarmtrain simulate deploy/scenarios/chaos.toml --seeds 0:100

    The journal is checked afterwards: any violation, stall or wrong parameter ends with a non-zero code.
    """
    from swarmtrain.cli.yardstick import run_scenario, run_seeds
    from swarmtrain.core.errors import ConfigError

    if seeds is not None and seed is not None:
        raise ConfigError("--seed and --seeds exclude each other", "", "give one of them")
    if seeds is not None:
        run_seeds(scenario, seeds, steps, out, overrides or ())
        return
    more = [f"run.seed={seed}"] if seed is not None else []
    run_scenario(scenario, steps, out, [*(overrides or ()), *more])


def check(
    folders: Annotated[
        list[Path], typer.Argument(help="Folder of a run, with every peer's journal below it")
    ],
    output: Output = "table",
) -> None:
    """Check the journals of a run: every gradient counted once, replicas equal, steps in order.

    Example: swarmtrain check runs/mine

    Reads what peers wrote with --out, and ends with a non-zero code when a promise was broken.
    """
    from swarmtrain.cli.yardstick import check_folders

    check_folders(folders, output)


def _cache_folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("swarmtrain")
