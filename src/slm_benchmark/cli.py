"""The command line: ``slm-benchmark COMMAND``. Each command is one function of the library."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from slm_benchmark import __version__
from slm_benchmark.common.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; or 1 after bad input or a fault of the surroundings, told in one line, and after a check
        that failed.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slm-benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    validate = commands.add_parser("validate", help="check model cards and the configuration")
    validate.add_argument("cards", nargs="*", type=Path, help="model cards; none = everything")
    validate.set_defaults(run=_validate)

    pin = commands.add_parser("pin", help="resolve a revision to a commit and write it down")
    pin.add_argument("files", nargs="+", type=Path, help="model cards, or config/datasets.yaml")
    pin.set_defaults(run=_pin)

    publish = commands.add_parser("publish", help="promote records from runs/ to results/")
    publish.add_argument(
        "records",
        nargs="*",
        type=Path,
        help="records, or folders of records; none = make the summaries and the index again",
    )
    publish.add_argument("--label", help="name of the unranked protocol, such as demo")
    publish.set_defaults(run=_publish)

    score = commands.add_parser("score", help="score kept answers, on this machine")
    score.add_argument("answers", nargs="+", type=Path, help="*.answers.json, or folders of them")
    score.add_argument("--judge", help="id in config/judges.yaml, for tasks that ask one")
    score.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of a local judge")
    score.set_defaults(run=_score)

    check = commands.add_parser(
        "check-engine",
        help="test the engines on a model: same numbers in any company, and as a plain forward's",
    )
    check.add_argument(
        "model", metavar="MODEL", help="id of a card, a GGUF file, or a Transformers folder"
    )
    check.add_argument("--variants", nargs="+", help="variants of a card; none = all that are here")
    check.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="for a GGUF file")
    check.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    check.set_defaults(run=_check_engine)

    compare = commands.add_parser(
        "compare-profiles", help="does a repeated profile fall inside the first one's intervals?"
    )
    compare.add_argument("first", type=Path, metavar="FIRST", help="a record, or a folder of them")
    compare.add_argument("second", type=Path, metavar="SECOND", help="its repeat")
    compare.add_argument(
        "--at-least", type=float, default=90, metavar="PERCENT", help="of the medians inside (90)"
    )
    compare.set_defaults(run=_compare_profiles)

    power = commands.add_parser(
        "import-power", help="fill in a record's energy from a wall meter's readings"
    )
    power.add_argument("readings", type=Path, help="CSV with power_w, and unix_s or time")
    power.add_argument("record", type=Path, help="performance record of a variant, under runs/")
    power.add_argument("--name", default="not named", help="the wall meter, such as its model")
    power.set_defaults(run=_import_power)

    export = commands.add_parser("export", help="write the records of results/ in other formats")
    export.add_argument("results", nargs="?", type=Path, help="a folder as results/, the default")
    export.add_argument("--out", type=Path, default=Path("build/export"), help="folder to write")
    export.add_argument(
        "--format", nargs="+", help="of csv, parquet, eee, hf and croissant; none = all of them"
    )
    export.add_argument("--url", help="where the results are published, for exports that name it")
    export.set_defaults(run=_export)

    integrity = commands.add_parser(
        "integrity", help="check published records: digests, scores, the manifest, what is possible"
    )
    integrity.add_argument(
        "results", nargs="?", type=Path, help="a folder as results/, the default"
    )
    integrity.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="a manifest.json kept elsewhere, to compare with too",
    )
    integrity.set_defaults(run=_integrity)

    plan = commands.add_parser(
        "plan", help="how many documents a paired comparison needs, what it shows, and its time"
    )
    plan.add_argument("--margin", required=True, help="loss to be found: 1pp, 0.5pp, 1%% or 0.01")
    plan.add_argument("--task", required=True, help="id in config/tasks.yaml")
    plan.add_argument("--model", help="id of a card; none = whatever has records")
    plan.add_argument("--variant", help="format compared with the base; none = what changes most")
    plan.add_argument("--hardware", help="id in config/hardware.yaml; none = all")
    plan.add_argument("--power", type=float, default=0.8, help="chance of finding the loss (0.8)")
    plan.add_argument("--documents", type=int, metavar="N", help="judge this number of documents")
    plan.set_defaults(run=_plan)

    verify = commands.add_parser(
        "verify",
        help="run a published score again from its recorded inputs, and compare",
        description="Run a published score again from its recorded inputs, and compare. Inputs "
        "that are missing are made as the workflow makes them.",
        epilog="exit codes: 0 identical; 3 agrees; 4 underpowered; 5 not verified, as nothing "
        "could be run here; 6 changed input, named before anything is computed; 7 disagrees; and "
        "1 after bad input or a fault of the surroundings, 2 after bad usage. With --all it is "
        "the highest code of all records. docs/how-to/verifying.md explains them",
    )
    verify.add_argument(
        "path", nargs="?", type=Path, help="a record; with --all a folder, results/ by default"
    )
    verify.add_argument("--all", action="store_true", help="every current score of the folder")
    verify.add_argument(
        "--documents", type=int, metavar="N", help="ask a random part of the documents; none = all"
    )
    verify.add_argument("--seed", type=int, default=0, help="of the random part (0)")
    verify.add_argument("--threads", type=int, help="CPU threads; none = as in the record")
    verify.add_argument("--keep", type=Path, metavar="DIR", help="keep the new records here")
    verify.add_argument("--report", type=Path, metavar="FILE", help="write the outcome as JSON")
    verify.set_defaults(run=_verify)

    link = commands.add_parser("link-profiles", help="let snakemake --profile NAME find profiles/")
    link.add_argument("--replace", action="store_true", help="take over another clone's links")
    link.set_defaults(run=_link_profiles)
    return parser


def _validate(options: argparse.Namespace) -> int:
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.catalog.model_cards import load_model
    from slm_benchmark.catalog.run_config import RunConfig
    from slm_benchmark.common.files import read_yaml
    from slm_benchmark.common.paths import CONFIG

    cards = [load_model(card) for card in options.cards]
    catalogue = load_catalogue()
    RunConfig.from_config(read_yaml(CONFIG / "config.yaml"), catalogue)
    shown = cards or list(catalogue.models.values())
    for warning in [warning for card in shown for warning in card.warnings]:
        print(f"warning: {warning}", file=sys.stderr)
    for card in shown:
        variants = ", ".join(card.variants)
        print(f"{card.file}: valid ({card.name}, {card.parameters / 1e6:.0f} M, {variants})")
    return 0


def _pin(options: argparse.Namespace) -> int:
    from slm_benchmark.common.paths import CONFIG
    from slm_benchmark.download.pin import pin_card, pin_datasets

    for file in options.files:
        datasets = file.resolve() == (CONFIG / "datasets.yaml").resolve()
        print(pin_datasets(file) if datasets else pin_card(file))
    return 0


def _publish(options: argparse.Namespace) -> int:
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.publishing.publish import publish
    from slm_benchmark.records.store import is_record

    records: list[Path] = []
    for path in options.records:
        found = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        records += [file for file in found if is_record(file)]
    if options.records and not records:
        raise UserError("no records here", file=options.records[0], fix="measure something first")
    for line in publish(load_catalogue(), records, options.label):
        print(line)
    return 0


def _score(options: argparse.Namespace) -> int:
    import logging

    # What the harness says while it loads tasks is for its own users.
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("lm_eval").setLevel(logging.ERROR)

    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.evaluation.rescoring import score_kept

    found: list[Path] = []
    for path in options.answers:
        found += sorted(path.rglob("*.answers.json")) if path.is_dir() else [path]
    if not found:
        raise UserError("no answers here", file=options.answers[0], fix="generate some first")
    catalogue = load_catalogue()
    for answers in found:
        for line in score_kept(catalogue, answers, options.judge, options.threads):
            print(line, flush=True)
    return 0


def _check_engine(options: argparse.Namespace) -> int:
    from slm_benchmark.evaluation.engine_selftest import check_engine, find_targets

    targets = find_targets(options.model, options.variants, options.tokenizer)
    well = True
    for table, ok in check_engine(targets, options.threads):
        print(table, flush=True)
        well = well and ok
    return 0 if well else 1


def _compare_profiles(options: argparse.Namespace) -> int:
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
    from slm_benchmark.profiling.energy.wall_meter import import_power

    print(import_power(options.readings, options.record, options.name))
    return 0


def _export(options: argparse.Namespace) -> int:
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
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.common.paths import RESULTS
    from slm_benchmark.publishing.integrity import check_integrity, describe_report

    results = options.results or RESULTS
    report = check_integrity(load_catalogue(), results.resolve(), options.manifest)
    print(describe_report(report))
    return 1 if report.findings else 0


def _plan(options: argparse.Namespace) -> int:
    from slm_benchmark.catalog.catalog import load_catalogue
    from slm_benchmark.leaderboard.sample_size import Question, answer, parse_margin, recorded

    question = Question(
        task=options.task,
        margin=parse_margin(options.margin),
        power=options.power,
        model=options.model,
        variant=options.variant,
        hardware=options.hardware,
        documents=options.documents,
    )
    print(answer(question, load_catalogue(), recorded()))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from slm_benchmark.publishing.verify.command import verify_one, verify_release

    if options.all:
        return verify_release(options)
    if options.path is None:
        raise UserError("no record is named", fix="name one, or give --all")
    return verify_one(options)


def _link_profiles(options: argparse.Namespace) -> int:
    from slm_benchmark.common.paths import ROOT
    from slm_benchmark.workflow.profile_links import config_folder, link_profiles

    folder = config_folder()
    warnings = link_profiles(folder, ROOT, replace=options.replace)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not warnings:
        print(f"linked the profiles of {ROOT} into {folder}")
    return 1 if warnings else 0


if __name__ == "__main__":
    sys.exit(main())
