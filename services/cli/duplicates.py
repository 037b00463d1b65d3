"""`roadqa datasets duplicates`: clips that show the same thing, within datasets and across them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping

import click
from rich.table import Table
from rich.text import Text

from services.cli import data, show
from services.cli.collect import read_rows
from shared.duplicates import groups
from shared.fingerprint import MARK
from shared.formats.common import one_line
from shared.schema import Clip, Frozen
from shared.store import Store, store


class Member(Frozen):
    """A clip of a group, in one dataset."""

    dataset: str
    clip: str  #: digest
    name: str
    recording: str
    seconds: float


class Found(Frozen):
    """Near-duplicates in datasets."""

    clips: int  #: different ones
    unknown: int  #: of these without a fingerprint, or with one of an earlier version
    groups: tuple[tuple[Member, ...], ...]  #: two clips or more, or one clip in two datasets

    @property
    def across(self) -> int:
        """Groups that lie in more than one dataset."""
        return sum(len({member.dataset for member in group}) > 1 for group in self.groups)


@click.command(
    "duplicates",
    epilog=show.example("roadqa datasets duplicates train", "roadqa datasets duplicates train test"),
)
@click.argument("names", metavar="NAME [OTHER]...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Name the clips of a dataset, or of several, that show the same thing."""
    at = store()
    with show.progress() as progress:
        found = find({name: _clips(at, name, progress) for name in dict.fromkeys(names)})
    if found.unknown:
        what = f"{found.unknown} of {found.clips} clips have no fingerprint of this version"
        click.echo(f"{what}, and are known by their bytes alone; import them again", err=True)
    if as_json:
        listed = {**found.model_dump(mode="json"), "across": found.across}
        click.echo(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    if found.groups:
        show.table(_table(found))
    across = f", {found.across} of them across datasets" if len(set(names)) > 1 else ""
    click.echo(f"{len(found.groups)} groups of near-duplicates among {found.clips} clips{across}")


def find(datasets: Mapping[str, Iterable[Clip]]) -> Found:
    """The near-duplicates among the clips of datasets, by name."""
    held = {name: {clip.digest: clip for clip in clips} for name, clips in datasets.items()}
    different = {digest: clip for clips in held.values() for digest, clip in clips.items()}
    group_of = groups(different.values())
    members: dict[str, list[Member]] = defaultdict(list)
    for name, clips in held.items():
        for digest, clip in sorted(clips.items()):
            member = Member(
                dataset=name, clip=digest, name=clip.name, recording=clip.recording, seconds=round(clip.seconds, 3)
            )
            members[group_of[digest]].append(member)
    return Found(
        clips=len(different),
        unknown=sum(not clip.fingerprint.startswith(MARK) for clip in different.values()),
        groups=tuple(tuple(group) for _, group in sorted(members.items()) if len(group) > 1),
    )


def _clips(store: Store, name: str, progress: data.Progress) -> list[Clip]:
    parts = data.resolve_data(store, name, name, progress)
    found: list[Clip] = []
    for number, part in enumerate(parts, 1):
        found += read_rows(store, (part,))[1].values()
        progress("read", number, len(parts))
    return found


def _table(found: Found) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("group", "dataset", "clip", "recording", "seconds"):
        table.add_column(heading, justify="right" if heading in ("group", "seconds") else "left")
    for number, group in enumerate(found.groups, 1):
        for member in group:
            texts = (one_line(text) for text in (member.dataset, member.name, member.recording))
            table.add_row(str(number), *map(Text, texts), f"{member.seconds:.1f}")
    return table
