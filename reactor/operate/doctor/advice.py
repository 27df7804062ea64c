"""Advice for checks that could not be made: what failed, and what to do."""

from reactor.core.checks import Check, Misconfigured, error
from reactor.jetstream.errors import JetStreamError, NobodyThere, PermissionDenied, Refused, TooOld, Unreachable
from reactor.store.health import is_away
from reactor.store.keyspace import LedgerError

NATS, REDIS = "NATS", "Redis"
JETSTREAM_OFF = 10039
Failure = JetStreamError | LedgerError | Misconfigured


def away_by(failure: Failure) -> set[str]:
    """Return the server that is away according to this failure; None if none is."""
    if isinstance(failure, LedgerError):
        return {REDIS} if is_away(failure) else set()
    return {NATS} if isinstance(failure, Unreachable) and not isinstance(failure, NobodyThere) else set()


def broken_off(name: str, failure: Failure, domain: str | None) -> Check:
    """Return a failed check as an error. `domain` is the JetStream domain in the settings."""
    if isinstance(failure, Misconfigured):
        return error(name, failure.found, failure.fix)
    server = REDIS if isinstance(failure, LedgerError) else NATS
    return error(name, f"{server}: {str(failure) or type(failure).__name__}", fix_for(failure, domain))


def fix_for(failure: JetStreamError | LedgerError, domain: str | None) -> str:
    """Return what to do about an outage. `domain` is the JetStream domain in the settings."""
    return _fix_for_redis(failure) if isinstance(failure, LedgerError) else _fix_for_nats(failure, domain)


def _fix_for_redis(failure: LedgerError) -> str:
    if 'got "I" as reply' in str(failure):  # the first letter of INFO, with which a NATS server greets
        return "set REACTOR_REDIS_URL to the address of Redis or Valkey"
    if is_away(failure):
        return "start Redis or Valkey, or set REACTOR_REDIS_URL (and its password) to a reachable server"
    return "give reactor's Redis user the commands and keys of docs/permissions.md: the ledger cannot be read without"


def _fix_for_nats(failure: JetStreamError, domain: str | None) -> str:
    match failure:
        case TooOld():
            return "upgrade nats-server to 2.10 or later"
        case NobodyThere() if domain:
            return f"set REACTOR_NATS_DOMAIN to the domain that has the streams, not {domain}, or leave it out"
        case NobodyThere():
            return "switch JetStream on, or set REACTOR_NATS_DOMAIN if it is behind a leaf node"
        case Unreachable():
            return "start nats-server, or set REACTOR_NATS_URL (and the credentials) to a reachable server"
        case PermissionDenied():
            return "allow it to reactor's user (docs/permissions.md); until then this cannot be found out"
        case Refused() if failure.err_code == JETSTREAM_OFF:
            return "enable JetStream for this account, or give reactor a user of the account with the job streams"
        case _:
            return "see the logs of the NATS servers: a node or a quorum may be away"
