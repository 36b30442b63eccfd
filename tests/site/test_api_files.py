"""The static API and its client, from outside: files, schemas, tables, requests, examples."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pyarrow.compute
import pyarrow.parquet
import pytest

from slm_benchmark.api import Leaderboard
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import read_json, sha256_file, write_text
from slm_benchmark.common.paths import RESULTS, ROOT
from slm_benchmark.common.schemas import validate
from slm_benchmark.leaderboard.board import render_table
from slm_benchmark.site.api_files import SCHEMAS, write_api
from tests.support.sites import HOSTILE, Quiet, serving, write_leaderboard

Record = Any

PLACEHOLDER = "https://example.org/slm-benchmark"
"""The address in the examples of docs/reference/api.md."""

PROMISE = Path(__file__).with_name("api_v1.txt")
"""What version 1 of the API holds: a line for each key and column, with its types."""

TABLES = ("rows", "scores", "performance")
KEY = ["model", "variant", "hardware", "protocol"]
BREAKS = "first line\nsecond; \"line\", with 'quotes'\tand a tab"


def reports(model: str) -> dict[str, Record]:
    """A published quantization report, as if it were of another model."""
    (path,) = RESULTS.glob("*/quantization.json")
    return {model: read_json(path) | {"model": model}}


def write(folder: Path, board: Record) -> Path:
    """The API of a board below a folder, as it lies in a site."""
    source = folder / "source"
    source.mkdir(parents=True)
    leaderboard = write_leaderboard(source, board)
    write_text(leaderboard.with_suffix(".csv"), render_table(board))
    target = folder / "slm-benchmark" / "api" / "v1"
    write_api(target, board, leaderboard, reports("evil-1b"))
    return target


@pytest.fixture(scope="module")
def hostile(board: Record) -> Record:
    """The synthetic board with texts that break careless readers."""
    changed = copy.deepcopy(board)
    changed["models"]["alpha-135m"]["name"] = "NA"
    changed["models"]["zeta-3.8b"]["license"] = "null"
    changed["rows"][0]["scores"]["gsm8k"]["reason"] = BREAKS
    return changed


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, hostile: Record) -> Path:
    return write(tmp_path_factory.mktemp("api"), hostile)


@pytest.fixture
def damaged(tmp_path: Path, api: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(api, tmp_path / "v1")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def json_files(api: Path) -> dict[str, Record]:
    """Path → content of every JSON file; NaN is refused."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return {
        path.relative_to(api).as_posix(): json.loads(path.read_text(), parse_constant=refuse)
        for path in sorted(api.rglob("*.json"))
    }


def schemas(api: Path) -> dict[str, Record]:
    return {path.name.split(".")[0]: read_json(path) for path in (api / "schemas").iterdir()}


# Files


def test_the_index_lists_every_other_file_with_its_size_and_digest(
    api: Path, hostile: Record
) -> None:
    index = read_json(api / "index.json")
    found = {p.relative_to(api).as_posix(): p for p in api.rglob("*") if p.is_file()}
    assert index["files"].keys() == found.keys() - {"index.json"}
    for name, listed in index["files"].items():
        assert listed["sha256"] == sha256_file(found[name])
        assert listed["size_bytes"] == found[name].stat().st_size
    assert index["api_version"].startswith("1.")
    assert index["edition"] == hostile["edition"]
    assert index["records_sha256"] == hostile["records_sha256"]
    assert index["license"]["id"] == "CC-BY-4.0"


def test_the_files_are_those_of_the_documentation(api: Path, hostile: Record) -> None:
    documented = set(re.findall(r"`([a-z{}/._-]+\.(?:json|csv|parquet))`", DOCUMENTATION))
    kinds = {
        re.sub(r"(?<=^models/).+(?=\.json)|(?<=^quantization/).+(?=\.json)", "{id}", name)
        for name in read_json(api / "index.json")["files"]
    }
    kinds = {re.sub(r"(?<=^schemas/)\w+", "{kind}", name) for name in kinds}
    assert kinds | {"index.json"} <= documented
    for name in re.findall(r"api/v1/([\w./-]+)", DOCUMENTATION):
        assert name.startswith("models/") or (api / name).exists(), name
    assert {p.stem for p in (api / "models").iterdir()} == hostile["models"].keys()


def test_a_board_gives_the_same_bytes_again(tmp_path: Path, api: Path, hostile: Record) -> None:
    again = write(tmp_path, hostile)
    assert (again / "index.json").read_bytes() == (api / "index.json").read_bytes()


def test_the_leaderboard_is_the_one_that_the_site_shows(api: Path, hostile: Record) -> None:
    assert read_json(api / "leaderboard.json") == hostile
    assert (api / "leaderboard.csv").read_text() == render_table(hostile)


def test_lists_hold_what_the_leaderboard_refers_to(api: Path, hostile: Record) -> None:
    models = {model["id"]: model for model in read_json(api / "models.json")["models"]}
    for model, card in hostile["models"].items():
        rows = [row for row in hostile["rows"] if row["model"] == model]
        assert models[model].items() >= card.items()
        assert models[model]["row_count"] == len(rows)
        own = read_json(api / models[model]["file"])
        assert own["model"] == models[model]
        assert own["rows"] == rows
    assert read_json(api / "tasks.json")["tasks"] == hostile["tasks"]
    for name, key in (("protocols", "protocol"), ("hardware", "hardware")):
        for entry in read_json(api / f"{name}.json")[name]:
            assert entry.items() >= hostile[name][entry["id"]].items()
            assert entry["row_count"] == sum(row[key] == entry["id"] for row in hostile["rows"])


def test_reports_are_there_for_the_models_that_have_one(api: Path) -> None:
    listed = {m["id"]: m["quantization_file"] for m in read_json(api / "models.json")["models"]}
    assert {model for model, file in listed.items() if file} == {"evil-1b"}
    assert read_json(api / listed["evil-1b"]) == reports("evil-1b")["evil-1b"]


def test_the_site_holds_the_api_and_leads_to_it(site: Path) -> None:
    found = Leaderboard.open(site)
    for path in found.index["files"]:
        found.read(path)
    policy, anchor = found.index["policy"].split("#")
    explained = (site / "api" / "v1" / policy).resolve()
    assert f'id="{anchor}"' in explained.read_text()
    page = (site / "data.html").read_text()
    links = re.findall(r'href="(api/v1/[^"]+)"', page)
    assert {"api/v1/index.json", "api/v1/leaderboard.csv", "api/v1/rows.parquet"} <= {*links}
    assert all((site / link).is_file() for link in links)
    assert 'href="docs/reference/api.html#versions"' in page


# Schemas


def test_every_json_file_fits_its_schema(api: Path) -> None:
    files, index = json_files(api), read_json(api / "index.json")
    checked = set()
    for name, content in files.items():
        if name.startswith("schemas/"):
            jsonschema.Draft202012Validator.check_schema(content)
            continue
        path = index["files"].get(name, {"schema": "schemas/index.schema.json"})["schema"]
        jsonschema.Draft202012Validator(
            files[path], format_checker=jsonschema.FormatChecker()
        ).validate(content)
        checked.add(path)
    assert checked == {name for name in files if name.startswith("schemas/")}


def test_schemas_are_complete_in_themselves(api: Path) -> None:
    for name, schema in schemas(api).items():
        references = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema)))
        assert {r.removeprefix("#/$defs/") for r in references} == schema["$defs"].keys(), name
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("kind", ["index", "leaderboard", "model", "models", "tables"])
def test_a_saved_schema_allows_what_later_files_add_and_nothing_that_they_take(
    api: Path, kind: str
) -> None:
    name = "models/evil-1b.json" if kind == "model" else f"{kind}.json"
    validator = jsonschema.Draft202012Validator(schemas(api)[kind])
    for home in objects(read_json(api / name)):
        if "schema_version" in home:
            assert validator.is_valid({**home, "unheard_of": 1})
            assert not validator.is_valid({k: v for k, v in home.items() if k != "schema_version"})
            assert not validator.is_valid({**home, "schema_version": 99})


def objects(part: Any) -> Iterator[Record]:
    if isinstance(part, dict):
        yield part
    for child in (
        part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    ):
        yield from objects(child)


def test_every_key_is_described(api: Path) -> None:
    """The schemas of the workflow, which allow nothing that they do not name, fit all the same."""
    index, found = read_json(api / "index.json"), schemas(api)
    card, own = found["models"]["$defs"]["model"]["allOf"]
    card = found["models"]["$defs"][card["$ref"].removeprefix("#/$defs/")]
    for name, content in json_files(api).items():
        path = index["files"].get(name, {"schema": None})["schema"]
        kind = Path(path).name.split(".")[0] if path else None
        if kind == "models":
            described = {*card["properties"], *own["properties"]}
            assert all({*model} <= described for model in content["models"])
        elif kind not in ("model", None):
            validate(content, SCHEMAS[kind], name)


# The promise of version 1


def promise(api: Path) -> list[str]:
    """A line for each key of each kind of file and for each column, with its types."""

    def types(schema: Record, part: Record) -> str:
        part = resolved(schema, part)
        if "anyOf" in part:
            return "|".join(sorted({types(schema, choice) for choice in part["anyOf"]}))
        if "const" in part:
            return json.dumps(part["const"])
        if "enum" in part:
            return "|".join(sorted({"null" if v is None else "string" for v in part["enum"]}))
        named = part.get("type", "any")
        return named if isinstance(named, str) else "|".join(sorted(named))

    def resolved(schema: Record, part: Record) -> Record:
        if "$ref" in part:
            beside = {key: value for key, value in part.items() if key not in ("$ref", "required")}
            return resolved(schema, schema["$defs"][part["$ref"].removeprefix("#/$defs/")]) | beside
        return part

    def lines(schema: Record, part: Record, path: str) -> Iterator[str]:
        part = resolved(schema, part)
        for inside in (*part.get("anyOf", ()), *part.get("allOf", ())):
            yield from lines(schema, inside, path)
        required = part.get("required", ())
        for key, child in part.get("properties", {}).items():
            mark = "" if key in required else "?"
            yield f"{path}.{key}{mark}: {types(schema, child)}"
            yield from lines(schema, child, f"{path}.{key}")
        for word, sign in (("additionalProperties", ".*"), ("items", "[]")):
            if isinstance(child := part.get(word), dict):
                yield f"{path}{sign}: {types(schema, child)}"
                yield from lines(schema, child, f"{path}{sign}")

    found = {line for kind, s in schemas(api).items() for line in lines(s, s, kind)}
    for table in read_json(api / "tables.json")["tables"]:
        found |= {f"{table['name']}[{c['name']}]: {c['kind']}" for c in table["columns"]}
    return sorted(found)


def test_version_1_keeps_its_promise(api: Path) -> None:
    kept, found = PROMISE.read_text().splitlines(), promise(api)
    assert [line for line in kept if line not in found] == [], (
        "docs/reference/api.md promises these; without them it would be api/v2"
    )
    assert [line for line in found if line not in kept] == [], (
        f"additions: put them into {PROMISE.name}, and raise the second number of VERSION"
    )


# Tables


def arrow(api: Path, name: str) -> list[Record]:
    rows: list[Record] = pyarrow.parquet.read_table(api / f"{name}.parquet").to_pylist()
    return rows


@pytest.mark.parametrize("name", TABLES)
def test_csv_and_parquet_hold_the_same_values(api: Path, name: str) -> None:
    columns = {
        column["name"]: column["kind"]
        for table in read_json(api / "tables.json")["tables"]
        if table["name"] == name
        for column in table["columns"]
    }
    rows = arrow(api, name)
    assert [*rows[0]] == [*columns]
    assert Leaderboard.open(api).table(name) == rows
    frame = Leaderboard.open(api).frame(name)
    assert [*frame.columns] == [*columns]
    plain = frame.astype(object).where(frame.notna(), None)
    assert plain.to_dict("records") == rows


def test_no_table_has_a_nan_or_an_empty_text(api: Path) -> None:
    for name in TABLES:
        for row in arrow(api, name):
            assert "" not in row.values()
            assert not any(isinstance(v, float) and not math.isfinite(v) for v in row.values())


def test_scores_are_those_of_the_leaderboard(api: Path, hostile: Record) -> None:
    lines = {(*(line[k] for k in KEY), line["task"]): line for line in arrow(api, "scores")}
    cells = {
        (*(row[k] for k in KEY), task): (row, cell)
        for row in hostile["rows"]
        for task, cell in row["scores"].items()
    }
    assert [*lines] == [*cells]
    for key, (row, cell) in cells.items():
        line = lines[key]
        same = ["state", "value", "stderr", "n", "metric", "filter", "chance", "unit", "reason"]
        same += ["dataset", "dataset_sha256", "record"]
        assert {name: line[name] for name in same} == {name: cell[name] for name in same}
        assert [line["ci95_low"], line["ci95_high"]] == (cell["ci95"] or [None, None])
        assert (line["warnings"] or "") == "; ".join(cell["warnings"])
        assert (line["parts"] or "").split() == cell["parts"]
        assert line["ranked"] == row["ranked"]
        assert line["value"] is not None or line["reason"]


def test_performance_is_that_of_the_leaderboard(api: Path, hostile: Record) -> None:
    found = iter(arrow(api, "performance"))
    for row in hostile["rows"]:
        grid = [(point, "grid") for point in row["measurement"]["grid"]]
        for point, place in [({"metrics": row["performance"]}, "reference"), *grid]:
            for metric, quantity in point["metrics"].items():
                line = next(found)
                assert [line[k] for k in KEY] == [row[k] for k in KEY]
                assert (line["metric"], line["point"]) == (metric, place)
                same = ("value", "n", "reason")
                assert [line[k] for k in same] == [quantity[k] for k in same]
                for ends in ("ci95", "pi95"):
                    interval = [line[f"{ends}_low"], line[f"{ends}_high"]]
                    assert interval == (quantity[ends] or [None, None])
                assert line["hardware_fingerprint"] == row["fingerprint"]
                assert line["energy_label"] == row["measurement"]["energy"]["label"]
                assert line["flagged"] is bool(row["measurement"]["warnings"])
                assert line["value"] is not None or line["reason"]
                if place == "grid":
                    lengths = ("prompt_tokens", "output_tokens", "sequences")
                    assert [line[k] for k in lengths] == [point[k] for k in lengths]
    assert next(found, None) is None


def test_rows_are_those_of_the_leaderboard_and_of_its_csv(api: Path, hostile: Record) -> None:
    lines = arrow(api, "rows")
    wide = pd.read_csv(api / "leaderboard.csv")
    for place, (row, line) in enumerate(zip(hostile["rows"], lines, strict=True)):
        same = (*KEY, "quantization", "ranked", "size_bytes", "effective_bits_per_weight")
        assert [line[k] for k in same] == [row[k] for k in same]
        assert line["model_name"] == hostile["models"][row["model"]]["name"]
        assert line["license"] == hostile["models"][row["model"]]["license"]
        for name, score in {"overall": row["overall"], **row["categories"]}.items():
            column = name if name == "overall" else f"category_{name}"
            assert line[column] == score["value"]
            assert [line[f"{column}_low"], line[f"{column}_high"]] == (score["ci95"] or [None] * 2)
            assert line[f"{column}_reason"] == score["reason"]
            assert line[column] is not None or line[f"{column}_reason"]
        for cost, front in row["pareto"].items():
            assert line[f"pareto_{cost}"] is front["front"]
        for metric, quantity in row["performance"].items():
            if metric != "size_bytes":
                assert line[metric] == quantity["value"]
                assert line[f"{metric}_reason"] == quantity["reason"]
        for column in {*wide.columns} & {*line} - {"ranked"}:
            shown = wide[column][place]
            assert line[column] == (None if pd.isna(shown) else shown), column


def test_hostile_texts_survive(api: Path) -> None:
    found = Leaderboard.open(api)
    names = {row["model"]: row["model_name"] for row in arrow(api, "rows")}
    assert names["evil-1b"] == HOSTILE
    assert names["alpha-135m"] == "NA"
    frame = found.frame("rows")
    assert {*frame.model_name} == {*names.values()}
    assert "null" in {*frame.license}
    assert BREAKS in {score["reason"] for score in found.scores(task="gsm8k")}
    assert found.model("evil-1b")["model"]["name"] == HOSTILE


def test_a_row_that_was_never_profiled_has_reasons_and_no_measurement(
    tmp_path: Path, board: Record
) -> None:
    changed = copy.deepcopy(board)
    row = changed["rows"][0]
    row["measurement"] = row["fingerprint"] = None
    nothing = {"value": None, "ci95": None, "pi95": None, "n": 0, "reason": "not measured yet"}
    row["performance"] = dict.fromkeys(row["performance"], nothing)
    api = write(tmp_path, changed)
    line = arrow(api, "rows")[0]
    assert line["engine"] is line["hardware_fingerprint"] is line["ttft_ms"] is None
    assert line["ttft_ms_reason"] == "not measured yet"
    speeds = Leaderboard.open(api).performance(**{key: row[key] for key in KEY})
    assert {speed["reason"] for speed in speeds} == {"not measured yet"}
    assert len(speeds) == len(row["performance"])


# The client


def test_all_places_give_the_same(api: Path, hostile: Record) -> None:
    site = api.parents[1]
    with serving(site.parent) as address:
        places: list[str | Path] = [
            site,
            str(site),
            api,
            api / "index.json",
            site.as_uri(),
            api.as_uri(),
        ]
        web = f"{address}/slm-benchmark"
        places += [web, f"{web}/", f"{web}/index.html#protocol=full", f"{web}/data.html"]
        places += [f"{web}/api/v1", f"{web}/api/v1/", f"{web}/api/v1/index.json"]
        for place in places:
            found = Leaderboard.open(place)
            assert found.rows() == hostile["rows"]
            assert found.address.startswith("http") == str(place).startswith("http")
            assert len(found.models()) == len(hostile["models"])


def test_the_client_chooses_by_ids(api: Path, hostile: Record) -> None:
    found = Leaderboard.open(api)
    rows = found.rows(protocol="full", hardware="t4")
    assert rows == [
        row for row in hostile["rows"] if (row["protocol"], row["hardware"]) == ("full", "t4")
    ]
    assert found.rows(model="alpha-135m", protocol="full", hardware="t4") == rows
    scores = found.scores(task="mmlu", model="evil-1b", variant="base", protocol="demo")
    assert [score["value"] for score in scores] == [
        row["scores"]["mmlu"]["value"]
        for row in hostile["rows"]
        if (row["model"], row["variant"], row["protocol"]) == ("evil-1b", "base", "demo")
    ]
    speeds = found.performance(metric="ttft_ms", protocol="demo")
    assert {speed["metric"] for speed in speeds} == {"ttft_ms"}
    report = found.quantization("evil-1b")
    assert report is not None
    assert report["model"] == "evil-1b"
    assert found.quantization("alpha-135m") is None
    assert {task["id"] for task in found.tasks()} == {task["id"] for task in hostile["tasks"]}
    assert {p["id"]: p["ranked"] for p in found.protocols()} == {"demo": False, "full": True}
    assert {machine["id"] for machine in found.hardware()} == {"local", "t4"}


def test_a_file_is_asked_for_once(api: Path) -> None:
    asked: list[str] = []

    class Counting(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    with serving(api.parents[1], Counting) as address:
        found = Leaderboard.open(address)
        assert asked == ["/api/v1/index.json"]
        for task in ("mmlu", "bold"):
            found.scores(task=task)
        found.rows(model="evil-1b")
    assert len(asked) == len({*asked})
    assert "/api/v1/leaderboard.json" not in asked


def cut(data: bytes) -> bytes:
    return data[:-10]


def lengthen(data: bytes) -> bytes:
    return data + b"x" * 1000


def alter(data: bytes) -> bytes:
    return data.replace(b"0.", b"1.", 1)


@pytest.mark.parametrize(
    ("change", "field"), [(cut, "size_bytes"), (lengthen, "size_bytes"), (alter, "sha256")]
)
@pytest.mark.parametrize("over_http", [False, True])
def test_a_file_that_is_not_the_listed_one_is_refused(
    damaged: Path, change: Callable[[bytes], bytes], field: str, over_http: bool
) -> None:
    path = damaged / "scores.csv"
    path.write_bytes(change(path.read_bytes()))
    with serving(damaged) if over_http else contextlib.nullcontext(damaged) as place:
        if over_http:
            (damaged / "api").mkdir()
            (damaged / "api" / "v1").symlink_to(damaged)
        found = Leaderboard.open(place)
        with pytest.raises(UserError, match=rf"scores\.csv: {field}: .*\. Fix: open") as raised:
            found.scores()
        assert str(found.address) in str(raised.value)
        assert "\n" not in str(raised.value)
        assert len(found.performance()) > 0


def edit_index(folder: Path, **changes: object) -> None:
    write_text(folder / "index.json", json.dumps(read_json(folder / "index.json") | changes))


@pytest.mark.parametrize("version", ["2.0", "10.1", "0.9"])
def test_another_version_is_refused(damaged: Path, version: str) -> None:
    edit_index(damaged, api_version=version)
    with pytest.raises(
        UserError,
        match=rf"index\.json: api_version: this client reads version 1 \(got '{version}'\)\. Fix: ",
    ):
        Leaderboard.open(damaged)


def test_what_later_versions_add_is_ignored(damaged: Path) -> None:
    index = read_json(damaged / "index.json")
    more = {"size_bytes": 1, "sha256": "0", "schema": None, "new": True}
    edit_index(damaged, api_version="1.7", files=index["files"] | {"new.bin": more}, ends=None)
    assert Leaderboard.open(damaged).scores(task="mmlu")


@pytest.mark.parametrize("content", ["[]", "{}", '{"api_version": 1, "files": {}}', "null"])
def test_another_index_is_refused(damaged: Path, content: str) -> None:
    write_text(damaged / "index.json", content)
    with pytest.raises(UserError, match=r"index\.json: api_version: not the index of this API"):
        Leaderboard.open(damaged)


def test_a_page_instead_of_the_index_is_refused(damaged: Path) -> None:
    for content in ("<!doctype html>", read_json(damaged / "index.json").__repr__(), "\ufffd{"):
        write_text(damaged / "index.json", content)
        with pytest.raises(UserError, match=r"index\.json: not JSON: .*Fix: name the address"):
            Leaderboard.open(damaged)


def test_a_place_without_the_api_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"api/v1/index\.json: cannot be read: .*Fix: name"):
        Leaderboard.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"place: not an address of the web \(got 's3://x/y'\)"):
        Leaderboard.open("s3://x/y")
    with (
        serving(tmp_path) as address,
        pytest.raises(UserError, match=r"api/v1/index\.json: the server answered 404 "),
    ):
        Leaderboard.open(address)


def test_faults_of_the_network_are_told_apart() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(RunEnvironmentError, match=r"cannot be fetched: .*refused.*Fix: check"):
            Leaderboard.open(f"http://127.0.0.1:{port}")
        silent.listen()
        with pytest.raises(RunEnvironmentError, match=r"cannot be fetched: timed out\. Fix: check"):
            Leaderboard.open(f"http://127.0.0.1:{port}", timeout_s=0.2)


def test_unknown_names_are_refused_with_the_nearest(api: Path) -> None:
    found = Leaderboard.open(api)
    with pytest.raises(UserError, match=r"models\.json: id: .*'evil-1'.*did you mean 'evil-1b'"):
        found.model("evil-1")
    with pytest.raises(UserError, match=r"models\.json: id: .*no such model"):
        found.quantization("../../secret")
    with pytest.raises(UserError, match=r"tables: .*'score'.*did you mean 'scores'"):
        found.frame("score")
    with pytest.raises(UserError, match=r"index\.json: files: .*did you mean 'tasks\.json'"):
        found.read("task.json")
    with pytest.raises(TypeError):
        found.scores(language="en")  # type: ignore[call-arg]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "no_proxy": "*", **environment},
    )


def test_the_client_needs_the_standard_library_alone(api: Path) -> None:
    code = f"""
import sys
sys.modules["pandas"] = None
from slm_benchmark.api import Leaderboard
board = Leaderboard.open({str(api)!r})
board.scores(), board.performance(), board.rows(), board.quantization("evil-1b")
own = {{"slm_benchmark", "pandas"}}
loaded = {{name.split(".")[0] for name in sys.modules}}
print(sorted(loaded - sys.stdlib_module_names - own - {{"__main__"}}))
try:
    board.frame("rows")
except Exception as error:
    print(type(error).__name__, error)
"""
    # -S: nothing of site-packages is there to be imported.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[]",
        "UserError this needs pandas. Fix: pip install pandas",
    ]


# The documentation

DOCUMENTATION = (ROOT / "docs" / "reference" / "api.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENTATION, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a site with the published leaderboard, below a path."""
    folder = tmp_path_factory.mktemp("published")
    leaderboard = RESULTS / "leaderboard.json"
    found = {path.parent.name: read_json(path) for path in RESULTS.glob("*/quantization.json")}
    target = folder / "slm-benchmark" / "api" / "v1"
    write_api(target, read_json(leaderboard), leaderboard, found)
    with serving(folder) as address:
        yield f"{address}/slm-benchmark"


def test_the_published_leaderboard_fits_the_published_schemas(published: str) -> None:
    found = Leaderboard.open(published)
    for path, listed in found.index["files"].items():
        if listed["schema"]:
            jsonschema.Draft202012Validator(found.json(listed["schema"])).validate(found.json(path))


def test_the_documentation_has_examples() -> None:
    assert {language: len(examples(language)) for language in ("bash", "python", "r")} == {
        "bash": 1,
        "python": 6,
        "r": 3,
    }
    for example in [*examples("bash"), *examples("python"), *examples("r")]:
        assert PLACEHOLDER in example


@pytest.mark.parametrize("place", range(len(examples("bash"))))
def test_the_examples_for_curl_run(published: str, tmp_path: Path, place: int) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", examples("bash")[place].replace(PLACEHOLDER, published)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "no_proxy": "*"},
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert '"api_version": "1.' in done.stdout
    assert '"smollm2-135m-instruct"' in done.stdout
    assert re.search(r'^ *"scores\.csv": .*"sha256"', done.stdout.splitlines()[-1])


@pytest.mark.parametrize("place", range(len(examples("python"))))
def test_the_examples_for_python_run(published: str, place: int) -> None:
    code = examples("python")[place].replace(PLACEHOLDER, published)
    done = run_python(f"import warnings; warnings.simplefilter('error')\n{code}")
    assert done.stderr == ""
    assert done.returncode == 0
    if "print" in code:
        assert "smollm2-135m-instruct" in done.stdout or "gguf-q8_0" in done.stdout
        assert "Empty DataFrame" not in done.stdout


@pytest.mark.parametrize("place", range(len(examples("r"))))
def test_the_examples_for_r_run(published: str, place: int) -> None:
    code = examples("r")[place].replace(PLACEHOLDER, published)
    needed = re.findall(r"^library\((\w+)\)", code, re.MULTILINE)
    check = "; ".join(f"library({name})" for name in needed) or "1"
    if not shutil.which("Rscript") or subprocess.run(["Rscript", "-e", check]).returncode:
        pytest.skip(f"no R with {', '.join(needed) or 'its base'} here")
    done = subprocess.run(
        ["Rscript", "-e", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "no_proxy": "*"},
    )
    assert done.returncode == 0, done.stderr
    assert "smollm2-135m-instruct" in done.stdout
