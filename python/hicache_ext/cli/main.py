"""The `hicache` command."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="The memory hierarchy of an LLM server: KV pages on GPU, host and disk.",
)


@app.callback()
def _commands() -> None:
    """Makes `hicache` a command with subcommands even while it has only one."""


@app.command()
def demo(
    model: Annotated[
        str, typer.Option(help="gemma3-270m, small, or a local folder or hub id.")
    ] = "gemma3-270m",
    small: Annotated[
        bool, typer.Option("--small", help="A random-weight model and a short text: seconds.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for demo.json, demo.png and logs.")] = Path(
        "out/demo"
    ),
    tokens: Annotated[int | None, typer.Option(help="Length of the shared document.")] = None,
    answer_tokens: Annotated[int | None, typer.Option(help="Tokens of each answer.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default all.")] = None,
    keep_store: Annotated[bool, typer.Option("--keep-store", help="Keep the pages.")] = False,
) -> None:
    """Answer questions on a long document cold, from L1, L2, L3, and on two ranks.

    Compares every logit with a run that kept its cache in memory; exits with 1 if one differs.
    """
    from hicache_ext.cli.demo import run_demo
    from hicache_ext.cli.demo_plan import make_plan

    plan = make_plan(
        "small" if small else model,
        out,
        num_tokens=tokens,
        num_answer_tokens=answer_tokens,
        num_threads=threads,
    )
    raise typer.Exit(run_demo(plan, keep_store=keep_store))


@app.command()
def mooncake(
    nodes: Annotated[int, typer.Option(help="Storage nodes on this machine.")] = 1,
    gib: Annotated[float, typer.Option(help="Memory of each, in GiB.")] = 2.0,
    host: Annotated[str, typer.Option(help="This machine, as others reach it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the master.")] = 50051,
    join: Annotated[
        str | None, typer.Option(help="HOST:PORT of a master elsewhere: none is started here.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="tcp or rdma.")] = "tcp",
    devices: Annotated[str, typer.Option(help="NICs of rdma, by commas.")] = "",
) -> None:
    """Run a Mooncake master and storage nodes until interrupted: docs/mooncake.md.

    Whoever reaches them can read and delete every page: use a private network.
    """
    from hicache_ext.errors import StorageError
    from hicache_ext.storage.mooncake_nodes import MooncakeNodes, serve

    try:
        serve(
            MooncakeNodes(
                num_nodes=nodes,
                node_bytes=int(gib * 2**30),
                host=host,
                port=port,
                join=join,
                protocol=protocol,
                devices=devices,
            )
        )
    except StorageError as error:
        typer.echo(f"hicache mooncake: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option(help="A folder that a store is or will be in.")] = Path(),
) -> None:
    """Show what this machine and this build have, and what to install for the rest."""
    from hicache_ext.cli.doctor import diagnose, report

    typer.echo(report(diagnose(folder)))
