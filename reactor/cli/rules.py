"""`reactor rules`: the retention rules in force, and how many streams each of them matches now."""

import json
import sys
from collections import Counter
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from reactor.bootstrap.connections import connections
from reactor.bootstrap.services import ReadOnly, read_only, utc_now
from reactor.cli.exits import Exit, fail
from reactor.cli.render import show_notice, visible
from reactor.cli.shell import print_answer, run, settings_of_command
from reactor.config.rules_file import RulesFaulty, read_rules
from reactor.core.checks import counted
from reactor.core.explain import span
from reactor.core.model import SECOND, format_instant
from reactor.core.policy import Policy, policy_for
from reactor.core.rules import DEFAULT, GUARDS, OWN, Rule
from reactor.core.schemas import RuleJson, Rules, WorkerRules
from reactor.passes.listing import PassAborted


def check(path: Path, *, as_json: bool) -> None:
    """Check a file of rules without asking a server. Exits with USAGE if there is a fault."""
    try:
        rules = read_rules(path).rules
        faults = list[str]()
    except RulesFaulty as error:
        rules, faults = (), list(error.faults)
    if as_json:
        sys.stdout.write(json.dumps({"file": str(path), "rules": len(rules), "faults": faults}) + "\n")
    else:
        for fault in faults:
            typer.echo(fault, err=True)
        if not faults:
            typer.echo(f"{path}: {counted(len(rules), 'rule')}, no fault")
    raise typer.Exit(Exit.USAGE if faults else Exit.DONE)


def show(*, local: bool, as_json: bool) -> None:
    """Print the rules of the workers, or with `local` those of this shell."""
    settings = settings_of_command()

    async def ask() -> Rules:
        async with connections(settings) as connected:
            return await _rules(await read_only(connected, local=local))

    try:
        print_answer(run(ask, settings.nats.domain), as_json, _show)
    except PassAborted as error:
        fail(Exit.UNFIXABLE, str(error))


async def _rules(view: ReadOnly) -> Rules:
    cases, policy = view.cases, view.cases.resources.policy
    listing = await cases.reconciler(await cases.lifecycle_subscriber()).listing()
    matched = Counter(policy_for(item.stream, item.record, policy).rule for item in listing.settlements())
    workers = [
        WorkerRules(instance=worker.instance, file=worker.policy_file, sha256=worker.policy_sha256)
        for worker in await cases.resources.ledger.workers.alive()
    ]
    return Rules(
        at=format_instant(utc_now()),
        notice=view.notice,
        rules=[_row(rule, policy, matched[rule.name]) for rule in policy.rules],
        unmatched=[rule.name for rule in policy.rules if not matched[rule.name]],
        by_default=matched[DEFAULT],
        by_their_metadata=matched[OWN],
        workers=workers,
    )


def _row(rule: Rule, policy: Policy, streams: int) -> RuleJson:
    """Return a rule, completed with the settings."""
    return RuleJson(
        name=rule.name,
        streams=list(rule.streams),
        status=sorted(rule.statuses),
        metadata=dict(rule.metadata),
        guards_s={guard: rule.guards.get(guard, getattr(policy, guard)) / SECOND for guard in GUARDS},
        sets=[*rule.guards, *(["protect"] if rule.protect else []), *_set_words(rule)],
        protect=rule.protect,
        action=rule.action or ("delete" if policy.deletes else "report"),
        backup=rule.backup or policy.backup,
        matches=streams,
    )


def _set_words(rule: Rule) -> list[str]:
    return [name for name in ("action", "backup") if getattr(rule, name)]


def _show(console: Console, rules: Rules) -> None:
    show_notice(console, rules["notice"])
    table = Table("rule", "for", "sets", "streams", box=None, pad_edge=False)
    for rule in rules["rules"]:
        table.add_row(*map(visible, (rule["name"], _wanted(rule), _sets(rule), str(rule["matches"]))))
    table.add_row(DEFAULT, "all others", "as the settings say", str(rules["by_default"]))
    if rules["by_their_metadata"]:
        table.add_row(OWN, "those with reactor.* times of their own", "as they say", str(rules["by_their_metadata"]))
    console.print(table, soft_wrap=True)
    if rules["unmatched"]:
        console.print(f"no stream matches {visible(', '.join(rules['unmatched']))} now", soft_wrap=True)
    for worker in rules["workers"]:
        whose = f"{worker['file']} (SHA-256 {(worker['sha256'] or '')[:12]})" if worker["file"] else "no rules"
        console.print(f"[dim]{visible(worker['instance'])} runs with {visible(whose)}[/]", soft_wrap=True)


def _wanted(rule: RuleJson) -> str:
    """Return the conditions of a rule as text."""
    metadata = [f"{key}={value}" for key, value in rule["metadata"].items()]
    return "; ".join(filter(None, (" ".join(rule["streams"]), " ".join(rule["status"]), " ".join(metadata)))) or "all"


def _sets(rule: RuleJson) -> str:
    guards = [f"{name} {span(rule['guards_s'][name])}" for name in GUARDS if name in rule["sets"]]
    words = [
        f"{name} {rule['action'] if name == 'action' else rule['backup']}"
        for name in ("action", "backup")
        if name in rule["sets"]
    ]
    return ", ".join([*guards, *(["protect"] if rule["protect"] else []), *words])
