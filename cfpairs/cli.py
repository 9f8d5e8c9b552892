"""The commands. Every heavy import waits until a command needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cfpairs.errors import CfpairsError, ConfigError

if TYPE_CHECKING:
    from cfpairs.workflow import Context, StageResult

app = typer.Typer(
    name="cfpairs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Curate counterfactual image pairs, measure their quality, and probe without the shortcut.",
)

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration; default cfpairs.yaml, else the workspace's own."),
]
WorkspaceOption = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Folder of results; overrides the configuration.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Overrides the configuration's seed.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
RayAddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="Ray cluster to join, with --engine ray: auto | HOST:PORT")
]
EncoderOption = Annotated[str | None, typer.Option("--encoder", help="Whose embeddings to use.")]
PairSetOption = Annotated[
    list[str] | None, typer.Option("--pair-set", help="Pair set; may be repeated; default all.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


def main() -> None:
    """Run the command line; every error that is meant for the user is one line."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(standalone_mode=False)
    except CfpairsError as error:
        _fail(error)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(1) from None
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        # A full disk or a folder that vanished while a library wrote: no fault of the program.
        _fail(CfpairsError(f"the system refused: {error.strerror or error}", got=error.filename))
    except MemoryError:
        _fail(CfpairsError("memory ran out", remedy="lower encoder.batch_size or use fewer items"))
    except Exception as error:
        # Typer's own usage errors know how to show themselves; what remains is a bug and keeps its trace.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    if code == INTERRUPTED:
        print("stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)  # noqa: T201
    raise SystemExit(code if isinstance(code, int) else 0)


def _stop(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(error: CfpairsError) -> NoReturn:
    print(f"cfpairs: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(error.exit_code) from None


VERSIONS = (
    "numpy", "scipy", "scikit-learn", "pyarrow", "torch", "torchvision", "open-clip-torch", "timm",
    "openvino", "faiss-cpu", "faiss-gpu-cu12", "diffusers", "ray",
)  # fmt: skip
"""Libraries that results may depend on."""


def _show_version(value: bool) -> None:
    if value:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        typer.echo(f"cfpairs {version('cfpairs')}")
        typer.echo(f"python {platform.python_version()}")
        for name in VERSIONS:
            try:
                typer.echo(f"{name} {version(name)}")
            except PackageNotFoundError:
                continue
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print versions: cfpairs, then what results may depend on.",
        ),
    ] = False,
) -> None:
    pass


def _context(config: Path | None, workspace: Path | None, seed: int | None, quiet: bool) -> Context:
    from cfpairs.terminal import RichProgress
    from cfpairs.workflow import Context, find_config

    found, _ = find_config(config, workspace, seed)
    return Context(found, RichProgress(quiet=quiet))


@contextmanager
def _working(config: Path | None, workspace: Path | None, seed: int | None, quiet: bool) -> Iterator[Context]:
    """The context of a command that writes: the workspace is locked and knows its configuration."""
    from cfpairs.terminal import RichProgress
    from cfpairs.workflow import Context, find_config, keep_config

    found, source = find_config(config, workspace, seed)
    context = Context(found, RichProgress(quiet=quiet))
    with context.workspace.lock():
        keep_config(context, source)
        yield context


def _with_engine(context: Context, engine: str | None, ray_address: str | None) -> Context:
    """The same with another engine."""
    from cfpairs.workflow.start import change

    wanted = change(context.config, "encoder", engine=engine, ray_address=ray_address)
    if ray_address is not None and wanted.encoder.engine != "ray":
        raise ConfigError("--ray-address is for the engine ray", remedy="add --engine ray")
    return context.with_config(encoder=wanted.encoder)


class _Output:
    """Prints results as they come, or all of them as one JSON object at the end."""

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json = quiet, as_json
        self.stages: list[dict[str, Any]] = []

    def stage(self, result: StageResult) -> None:
        self.stages.append(
            {"stage": result.stage, "made": result.made, "notes": list(result.notes), **result.data}
        )
        if not self.quiet and not self.as_json:
            if result.view is not None:
                self.show(lambda: result.view)
            if result.data.get("cells"):
                self.show(lambda: _cells_view(result))
            typer.echo(result.summary)
            if "counts" in result.data:
                typer.echo(f"  {_yield(result.data['counts'])}")
            for note in result.notes:
                typer.echo(f"  note: {note}")

    def show(self, make: Callable[[], Any]) -> None:
        """Print a rich renderable, unless quiet or for programs."""
        if not self.quiet and not self.as_json:
            from cfpairs.terminal import make_console

            make_console().print(make())

    def end(self, **more: Any) -> None:
        if self.as_json:
            typer.echo(json.dumps({"stages": self.stages, **more}, indent=1))


def _cells_view(result: StageResult) -> Any:
    from cfpairs.terminal import cells_view

    return cells_view(result.data["cells"])


def _yield(counts: dict[str, int]) -> str:
    """How many of the pairs that were tried are kept."""
    kept = counts.get("ok", 0)
    tried = kept + counts.get("rejected", 0)
    return f"yield: {kept:,} of {tried:,} tried ({100 * kept / max(tried, 1):.1f} %)"


@app.command()
def init(
    preset: Annotated[str, typer.Argument(help="Kind of data set: see 'cfpairs list'.")],
    root: Annotated[Path, typer.Option("--root", help="Folder of the data set.")],
    out: Annotated[Path, typer.Option("--out", help="Configuration file to write.")] = Path("cfpairs.yaml"),
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the data set (KEY) or of another section (probe.r); may be repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing configuration.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a configuration that suits the data, and show their groups."""
    from cfpairs.terminal import RichProgress, group_view
    from cfpairs.workflow import Context
    from cfpairs.workflow.start import scan_data, starting_config

    if out.exists() and not force:
        raise ConfigError(f"{out} exists already", remedy="choose another --out, or --force to replace it")
    config, text = starting_config(preset, root, out, workspace, seed, settings or ())
    scan = scan_data(Context(config, RichProgress(quiet=quiet)))
    from cfpairs.tables import write_bytes

    write_bytes(out, text.encode())
    output = _Output(quiet=quiet, as_json=as_json)
    output.show(lambda: group_view(scan.groups))
    if not quiet and not as_json:
        typer.echo(scan.line)
        for line in scan.warnings:
            typer.echo(f"  note: {line}")
        typer.echo(f"wrote {out}; next: cfpairs run -c {out}")
    output.end(config=str(out), **scan.to_dict())


@app.command()
def build(
    method: Annotated[
        str | None, typer.Option("--method", help="How pairs are made: see 'cfpairs list'.")
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option("--pairs", min=1, help="How many pairs to make; an import takes all if not given."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the pair set; default the method.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="File of pairs (CSV, TSV, Parquet), for method import.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the builder; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again even if nothing changed.")] = False,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Where images are edited and encoded: local | ray")
    ] = None,
    ray_address: RayAddressOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build one pair set, or all of the configuration."""
    from cfpairs.workflow import build_pairs
    from cfpairs.workflow.start import pair_config

    output = _Output(quiet=quiet, as_json=as_json)
    with _working(config, workspace, seed, quiet) as found:
        context = _with_engine(found, engine, ray_address)
        if method is None and name is None:
            if pairs is not None or from_ is not None or settings:
                raise ConfigError(
                    "--pairs, --from and --set need to know which pair set", remedy="add --method"
                )
            wanted = list(context.config.pairs)
        else:
            wanted = [pair_config(context.config, method, name, pairs, from_, settings or ())]
        for pair in wanted:
            output.stage(build_pairs(context, pair, force=force, look=True))
    output.end()


@app.command()
def embed(
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", help="lite | open_clip:MODEL/TAG | timm:MODEL.TAG | …@FILE: see 'cfpairs list'"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto | cpu | cuda")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="local | ray")] = None,
    ray_address: RayAddressOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode every item that has no embedding yet."""
    from cfpairs import workflow
    from cfpairs.workflow.start import change

    output = _Output(quiet=quiet, as_json=as_json)
    with _working(config, workspace, seed, quiet) as context:
        wanted = change(context.config, "encoder", spec=encoder, device=device)
        changed = context.with_config(encoder=wanted.encoder)
        output.stage(workflow.embed(_with_engine(changed, engine, ray_address)))
    output.end()


@app.command()
def probe(
    r: Annotated[
        str | None, typer.Option("--r", help="auto | 16 | 4,8,16 | 0:64 (both ends included)")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Probe; may be repeated; 'all' for every one.")
    ] = None,
    pair_set: PairSetOption = None,
    encoder: EncoderOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit the probes and measure worst-group accuracy."""
    from cfpairs import workflow
    from cfpairs.workflow.start import change

    output = _Output(quiet=quiet, as_json=as_json)
    with _working(config, workspace, seed, quiet) as context:
        every = bool(method and "all" in method)
        wanted = change(context.config, "probe", r=r, methods=None if every else method)
        wanted = change(wanted, "encoder", spec=encoder)
        changed = context.with_config(probe=wanted.probe, encoder=wanted.encoder)
        result = workflow.probe(changed, pair_set or (), every=every)
        output.stage(result)
        output.show(lambda: _results_view(result, wanted.probe.selection[0]))
    output.end()


def _results_view(result: StageResult, rule: str) -> Any:
    from cfpairs.terminal import results_view

    known = any(row["selection"] == rule for row in result.data["results"])
    table = results_view(result.data["results"], rule if known else None)
    table.caption = "* differs from erm (paired bootstrap, 95 %); other rules stand in results.parquet"
    table.caption_justify = "left"
    return table


@app.command()
def report(
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", help="Two workspaces to set side by side instead; both are only read."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Page of the comparison; a .json of that name goes beside it.")
    ] = Path("compare.html"),
    encoder: EncoderOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write report.html and report.json from the latest probe run, or compare two workspaces."""
    from cfpairs import workflow
    from cfpairs.workflow.start import change

    output = _Output(quiet=quiet, as_json=as_json)
    if compare is not None:
        result = workflow.compare(*compare, out)
        output.stage(result)
        output.end()
        if open_page:
            typer.launch(out.absolute().as_uri())
        return
    with _working(config, workspace, seed, quiet) as context:
        wanted = change(context.config, "encoder", spec=encoder)
        result = workflow.report(context.with_config(encoder=wanted.encoder))
    output.stage(result)
    output.end()
    if open_page:
        typer.launch(Path(result.data["html"]).as_uri())


@app.command()
def review(
    pair_set: PairSetOption = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; default one that is free.")
    ] = 0,
    open_page: Annotated[
        bool,
        typer.Option("--open/--no-open", help="Open the page in the browser, or only print its address."),
    ] = True,
    encoder: EncoderOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Keep or drop pairs on a local page, worst first; Ctrl-C ends it."""
    from cfpairs.workflow.review import open_review
    from cfpairs.workflow.start import change

    def ready(url: str) -> None:
        if as_json:
            typer.echo(json.dumps({"url": url, "pid": os.getpid()}))
        else:
            typer.echo(f"review: {url}\n  every decision is saved at once; Ctrl-C ends the page")
        sys.stdout.flush()
        if open_page:
            typer.launch(url)

    with _working(config, workspace, seed, quiet) as context:
        wanted = change(context.config, "encoder", spec=encoder)
        changed = context.with_config(encoder=wanted.encoder)
        result = open_review(changed, pair_set or ()).serve(port, ready)
    output = _Output(quiet=quiet, as_json=False)
    if not as_json:
        output.stage(result)


@app.command()
def run(
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration and stop.")
    ] = False,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make every stage that is missing or stale, in order."""
    if print_config:
        from cfpairs.config import dump_config

        typer.echo(dump_config(_context(config, workspace, seed, quiet).config), nl=False)
        return
    output = _Output(quiet=quiet, as_json=as_json)
    with _working(config, workspace, seed, quiet) as context:
        _run(context, output)
    output.end()


def _run(context: Context, output: _Output) -> None:
    from cfpairs.workflow import run_stages

    for result in run_stages(context):
        output.stage(result)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("cfpairs-demo"),
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run everything on handwritten digits over photographs, offline."""
    from cfpairs.workflow.start import demo_config

    output = _Output(quiet=quiet, as_json=as_json)
    path = demo_config(out, seed)
    with _working(path, None, None, quiet) as context:
        _run(context, output)
    output.end()


@app.command()
def status(
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which stages are done, stale or missing."""
    from dataclasses import asdict

    from cfpairs.workflow import stage_states

    states = stage_states(_context(config, workspace, seed, quiet))
    output = _Output(quiet=quiet, as_json=as_json)
    output.show(lambda: _state_view(states))
    if as_json:
        typer.echo(json.dumps({"stages": [asdict(s) for s in states]}, indent=1))


def _state_view(states: Any) -> Any:
    from cfpairs.terminal import state_view

    return state_view(states)


@app.command()
def doctor(
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Measure this encoder: fastest runtime and precision that is safe."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto | cpu | cuda, with --encoder")] = None,
    features: Annotated[
        str | None, typer.Option("--features", help="projected | pooled, with --encoder")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can do, and the remedy for what it cannot."""
    from dataclasses import asdict

    from cfpairs.workflow.doctor import examine

    if encoder is not None:
        _measure(encoder, device, features, quiet, as_json)
        return
    if device is not None or features is not None:
        raise ConfigError("--device and --features need an encoder to measure", remedy="add --encoder SPEC")
    findings = examine()
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(f) for f in findings]}, indent=1))
    elif not quiet:
        for finding in findings:
            typer.echo(finding.line)
    if any(f.level == "error" for f in findings):
        raise SystemExit(1)


def _measure(spec: str, device: str | None, features: str | None, quiet: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from cfpairs.config import EncoderConfig, parse_options
    from cfpairs.terminal import RichProgress
    from cfpairs.workflow.doctor import examine_encoder

    given = {"spec": spec, "device": device, "features": features}
    config = parse_options(EncoderConfig, {k: v for k, v in given.items() if v is not None}, "encoder")
    found = examine_encoder(config, RichProgress(quiet=quiet or as_json))
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    elif not quiet:
        for line in found.lines():
            typer.echo(line)


@app.command("list")
def list_names(
    kind: Annotated[str | None, typer.Argument(help="datasets | pairs | editors | encoders | probes")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show every name that can be used."""
    from cfpairs.registry import KINDS, entries

    kinds = KINDS if kind is None else (kind,)
    found = {k: {name: entry.summary for name, entry in entries(k).items()} for k in kinds}
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    elif not quiet:
        for k, names in found.items():
            typer.echo(k)
            width = max(map(len, names), default=0)
            for name, summary in names.items():
                typer.echo(f"  {name:<{width}}  {summary}")


if __name__ == "__main__":
    main()
