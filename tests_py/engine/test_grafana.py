"""docs/metrics.md, the dashboard and the alert rules: they name what a worker really serves, and a real Prometheus
scrapes it, takes the rules, and evaluates every expression."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from support.engine import ended, running
from support.scrape import Scrape, get
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job, prometheus
from gendurable_py.cli import app
from gendurable_py.telemetry.collector import Collector

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text("utf-8")
DASHBOARD = json.loads((ROOT / "docs" / "grafana" / "dashboard.json").read_text("utf-8"))
RULES = ROOT / "docs" / "grafana" / "rules.yml"
# Of a parent of several processes; of prometheus_client's own collectors.
BESIDE = {"gendurable_processes", "gendurable_process_deaths_total"}
ENDS = ("bucket", "sum", "count")
OWN = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """What stands in the dashboard and in the rules, with the variables filled in."""
    found = {rule["alert"]: rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "5m")
            found[f"{panel['title']} {target['refId']}"] = re.sub(r"\$(queue|fsm)\b", ".*", text)
    return found


def declared() -> dict[str, tuple[str, tuple[str, ...]]]:
    """The type and the labels of each metric."""
    collector = Collector()
    labels = {f"{each._name}": each._labelnames for each in collector._own}
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for family in collector.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, tuple(labels.get(family.name, getattr(family, "_labelnames", ()))))
    return found


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    found = {}
    text = PAGE[PAGE.index("### Of workers") : PAGE.index("### Names and labels")]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            for name in re.findall(r"`(\w+)`", cells[0]):
                found[f"gendurable_{name}"] = (cells[1], tuple(re.findall(r"`(\w+)`", cells[2])))
    return found


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    assert documented() == declared()


UNITS = ("Instances", "Claims", "Outcomes", "Tries", "Steps", "Runs", "Times", "Calls", "Parts", "Workers", "Rows")


def test_each_help_text_begins_with_the_unit_and_says_what_the_page_says() -> None:
    page = {
        name: cells[3]
        for line in PAGE.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
        for name in re.findall(r"`(\w+)`", cells[0])
    }
    families = {family.name.removeprefix("gendurable_"): family for family in Collector().collect()}
    for name, family in families.items():
        said = page[name + ("_total" if family.type == "counter" else "")]
        unit = family.documentation.split(" ")[0]
        assert len(family.documentation.split()) >= 2, name
        assert (unit == "Seconds") is name.endswith("_seconds"), name
        assert family.documentation.startswith("Seconds of the epoch: ") is name.endswith("_time_seconds"), name
        assert (unit == "1:") is ("1" in re.findall(r"\b1\b", said)), name
        assert unit in (*UNITS, "Seconds", "1:"), name
        assert ("10,000 at most" in family.documentation) is ("10,000 at most" in said), name


def test_every_expression_names_metrics_that_exist() -> None:
    names = set(documented()) | BESIDE | OWN
    names |= {f"{name}_{end}" for name, (kind, _) in documented().items() if kind == "histogram" for end in ENDS}
    for where, text in expressions().items():
        found = set(re.findall(r"\b(?:gendurable|process)_\w+", text))
        assert found, where
        assert found <= names, where


def test_the_page_has_every_alert_and_what_to_do() -> None:
    table = dict(re.findall(r"^\| `(Gendurable\w+)` \| .+? \| (.+?) \|$", PAGE, re.MULTILINE))
    assert list(table) == [rule["alert"] for rule in rules()]
    assert all(len(cure) > 20 for cure in table.values())


def test_the_commands_of_the_page_exist() -> None:
    root: Any = typer.main.get_command(app.make())
    named = re.findall(r"`gendurable ([a-z-]+)[^`]*`", PAGE) + re.findall(r"^gendurable ([a-z-]+)", PAGE, re.MULTILINE)
    assert "worker" in named
    assert set(named) <= set(root.commands)
    options = {option for parameter in root.commands["worker"].params for option in parameter.opts}
    assert set(re.findall(r"--[a-z]+-[a-z]+", PAGE)) <= options


def test_the_yaml_of_the_page() -> None:
    kubernetes, scrape = (yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S))
    [container] = kubernetes["containers"]
    [port] = container["ports"]
    assert container["args"][container["args"].index("--metrics-port") + 1] == str(port["containerPort"])
    for kind, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        assert container[kind]["httpGet"] == {"path": path, "port": port["name"]}
    drain = container["args"][container["args"].index("--drain-timeout") + 1]
    assert kubernetes["terminationGracePeriodSeconds"] >= int(drain.removesuffix("s")) + 15
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:9464"]


def test_the_dashboard_is_one() -> None:
    assert DASHBOARD["uid"] == DASHBOARD["title"] == "gendurable"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        squares = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not squares & places, panel["title"]
        assert all(x < 24 for x, _ in squares)
        places |= squares
    used = set(re.findall(r"\$(\w+)", json.dumps([panel["targets"] for panel in panels()])))
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert used - {"__rate_interval"} == variables - {"datasource"}
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels())


# With a real Prometheus


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name} (Debian: apt-get install prometheus)")
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_right() -> None:
    assert f"{len(rules())} rules found" in run(tool("promtool"), "check", "rules", RULES)


def test_what_is_served_is_well_formed() -> None:
    registry = CollectorRegistry()
    prometheus.instrument(registry=registry)
    try:
        text = generate_latest(registry)
    finally:
        prometheus.uninstrument()
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# For each alert what makes it fire, and what does not: series and their values, minute by minute.
QUEUE, STEP = '{queue="q"}', '{fsm="f", step="s"}'
FIRES: dict[str, list[tuple[str, str]]] = {
    "GendurableQueueLate": [(f"gendurable_queue_oldest_due_seconds{QUEUE}", "400+0x120")],
    "GendurableQueueNotServed": [
        (f"gendurable_queue_due{QUEUE}", "5+0x120"),
        (f"gendurable_queue_workers{QUEUE}", "0+0x120"),
    ],
    "GendurableNotReady": [("gendurable_ready", "0+0x120")],
    "GendurableDepthUnknown": [("gendurable_ready", "1+0x120")],
    "GendurableStepsFail": [
        ('gendurable_steps_total{fsm="f", step="s", outcome="error"}', "0+5x120"),
        ('gendurable_steps_total{fsm="f", step="s", outcome="done"}', "0+5x120"),
    ],
    "GendurableInstancesFail": [("gendurable_failed_instances", "0+1x120")],
    "GendurableWorkersCrash": [("gendurable_crashes_total", "0+1x120")],
    "GendurableProcessesDie": [("gendurable_process_deaths_total", "0+1x120")],
    "GendurableClaimsLost": [(f"gendurable_lost_claims_total{STEP}", "0+1x120")],
    "GendurableCommitsStuck": [("gendurable_stuck_outcomes_total", "0+1x120")],
    "GendurableOutcomesRejected": [('gendurable_outcomes_total{result="rejected"}', "0+1x120")],
    "GendurableSaturated": [
        (f"gendurable_running_steps{QUEUE}", "10+0x120"),
        (f"gendurable_slots{QUEUE}", "10+0x120"),
        (f"gendurable_queue_oldest_due_seconds{QUEUE}", "100+0x120"),
    ],
    "GendurableWakesLate": [
        ('gendurable_wake_lateness_seconds_bucket{le="1.0"}', "0+0x120"),
        ('gendurable_wake_lateness_seconds_bucket{le="30.0"}', "0+5x120"),
        ('gendurable_wake_lateness_seconds_bucket{le="+Inf"}', "0+5x120"),
    ],
    "GendurableLoopBlocked": [('gendurable_loop_blocked_seconds_total{cause="call"}', "0+30x120")],
    "GendurableConnectionFails": [('gendurable_connection_failures_total{link="claims"}', "0+10x120")],
    "GendurableUpkeepStands": [("gendurable_ready", "1+0x120"), ("gendurable_maintenance_time_seconds", "7+0x120")],
    "GendurableUpkeepFails": [("gendurable_upkeep_errors_total", "0+1x120")],
    "GendurableRetentionLate": [("gendurable_retention_overdue_seconds", "30000+0x120")],
    "GendurableDeadRows": [
        ('gendurable_table_dead_rows{table="instance"}', "200000+0x120"),
        ('gendurable_table_live_rows{table="instance"}', "100000+0x120"),
    ],
    "GendurableDoctor": [('gendurable_doctor{check="queues", level="problem"}', "1+0x120")],
    "GendurableHeld": [("gendurable_held", "1+0x120")],
}
QUIET: list[tuple[str, str]] = [
    (f"gendurable_queue_oldest_due_seconds{QUEUE}", "4+0x120"),
    ('gendurable_queue_oldest_due_seconds{queue="paused"}', "9000+0x120"),
    ('gendurable_queue_paused{queue="paused"}', "1+0x120"),
    ('gendurable_queue_due{queue="paused"}', "5+0x120"),
    ('gendurable_queue_workers{queue="paused"}', "0+0x120"),
    (f"gendurable_queue_paused{QUEUE}", "0+0x120"),
    (f"gendurable_queue_due{QUEUE}", "5+0x120"),
    (f"gendurable_queue_workers{QUEUE}", "2+0x120"),
    ("gendurable_ready", "1+0x120"),
    ('gendurable_steps_total{fsm="f", step="s", outcome="error"}', "0+1x120"),
    ('gendurable_steps_total{fsm="f", step="s", outcome="done"}', "0+500x120"),
    ("gendurable_failed_instances", "50+0x120"),
    ("gendurable_crashes_total", "1+0x120"),
    ("gendurable_process_deaths_total", "1+0x120"),
    (f"gendurable_lost_claims_total{STEP}", "3+0x120"),
    ("gendurable_stuck_outcomes_total", "3+0x120"),
    ('gendurable_outcomes_total{result="rejected"}', "3+0x120"),
    ('gendurable_outcomes_total{result="ok"}', "0+500x120"),
    (f"gendurable_running_steps{QUEUE}", "10+0x120"),
    (f"gendurable_slots{QUEUE}", "10+0x120"),
    ('gendurable_wake_lateness_seconds_bucket{le="1.0"}', "0+5x120"),
    ('gendurable_wake_lateness_seconds_bucket{le="+Inf"}', "0+5x120"),
    ('gendurable_loop_blocked_seconds_total{cause="call"}', "0+1x120"),
    ('gendurable_connection_failures_total{link="claims"}', "5+0x120"),
    ("gendurable_maintenance_time_seconds", "0+60x120"),
    ("gendurable_upkeep_errors_total", "2+0x120"),
    ("gendurable_retention_overdue_seconds", "60+0x120"),
    ('gendurable_table_dead_rows{table="instance"}', "200000+0x120"),
    ('gendurable_table_live_rows{table="instance"}', "900000+0x120"),
    ('gendurable_doctor{check="queues", level="warning"}', "1+0x120"),
    ("gendurable_held", "0+0x120"),
]


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    assert list(FIRES) == [rule["alert"] for rule in rules()]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series],
            # What the alert is about, and not what it says.
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                    "eval_time": "2h",
                    "exp_samples": [{"labels": "{}", "value": wanted}],
                }
                for alert in alerts
            ],
        }
        for series, alerts, wanted in [
            *((series, [alert], 1) for alert, series in FIRES.items()),
            # where no worker has ever done it
            ([("gendurable_ready", "1+0x120")], ["GendurableUpkeepStands"], 1),
            (QUIET, list(FIRES), 0),
        ]
    ]
    (tmp_path / "rules.yml").write_text(RULES.read_text("utf-8"))
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", tmp_path / "tests.yml")


@contextlib.contextmanager
def a_prometheus(tmp_path: Path, target: str) -> Iterator[str]:
    """A Prometheus with the configuration of the page, and our rules."""
    [config] = [text for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S) if "scrape_configs" in text]
    (tmp_path / "prometheus.yml").write_text(
        "global: {evaluation_interval: 1s}\n" + config.replace("127.0.0.1:9464", target).replace("15s", "1s")
    )
    shutil.copy(RULES, tmp_path / "rules.yml")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: process.poll() is not None or ready(address), 60)
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        process.wait(30)


def ready(address: str) -> bool:
    with contextlib.suppress(OSError):
        return get(f"http://{address}/-/ready")[0] == 200
    return False


def query(api: str, text: str) -> Any:
    status, said = get(f"{api}/query?" + urllib.parse.urlencode({"query": text}))
    answer = json.loads(said)
    assert (status, answer["status"]) == (200, "success"), f"{text}: {said}"
    return answer["data"]["result"]


def test_a_real_prometheus_scrapes_a_worker(db: Any, conn: Conn, tmp_path: Path) -> None:
    @job(name="grafana.counted")
    def counted(args: dict[str, Any]) -> None:
        return None

    tool("prometheus")
    engine = Engine(db.dsn, [counted], reap_interval=0.1, heartbeat_interval=0.1)
    with (
        prometheus.serve(engine, port=0, depth_interval=1) as served,
        running(engine),
        a_prometheus(tmp_path, f"127.0.0.1:{served.port}") as api,
    ):
        ended(conn, *(made.id for made in gd.insert_many(conn, [counted] * 25)))
        wait_until(lambda: Scrape(served.url).points("queue_due") and Scrape(served.url).total("steps_total") == 25, 30)
        wait_until(lambda: [one["value"][1] for one in query(api, "sum(gendurable_steps_total)")] == ["25"], 30)
        [up] = query(api, "up")
        assert up["value"][1] == "1"
        for where, text in expressions().items():
            try:
                query(api, text)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from None
        # Whatever has been served, and whatever the page and its files name, has come here.
        names = {one["metric"]["__name__"] for one in query(api, '{__name__=~"gendurable_.+"}')}
        served_names = set(re.findall(r"^(gendurable_\w+)", Scrape(served.url).text, re.MULTILINE))
        assert served_names <= names
        for name, (kind, labels) in documented().items():
            for series in query(api, f"{name}_bucket" if kind == "histogram" else name):
                extra = {"le"} if kind == "histogram" else set()
                assert set(series["metric"]) - {"__name__", "instance", "job"} == {*labels, *extra}, name
        [group] = json.loads(get(f"{api}/rules")[1])["data"]["groups"]
        assert len(group["rules"]) == len(rules())
        wait_until(lambda: all(rule["health"] == "ok" for rule in loaded(api)), 90)


def loaded(api: str) -> list[dict[str, Any]]:
    [group] = json.loads(get(f"{api}/rules")[1])["data"]["groups"]
    return list(group["rules"])
