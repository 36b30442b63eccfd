"""The command line: ``slm-benchmark COMMAND``. Each command is one function of the library."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slm_benchmark import __version__
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.machine import default_threads
from slm_benchmark.common.process_environment import settle

RENAMED = {"compare-profiles": "compare-performance", "plan": "sample-size"}
"""Former name of a command → its name. The former names work for one more release."""

EXIT_CODES = {
    0: "success",
    1: "bad input, or an environment error such as a full disk; one line says which",
    2: "wrong usage: an unknown command or option, or one that is missing",
}
"""How every command ends, unless its own codes say more."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: What the user types.
        group: Heading under which the help lists it.
        run: The function behind it; its docstring is the description, and the first line of that
            the line in the list of commands.
        add_arguments: Gives the command's parser its arguments and options.
        exit_codes: Meaning of exit codes where it differs from `EXIT_CODES`.
    """

    name: str
    group: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    exit_codes: Mapping[int, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """What the command does, as paragraphs."""
        return inspect.getdoc(self.run) or ""

    @property
    def summary(self) -> str:
        """What the command does, on one line."""
        return self.description.split("\n")[0].rstrip(".")

    @property
    def all_exit_codes(self) -> dict[int, str]:
        """Exit code → meaning, in the order of the codes."""
        return dict(sorted({**EXIT_CODES, **self.exit_codes}.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; or 1 after bad input or an environment error, reported in one line, and after a check
        that failed.
    """
    settle()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and (name := RENAMED.get(arguments[0])):
        print(
            f"warning: the command {arguments[0]} is now called {name}; the next release drops the "
            f"former name. Fix: slm-benchmark {name}",
            file=sys.stderr,
        )
        arguments = [name, *arguments[1:]]
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, with the commands of `COMMANDS`."""
    groups: dict[str, list[Command]] = {}
    for command in COMMANDS:
        groups.setdefault(command.group, []).append(command)
    listing = "\n\n".join(
        "\n".join([f"{group}:", *(f"  {each.name:<21} {each.summary}" for each in members)])
        for group, members in groups.items()
    )
    parser = argparse.ArgumentParser(
        prog="slm-benchmark",
        usage="slm-benchmark [--help] [--version] COMMAND ...",
        description="Measure small language models, and check, publish and export the results.\n\n"
        f"{listing}\n\nslm-benchmark COMMAND --help explains a command. Measuring itself is "
        "started with\nsnakemake: docs/start/quickstart.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parsers = parser.add_subparsers(
        metavar="COMMAND", required=True, prog=parser.prog, help=argparse.SUPPRESS
    )
    for command in COMMANDS:
        codes = "\n".join(f"  {code:<3} {text}" for code, text in command.all_exit_codes.items())
        subparser = parsers.add_parser(
            command.name,
            description=command.description,
            epilog=f"exit codes:\n{codes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "cards",
        nargs="*",
        type=Path,
        metavar="CARD",
        help="model card to check, a file (default: all of models/)",
    )


def _pin_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="model card, or config/datasets.yaml"
    )


def _sample_size_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--margin",
        required=True,
        metavar="LOSS",
        help="smallest loss to detect, in percentage points or as a share of the score's range: "
        "1pp, 0.5pp, 1%% or 0.01",
    )
    parser.add_argument("--task", required=True, metavar="ID", help="task in config/tasks.yaml")
    parser.add_argument(
        "--model",
        metavar="ID",
        help="model whose records are used (default: all models that have records)",
    )
    parser.add_argument(
        "--variant",
        metavar="ID",
        help="weight format to compare with the base, such as gguf-q4_k_m (default: the recorded "
        "one that changes most outcomes)",
    )
    parser.add_argument(
        "--hardware",
        metavar="ID",
        help="machine in config/hardware.yaml to estimate the time for (default: all machines)",
    )
    parser.add_argument(
        "--power",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="probability of detecting the loss, from 0.5 to below 1 (default: 0.8)",
    )
    parser.add_argument(
        "--documents",
        type=int,
        metavar="N",
        help="also report the smallest detectable loss and the time for N documents "
        "(default: only the sizes of the task's datasets and protocols)",
    )


def _check_engine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="id of a model card, a GGUF file, or a folder in Transformers format",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="ID",
        help="weight formats of the card to check (default: all that are on this machine)",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="tokenizer in Transformers format, required with a GGUF file (default: the model's)",
    )
    _add_threads(parser)


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "answers",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="stored generations: a *.answers.json file, or a folder to search for them",
    )
    parser.add_argument(
        "--judge",
        metavar="ID",
        help="judge in config/judges.yaml, for tasks that need one (default: none; their cells "
        "are recorded as not run)",
    )
    _add_threads(parser, "CPU threads of a judge that runs on this machine")


def _compare_performance_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "first",
        type=Path,
        metavar="FIRST",
        help="performance record, or a folder to search for them",
    )
    parser.add_argument(
        "second", type=Path, metavar="SECOND", help="the repeat: a record, or a folder, like FIRST"
    )
    parser.add_argument(
        "--at-least",
        type=float,
        default=90,
        metavar="PERCENT",
        help="fail when a smaller percentage of the medians lies inside the prediction intervals "
        "(default: 90)",
    )


def _import_power_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "readings",
        type=Path,
        metavar="READINGS",
        help="CSV file with the columns power_w (watts) and unix_s (seconds) or time (ISO 8601 "
        "with a time zone)",
    )
    parser.add_argument(
        "record",
        type=Path,
        metavar="RECORD",
        help="performance record under runs/ to fill in, in place",
    )
    parser.add_argument(
        "--name",
        default="not named",
        help="make and model of the wall meter, for readers of the record (default: not named)",
    )


def _publish_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "records",
        nargs="*",
        type=Path,
        metavar="RECORD",
        help="record, or a folder to search for them (default: none; only the summaries and the "
        "index of results/ are written again)",
    )
    parser.add_argument(
        "--label",
        metavar="PROTOCOL",
        help="name of the records' protocol, required where it is not ranked, such as demo "
        "(default: none)",
    )


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        metavar="PATH",
        help="record of a score; with --all, a folder of records (default: with --all results/)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="verify the current score of every cell in the folder (default: one record)",
    )
    parser.add_argument(
        "--documents",
        type=int,
        metavar="N",
        help="verify a random sample of N documents (default: all)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the random sample, so that it can be drawn again (default: 0)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads (default: as many as the record names)",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="folder for the new records; a stopped command continues from it (default: they are "
        "deleted)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="file to write the outcome to, as JSON (default: none)",
    )


def _integrity_arguments(parser: argparse.ArgumentParser) -> None:
    _add_results(parser)
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="manifest.json of an earlier release, to compare with as well (default: only the "
        "folder's own)",
    )


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _add_results(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/export"),
        metavar="FOLDER",
        help="folder to write (default: build/export)",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        metavar="FORMAT",
        help="csv, parquet, eee (Every Eval Ever), hf (.eval_results of Hugging Face) or croissant "
        "(default: all)",
    )
    parser.add_argument(
        "--url",
        help="address at which the results are published, for formats that name it "
        "(default: url in CITATION.cff)",
    )


def _link_profiles_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace links that lead to another clone (default: leave them and warn)",
    )


def _add_threads(parser: argparse.ArgumentParser, meaning: str = "CPU threads") -> None:
    parser.add_argument(
        "--threads",
        type=int,
        default=default_threads(),
        metavar="N",
        help=f"{meaning} (default: all that may be used)",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        metavar="RESULTS",
        help="folder of published records (default: results/)",
    )


def _validate(options: argparse.Namespace) -> int:
    """Check model cards and the configuration.

    Prints a line for each valid card, and a warning where one cannot be published
    as it is. Where a model's files are on this machine, the card is compared with
    them. The first error ends the command.
    """
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.catalog.model_cards import load_model
    from slm_benchmark.catalog.run_config import RunConfig
    from slm_benchmark.common.files import read_yaml
    from slm_benchmark.common.paths import CONFIG
    from slm_benchmark.download.at_hand import check_downloaded, check_local

    cards = [load_model(card) for card in options.cards]
    catalogue = load_catalogue()
    RunConfig.from_config(read_yaml(CONFIG / "config.yaml"), catalogue)
    shown = cards or list(catalogue.models.values())
    for warning in [warning for card in shown for warning in card.warnings]:
        print(f"warning: {warning}", file=sys.stderr)
    for card in shown:
        check_downloaded(card)
        check_local(card)
    for card in shown:
        variants = ", ".join(card.possible_variants)
        print(f"{card.file}: valid ({card.name}, {card.parameters / 1e6:.0f} M, {variants})")
    return 0


def _pin(options: argparse.Namespace) -> int:
    """Resolve revisions to commits, and write them into the files.

    Looks up which commit the branch of a model or dataset stands at now. Publishing
    needs a commit. Needs the network.
    """
    from slm_benchmark.common.paths import CONFIG
    from slm_benchmark.download.pin import pin_card, pin_datasets

    for file in options.files:
        datasets = file.resolve() == (CONFIG / "datasets.yaml").resolve()
        print(pin_datasets(file) if datasets else pin_card(file))
    return 0


def _publish(options: argparse.Namespace) -> int:
    """Copy records from runs/ to results/.

    All records are checked before the first is copied; a published record is never
    overwritten. The manifest, the summaries and the index of results/ follow.
    """
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.publishing.publish import publish
    from slm_benchmark.records.store import is_record

    records: list[Path] = []
    for path in options.records:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        records += [file for file in files if is_record(file)]
    if options.records and not records:
        raise UserError("no records here", file=options.records[0], fix="measure something first")
    for line in publish(load_catalogue(), records, options.label):
        print(line)
    return 0


def _score(options: argparse.Namespace) -> int:
    """Score stored generations on this machine.

    Writes the record of each score beside the stored generations. No model is
    loaded, except a judge where a task needs one.
    """
    import logging

    # What the harness says while it loads tasks is for its own users.
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("lm_eval").setLevel(logging.ERROR)

    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.evaluation.rescoring import score_stored

    files: list[Path] = []
    for path in options.answers:
        files += sorted(path.rglob("*.answers.json")) if path.is_dir() else [path]
    if not files:
        raise UserError("no answers here", file=options.answers[0], fix="generate some first")
    catalogue = load_catalogue()
    for answers in files:
        for line in score_stored(catalogue, answers, options.judge, options.threads):
            print(line, flush=True)
    return 0


def _check_engine(options: argparse.Namespace) -> int:
    """Test that scores are batch-invariant on a model.

    Compares log-probabilities and generations in batches of several compositions
    and orders, which must be bitwise identical, and with one plain forward pass.
    """
    from slm_benchmark.evaluation.engine_selftest import check_engine, find_targets

    targets = find_targets(options.model, options.variants, options.tokenizer)
    passed = True
    for table, ok in check_engine(targets, options.threads):
        print(table, flush=True)
        passed = passed and ok
    return 0 if passed else 1


def _compare_performance(options: argparse.Namespace) -> int:
    """Test whether a repeated performance measurement agrees.

    Counts the medians of the second measurement that lie inside the 95 %
    prediction intervals of the first. Both must be of the same model, weights,
    protocol and machine.
    """
    from slm_benchmark.profiling.compare import compare, count_inside, render

    comparisons, lacking = compare(options.first, options.second)
    for sentence in lacking:
        print(f"warning: {sentence}", file=sys.stderr)
    inside, medians = count_inside(comparisons)
    for comparison in comparisons:
        print(render(comparison), end="\n\n")
    percent = 100 * inside / medians
    print(
        f"{inside} of {medians} medians ({percent:.1f} %) fall inside the first run's "
        "95 % prediction intervals"
    )
    return 0 if percent >= options.at_least else 1


def _import_power(options: argparse.Namespace) -> int:
    """Add a wall meter's energy to a record.

    Integrates the readings over the times at which tokens were generated, and
    writes the energy into the record under runs/. Publish the record afterwards.
    """
    from slm_benchmark.profiling.energy.wall_meter import import_power

    print(import_power(options.readings, options.record, options.name))
    return 0


def _export(options: argparse.Namespace) -> int:
    """Convert published records to other formats.

    Writes CSV, Parquet, Every Eval Ever, .eval_results and Croissant.
    docs/reference/exports.md describes their columns.
    """
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.common.paths import RESULTS
    from slm_benchmark.export.export import FORMATS, export
    from slm_benchmark.export.project import read_project

    project = read_project(options.url)
    formats = options.format or FORMATS
    for line in export(load_catalogue(), project, options.results or RESULTS, options.out, formats):
        print(line)
    return 0


def _integrity(options: argparse.Namespace) -> int:
    """Check published records for later edits.

    Recomputes digests and scores from the per-document values, compares files with
    the manifest, and looks for values that are impossible. Runs no model.
    """
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.common.paths import RESULTS
    from slm_benchmark.publishing.integrity import check_integrity, describe_report

    results = options.results or RESULTS
    report = check_integrity(load_catalogue(), results.resolve(), options.manifest)
    print(describe_report(report))
    return 1 if report.findings else 0


def _sample_size(options: argparse.Namespace) -> int:
    """Compute how many documents a comparison needs.

    Reports, for a paired comparison of a variant with its base: the documents that
    detect a given loss, the loss that existing datasets and protocols can detect,
    and how long that takes on each machine.
    """
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.leaderboard.sample_size import (
        SampleSizeRequest,
        parse_margin,
        recorded_runs,
        sample_size_report,
    )

    request = SampleSizeRequest(
        task=options.task,
        margin=parse_margin(options.margin),
        power=options.power,
        model=options.model,
        variant=options.variant,
        hardware=options.hardware,
        documents=options.documents,
    )
    print(sample_size_report(request, load_catalogue(), recorded_runs()))
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Measure a published score again, and compare.

    Runs the model on the inputs that the record names. Weights and datasets that
    are missing are made as the workflow makes them. With --all, the exit code is
    the highest of all records. docs/how-to/verifying.md explains the verdicts.
    """
    from slm_benchmark.publishing.verify.command import verify_one, verify_release

    if options.all:
        return verify_release(options)
    if options.path is None:
        raise UserError("no record is named", fix="name one, or give --all")
    return verify_one(options)


def _link_profiles(options: argparse.Namespace) -> int:
    """Make the profiles known to snakemake.

    Links each folder of profiles/ into Snakemake's configuration folder, so that
    snakemake --profile NAME finds it.
    """
    from slm_benchmark.common.paths import ROOT
    from slm_benchmark.workflow.profile_links import config_folder, link_profiles

    folder = config_folder()
    warnings = link_profiles(folder, ROOT, replace=options.replace)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not warnings:
        print(f"linked the profiles of {ROOT} into {folder}")
    return 1 if warnings else 0


BEFORE = "Before measuring"
MEASURED = "Measured results"
PUBLISHED = "Published results"
SET_UP = "Set-up"

COMMANDS = (
    Command("validate", BEFORE, _validate, _validate_arguments),
    Command("pin", BEFORE, _pin, _pin_arguments),
    Command("sample-size", BEFORE, _sample_size, _sample_size_arguments),
    Command(
        "check-engine",
        BEFORE,
        _check_engine,
        _check_engine_arguments,
        {0: "all tests passed", 1: f"a test failed; or {EXIT_CODES[1]}"},
    ),
    Command("score", MEASURED, _score, _score_arguments),
    Command(
        "compare-performance",
        MEASURED,
        _compare_performance,
        _compare_performance_arguments,
        {
            0: "enough medians lie inside the intervals",
            1: f"fewer do than --at-least wants; or {EXIT_CODES[1]}",
        },
    ),
    Command("import-power", MEASURED, _import_power, _import_power_arguments),
    Command("publish", MEASURED, _publish, _publish_arguments),
    Command(
        "verify",
        PUBLISHED,
        _verify,
        _verify_arguments,
        {
            0: "identical",
            3: "agrees",
            4: "underpowered",
            5: "not verified: there is no score to repeat, or nothing could be run here",
            6: "changed input, named before anything is computed",
            7: "disagrees",
            130: "stopped with Ctrl-C",
        },
    ),
    Command(
        "integrity",
        PUBLISHED,
        _integrity,
        _integrity_arguments,
        {0: "no findings", 1: f"findings, each on a line; or {EXIT_CODES[1]}"},
    ),
    Command("export", PUBLISHED, _export, _export_arguments),
    Command(
        "link-profiles",
        SET_UP,
        _link_profiles,
        _link_profiles_arguments,
        {1: "something is in the way of a link; a warning names it and the fix"},
    ),
)
"""All commands, in the order of the help."""


if __name__ == "__main__":
    sys.exit(main())
