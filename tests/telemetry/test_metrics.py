"""A worker's metrics. The rules and the dashboard query only existing ones."""

import asyncio
import json
import re
import shutil
import subprocess
import urllib.request
from collections import defaultdict
from importlib import resources
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from nats.aio.msg import Msg
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from support.harness import ROOT, Served, World, acked, eventually, gone, own_world, served, worker

from reactor.cli.embedded import free_port
from reactor.core.model import Outcome, Reason, Settlement, Stream
from reactor.core.schemas import Measures
from reactor.core.sinks import EventOutcome
from reactor.core.subjects import SubjectTemplate
from reactor.operate.overview import Overview
from reactor.store.keyspace import LedgerError
from reactor.telemetry.metrics import Metrics, _Bounded
from reactor.worker.app import Gauges, Worker

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus)")

STATUSES = {"STARTED", "RETRY"} | {"SUCCESS", "FAILURE", "REVOKED", "DELETED"}
REASONS = {reason.value for reason in Reason}
BOUNDS: dict[str, frozenset[str] | set[str]] = {
    "status": STATUSES | {"other", "unreadable", "acked", "nacked", "rejected", "skipped", "error"},
    "outcome": {"applied", "stale", "malformed"},
    "reason": REASONS,
    "verdict": {"kept", "waiting", "zombie", "unfixable"},
    "app_name": {"reactor"},
    "broker": {"nats"},
    "handler": {"jobs.lifecycle.*", "$JS.EVENT.ADVISORY.>"},
    "version": {"0.2.0"},
}
"""All values that a label may ever have, but a bucket's limit."""

Labels = frozenset[tuple[str, str]]


class Scrape:
    """One exposition, parsed by Prometheus's client."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.values: dict[str, dict[Labels, float]] = defaultdict(dict)
        for sample in [sample for family in self.families for sample in family.samples]:
            self.values[sample.name][frozenset(sample.labels.items())] = sample.value

    def value(self, name: str, **labels: str) -> float:
        return self.values[name][frozenset(labels.items())]

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the values that are not 0, added up over the other labels."""
        found: dict[str, float] = defaultdict(float)
        for labels, value in self.values[name].items():
            found[dict(labels)[label]] += value
        return {key: value for key, value in found.items() if value}


async def scraped(at: Served) -> Scrape:
    code, text = await at.get("/metrics")
    assert code == 200
    return Scrape(text)


async def server_time(world: World) -> int:
    return (await world.redis.time())[0]


async def vouched(world: World) -> bool:
    """Return whether the ledger is built, so that nothing is replayed any more."""
    return bool(await world.redis.hget(f"{world.namespace}:ledger", "state") == "complete")


def metrics() -> Metrics:
    return Metrics(statuses=STATUSES, events=SubjectTemplate("jobs.lifecycle.{job_id}"), interval_s=900)


def scrape_of(metrics_sink: Metrics) -> Scrape:
    return Scrape(metrics_sink.exposition("")[0].decode())


def settlement(outcome: Outcome, reason: Reason, **more: Any) -> Settlement:
    return Settlement(outcome, reason, Stream("job_1", "1", 0, size=100), **more)


async def five_hundred_jobs(world: World) -> int:
    """Create 500 jobs: 20 end with a stream, 3 run with one, the others have unknown statuses.

    Return the bytes of those that end.
    """
    held = 0
    for number in range(500):
        status = f"state-{number}-\u2603" if number >= 23 else "STARTED"
        if number < 23:
            await world.stream(f"job_{number}", messages=2)
        await world.emit(number, status)
        if number < 20:
            info = await world.info(f"job_{number}")
            assert info is not None
            held += info["state"]["bytes"]
    for number in range(20):
        await world.emit(number, ["SUCCESS", "failure", "Revoked", "DELETED"][number % 4])
    for number in range(30, 37):
        await world.emit(number, "STARTED", occurred_at="2020-01-01T00:00:00Z")
    for number in range(40, 45):
        await world.publish(f"jobs.lifecycle.{number}", b"not JSON")
    return held


async def test_five_hundred_jobs_are_counted_and_no_label_names_one(world: World) -> None:
    """Each figure is what happened. Labels have only reactor's own values."""
    before = await server_time(world)
    async with served(world, REACTOR_RECONCILE_INTERVAL="1s", REACTOR_LOG_LEVEL="INFO") as at:
        await eventually(lambda: vouched(world))
        held = await five_hundred_jobs(world)
        await eventually(lambda: gone(world, *(f"job_{number}" for number in range(20))), 30)
        await eventually(lambda: acked(world))

        async def measured() -> Scrape | None:
            scrape = await scraped(at)
            whole = scrape.value("reactor_coverage_complete") == 1 and scrape.value("reactor_ledger_lag_messages") == 0
            return scrape if whole and scrape.by("reactor_streams", "verdict") == {"kept": 3} else None

        found = await eventually(measured, 20)
        assert found.by("reactor_streams_drained_total", "reason") == {"terminal": 20}
        assert found.value("reactor_bytes_reclaimed_total") == held > 0
        assert found.value("reactor_due_to_drained_seconds_count") == 20
        assert 0 < found.value("reactor_due_to_drained_seconds_sum") < 20 * 5
        assert found.by("reactor_events_total", "outcome") == {"applied": 527, "malformed": 5}
        statuses = found.by("reactor_events_total", "status")
        ended = dict.fromkeys(("SUCCESS", "FAILURE", "REVOKED", "DELETED"), 5)
        assert statuses == {"STARTED": 30, "other": 477, "unreadable": 5} | ended
        assert found.value("reactor_dead_letters_total") == 5
        assert found.value("reactor_oldest_zombie_seconds") == 0
        assert found.value("reactor_deletes_paused") == 0
        assert found.value("reactor_breaker_tripped") == 0
        assert found.value("reactor_reconcile_interval_seconds") == 1
        assert 0 < found.value("reactor_reconcile_duration_seconds") < 5
        now = await server_time(world) + 1
        for name in ("reactor_reconcile_last_success_timestamp_seconds", "reactor_streams_judged_timestamp_seconds"):
            assert before <= found.value(name) <= now
        assert not found.by("reactor_drain_aborted_total", "reason")
        assert not found.by("reactor_streams_unfixable_total", "reason")
        taken = found.value(
            "faststream_received_messages_total", app_name="reactor", broker="nats", handler="jobs.lifecycle.*"
        )
        assert 0 < taken <= 532  # a pass takes in what is pending by itself
        assert_bounded(found)
        assert_asked_for_what_there_is(found)


def assert_bounded(found: Scrape) -> None:
    for samples in found.values.values():
        for name, value in [pair for labels in samples for pair in labels if pair[0] != "le"]:
            assert value in BOUNDS[name], (name, value)
    assert max(len(samples) for samples in found.values.values()) < 60


def exported(name: str) -> str:
    return resources.files("reactor").joinpath("export", name).read_text()


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(exported("alerts.yml"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(exported("grafana.json"))["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def assert_asked_for_what_there_is(found: Scrape) -> None:
    """Check that every metric of the rules and the dashboard exists. `up` is Prometheus's own."""
    for asked in [rule["expr"] for rule in rules()] + queries():
        names = set(re.findall(r"\b(?:reactor|faststream|process)_\w+", asked))
        assert names or "up{" in asked, asked
        assert names <= set(found.values), asked


async def test_a_missing_right_shows_at_once(world: World) -> None:
    """Paused at the first pass, before any deletion begins."""
    url = world.nats_url.replace(f"a{world.number}:", f"u{world.number}:")
    async with served(world, ready=False, REACTOR_NATS_URL=url) as at:

        async def is_noticed() -> bool:
            return (await scraped(at)).value("reactor_deletes_paused") == 1

        await eventually(is_noticed, 20)
        await eventually(lambda: vouched(world))
        await world.zombie(1)

        async def paused() -> Scrape | None:
            scrape = await scraped(at)
            return scrape if scrape.by("reactor_streams_unfixable_total", "reason") else None

        found = await eventually(paused, 20)
        assert found.value("reactor_deletes_paused") == 1
        assert found.by("reactor_drain_aborted_total", "reason") == {}
        assert set(found.by("reactor_streams_unfixable_total", "reason")) == {"deletes-paused"}
        assert not found.by("reactor_streams_drained_total", "reason")


async def test_lateness_is_measured_by_no_worker_s_clock(world: World) -> None:
    """A worker a day ahead measures the same."""
    port = free_port()
    env = world.env(REACTOR_HTTP_PORT=port, REACTOR_POLICY_TERMINAL_GRACE="1s")
    async with worker(env, armed=("clock", "86400")) as process:
        at = Served(f"http://127.0.0.1:{port}", process)
        await eventually(lambda: vouched(world))
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"))

        async def counted() -> Scrape | None:
            scrape = await scraped(at)
            return scrape if scrape.value("reactor_due_to_drained_seconds_count") == 1 else None

        found = await eventually(counted)
        assert 0 < found.value("reactor_due_to_drained_seconds_sum") < 5


async def test_they_are_served_while_the_servers_are_waited_for(world: World) -> None:
    """At zero, and without streams that were never listed."""
    port = free_port()
    env = world.env(REACTOR_HTTP_PORT=port, REACTOR_NATS_URL=f"nats://127.0.0.1:{free_port()}")
    async with worker(env, until="waiting for NATS") as process:
        found = await scraped(Served(f"http://127.0.0.1:{port}", process))
        assert found.value("reactor_coverage_complete") == 0
        assert found.value("reactor_deletes_paused") == 0
        assert found.value("reactor_build_info", version="0.2.0") == 1
        assert "reactor_streams" not in found.values


async def test_a_token_guards_them(world: World) -> None:
    """As a bearer token, like Prometheus sends it."""
    async with served(world, REACTOR_HTTP_TOKEN="hunter2") as at:
        assert (await at.get("/metrics"))[0] == 401
        code, text = await at.get("/metrics", token="hunter2")
        assert (code, "reactor_build_info" in text) == (200, True)


async def test_openmetrics_is_spoken_where_it_is_asked_for(world: World) -> None:
    """Prometheus asks for it."""
    async with served(world) as at:
        accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        request = urllib.request.Request(f"{at.base}/metrics", headers={"Accept": accept})  # noqa: S310  # our own server

        def fetch() -> tuple[str, str]:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # as above
                return answer.headers["Content-Type"], answer.read().decode()

        content_type, text = await asyncio.to_thread(fetch)
        assert content_type.startswith("application/openmetrics-text")
        families: Any = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # theirs
        names = {family.name for family in families}
        assert {"reactor_streams_drained", "reactor_build"} <= names


async def test_an_outage_vouches_for_nothing(tmp_path: Path) -> None:
    """The streams stay as last seen, with that time. Coverage does not."""
    async with own_world(tmp_path) as (world, _, valkey):
        worker_app = Worker(world.load())

        class Looking:
            step_s = 1.0

            async def measure(self) -> Measures:
                await world.redis.ping()
                return measures(verdicts={"kept": 7})

        gauges = Gauges(cast("Overview", Looking()), worker_app._metrics)
        await gauges.tick()
        assert scrape_of(worker_app._metrics).value("reactor_coverage_complete") == 1
        await valkey.stop()
        with pytest.raises(LedgerError):
            await gauges.tick()
        found = scrape_of(worker_app._metrics)
        assert found.value("reactor_coverage_complete") == 0
        assert found.by("reactor_streams", "verdict") == {"kept": 7}


def measures(**more: Any) -> Measures:
    """Return a result of `Overview.measure`."""
    usual = {
        "at": "2026-01-31T12:00:00Z",
        "error": None,
        "nats_error": None,
        "nats_away_since": None,
        "workers": 1,
        "exhausted": 2,
        "verdicts": {"kept": 0},
        "reasons": {},
        "oldest_zombie_s": None,
        "coverage": {"complete": True},
        "lag": 0,
        "pause": None,
        "last_reconcile": None,
    }
    return cast("Measures", usual | more)


def test_a_listing_that_failed_is_no_empty_account() -> None:
    """Its counts stay unchanged, and the ledger's figures are shown."""
    metrics_sink = metrics()
    metrics_sink.measured(measures(verdicts={"kept": 7, "zombie": 1}, oldest_zombie_s=12.5))
    metrics_sink.measured(measures(error="NATS: away", lag=3))
    found = scrape_of(metrics_sink)
    assert found.by("reactor_streams", "verdict") == {"kept": 7, "zombie": 1}
    assert found.value("reactor_oldest_zombie_seconds") == 12.5
    assert found.value("reactor_ledger_lag_messages") == 3
    assert found.value("reactor_queues_exhausted") == 2


def test_a_pass_that_broke_off_is_no_success() -> None:
    """The time of the last success stays. A pass that the breaker stopped has completed."""
    metrics_sink = metrics()
    ended = {"started_at": "2026-01-31T12:00:00Z", "duration_s": 0.5, "breaker": None, "error": None}
    metrics_sink.measured(measures(last_reconcile=ended | {"breaker": "21 of 21"}))
    first = scrape_of(metrics_sink)
    assert first.value("reactor_breaker_tripped") == 1
    assert first.value("reactor_reconcile_duration_seconds") == 0.5
    later = {"started_at": "2026-01-31T13:00:00Z", "duration_s": 9.0, "error": "NATS: away"}
    metrics_sink.measured(measures(last_reconcile=ended | later))
    found = scrape_of(metrics_sink)
    assert found.value("reactor_breaker_tripped") == 0
    for name in ("reactor_reconcile_last_success_timestamp_seconds", "reactor_reconcile_duration_seconds"):
        assert found.value(name) == first.value(name) > 0


def test_what_a_deletion_came_to_is_one_count() -> None:
    """Drained, aborted, or neither if another client was faster."""
    metrics_sink = metrics()
    metrics_sink.ended(settlement(Outcome.DRAINED, Reason.TERMINAL, late_s=0.02))
    metrics_sink.ended(settlement(Outcome.DRAINED, Reason.MISSING, late_s=500.0))
    metrics_sink.ended(settlement(Outcome.ALREADY_GONE, Reason.TERMINAL))
    metrics_sink.ended(settlement(Outcome.KEPT, Reason.RUNNING))
    metrics_sink.ended(settlement(Outcome.WAITING, Reason.FENCED))
    metrics_sink.ended(settlement(Outcome.UNFIXABLE, Reason.REFUSED))
    found = scrape_of(metrics_sink)
    assert found.by("reactor_streams_drained_total", "reason") == {"terminal": 1, "missing": 1}
    assert found.by("reactor_drain_aborted_total", "reason") == {"running": 1, "fenced": 1, "refused": 1}
    assert found.value("reactor_bytes_reclaimed_total") == 200
    assert found.value("reactor_due_to_drained_seconds_count") == 1


def test_workers_do_not_share_their_counts() -> None:
    """Nothing is global."""
    first, other = metrics(), metrics()
    first.events_received({("SUCCESS", EventOutcome.APPLIED): 2})
    first.dead_lettered()
    assert scrape_of(first).value("reactor_events_total", status="SUCCESS", outcome="applied") == 2
    assert "reactor_events_total" not in scrape_of(other).values
    assert scrape_of(other).value("reactor_dead_letters_total") == 0


@pytest.mark.parametrize(
    ("subject", "label"),
    [
        ("jobs.lifecycle.42", "jobs.lifecycle.*"),
        ("$JS.EVENT.ADVISORY.STREAM.CREATED.job_42", "$JS.EVENT.ADVISORY.>"),
        ("jobs.lifecycle.42.more", "other"),
        ("anything", "other"),
    ],
)
def test_faststream_s_label_has_no_job(subject: str, label: str) -> None:
    """The size is that of all messages in a batch, in bytes."""
    msg = Msg(_client=cast("Any", None), subject=subject, data=b"12345")
    batch = cast("Any", type("Batch", (), {"raw_message": [msg, msg]}))
    bounded = _Bounded(SubjectTemplate("jobs.lifecycle.{job_id}"))
    attrs = bounded.get_consume_attrs_from_message(batch)
    assert attrs == {"destination_name": label, "message_size": 10, "messages_count": 2}
    command = cast("Any", type("Command", (), {"destination": subject}))
    assert bounded.get_publish_destination_name_from_cmd(command) == label


def test_the_dashboard_is_laid_out() -> None:
    """Panels have different ids and places, none is outside, and every query uses the chosen source and jobs."""
    dashboard = json.loads(exported("grafana.json"))
    everything = dashboard["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [
        (place["x"] + x, place["y"] + y)
        for place in [panel["gridPos"] for panel in everything]
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
    variables = {item["name"]: item["type"] for item in dashboard["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query"}
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'job=~"$job"' in target["expr"]


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    """And how urgent it is."""
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^#+ (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in {heading.lower() for heading in headings}, anchor


FILES = {
    "alerts": "alerts.yml",
    "grafana": "grafana.json",
    "systemd": "reactor.service",
    "kubernetes": "kubernetes.yaml",
    "kustomization": "kustomization.yaml",
    "postgres-trigger": "postgres-trigger.sql",
}


@pytest.mark.parametrize(("what", "file"), FILES.items())
async def test_export_prints_the_file(world: World, what: str, file: str) -> None:
    """As it is in the package."""
    done = await world.reactor("export", what)
    assert (done.code, done.out) == (0, exported(file))


async def test_export_knows_what_there_is(world: World) -> None:
    """It lists the files."""
    done = await world.reactor("export", "traces")
    assert (done.code, "alerts" in done.err) == (2, True)


def promtool(folder: Path, *args: str, **files: str) -> None:
    """Check these files with promtool."""
    for name, text in files.items():
        (folder / f"{name}.yml").write_text(text)
    assert PROMTOOL is not None
    done = subprocess.run(  # noqa: S603  # our own files
        [PROMTOOL, *args], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    """Syntax, templates, labels."""
    promtool(tmp_path, "check", "rules", "alerts.yml", alerts=exported("alerts.yml"))


@needs_promtool
def test_promtool_accepts_the_configuration_in_compose(tmp_path: Path) -> None:
    """With the rules at the configured path."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    config = compose["configs"]["prometheus"]["content"].replace("/etc/prometheus/", "")
    promtool(tmp_path, "check", "config", "prometheus.yml", prometheus=config, alerts=exported("alerts.yml"))


@needs_promtool
def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """As recording rules, with Grafana's variables replaced."""
    filled = [
        re.sub(r"\$__(rate_)?interval", "1m", query).replace("$__range", "6h").replace("$job", "reactor")
        for query in queries()
    ]
    assert not [query for query in filled if "$" in query]
    records = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    promtool(tmp_path, "check", "rules", "panels.yml", panels=yaml.dump({"groups": [{"name": "p", "rules": records}]}))


CALM = {
    'up{job="reactor",instance="a"}': "1x120",
    'up{job="reactor",instance="b"}': "1x120",
    'process_start_time_seconds{job="reactor",instance="a"}': "0x120",
    'reactor_nats_connected{job="reactor",instance="a"}': "1x120",
    'reactor_redis_connected{job="reactor",instance="a"}': "1x120",
    'reactor_deletes_paused{job="reactor",instance="a"}': "0x120",
    'reactor_paused{job="reactor",instance="a"}': "0x120",
    'reactor_streams_drained_total{job="reactor",instance="a",reason="terminal"}': "0+1x120",
    'reactor_breaker_tripped{job="reactor",instance="a"}': "0x120",
    'reactor_coverage_complete{job="reactor",instance="a"}': "1x120",
    'reactor_reconcile_last_success_timestamp_seconds{job="reactor",instance="a"}': "0+60x120",
    'reactor_reconcile_last_success_timestamp_seconds{job="reactor",instance="b"}': "0x120",
    'reactor_reconcile_interval_seconds{job="reactor",instance="a"}': "900x120",
    'reactor_oldest_zombie_seconds{job="reactor",instance="a"}': "0x120",
    'reactor_streams{job="reactor",instance="a",verdict="unfixable"}': "0x120",
    'reactor_streams_unfixable_total{job="reactor",instance="a",reason="refused"}': "0x120",
    'reactor_dead_letters_total{job="reactor",instance="a"}': "3x120",
    'reactor_ledger_lag_messages{job="reactor",instance="a"}': "5000x120",
}
"""Two replicas, one of which has done every pass, for two hours; a lag that does not grow."""
TROUBLE = {
    "ReactorDown": {'up{job="reactor",instance="a"}': "0x120", 'up{job="reactor",instance="b"}': "0x120"},
    "ReactorWorkerDown": {'up{job="reactor",instance="b"}': "0x120"},
    "ReactorNatsAway": {'reactor_nats_connected{job="reactor",instance="a"}': "0x120"},
    "ReactorRedisAway": {'reactor_redis_connected{job="reactor",instance="a"}': "0x120"},
    "ReactorDeletesPaused": {'reactor_deletes_paused{job="reactor",instance="a"}': "1x120"},
    "ReactorPaused": {'reactor_paused{job="reactor",instance="a"}': "1x120"},
    "ReactorMassDeletion": {
        'reactor_streams_drained_total{job="reactor",instance="a",reason="terminal"}': "0+1x110 200+100x10"
    },
    "ReactorBreakerTripped": {'reactor_breaker_tripped{job="reactor",instance="a"}': "1x120"},
    "ReactorCoverageLost": {'reactor_coverage_complete{job="reactor",instance="a"}': "0x120"},
    "ReactorReconcileLate": {
        'reactor_reconcile_last_success_timestamp_seconds{job="reactor",instance="a"}': "0+60x60 3600x60"
    },
    "ReactorOldestZombie": {'reactor_oldest_zombie_seconds{job="reactor",instance="a"}': "0+60x120"},
    "ReactorUnfixableStreams": {'reactor_streams{job="reactor",instance="a",verdict="unfixable"}': "2x120"},
    "ReactorDeletionsFail": {'reactor_streams_unfixable_total{job="reactor",instance="a",reason="refused"}': "0+1x120"},
    "ReactorDeadLetters": {'reactor_dead_letters_total{job="reactor",instance="a"}': "3x100 4x20"},
    "ReactorLedgerLags": {'reactor_ledger_lag_messages{job="reactor",instance="a"}': "0+100x120"},
}
"""What must be otherwise for each alert to fire, and no other."""


def fires(alert: str | None) -> dict[str, Any]:
    """Return a case for promtool: two hours in which only that alert fires."""
    series = CALM | (TROUBLE[alert] if alert else {})
    firing = [rule["alert"] for rule in rules() if rule["alert"] == alert]
    also = ["ReactorWorkerDown"] if alert == "ReactorDown" else []
    return {
        "interval": "1m",
        "name": alert or "calm",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "2h",
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": 2 if name in also else 1}
                    for name in [*firing, *also]
                ],
            }
        ],
    }


@needs_promtool
def test_each_alert_fires_for_its_own_trouble_only(tmp_path: Path) -> None:
    """And none if all is well."""
    assert set(TROUBLE) == {rule["alert"] for rule in rules()}
    cases = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [fires(a) for a in (None, *TROUBLE)]}
    promtool(tmp_path, "test", "rules", "cases.yml", alerts=exported("alerts.yml"), cases=yaml.dump(cases))
