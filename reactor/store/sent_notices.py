"""Which notices and alerts were sent, so that all replicas together send each of them once.

Key: `sent:<subject>`, a string: a fingerprint of what was sent last; expires.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import cast

from reactor.store.keyspace import Keyspace

CHUNK = 500
_REMEMBER = """
local new = {}
for i, key in ipairs(KEYS) do
  local is_string = redis.call('TYPE', key).ok == 'string'
  if not is_string or redis.call('GET', key) ~= ARGV[2 * i - 1] then table.insert(new, i) end
  redis.call('SET', key, ARGV[2 * i - 1], 'PX', ARGV[2 * i])
end
return new
"""


@dataclass(eq=False, repr=False)
class SentNotices:
    """The notices that one namespace has sent. Every method raises LedgerError."""

    space: Keyspace

    async def remember(self, notices: Mapping[str, tuple[str, int]]) -> set[str]:
        """Store by subject a fingerprint, and for how long (ms). Return the subjects whose fingerprint is new."""
        rest, new = iter(notices.items()), set[str]()
        while batch := list(islice(rest, CHUNK)):
            args = [part for _, (fingerprint, keep_ms) in batch for part in (fingerprint, max(keep_ms, 1))]
            keys = [f"sent:{subject}" for subject, _ in batch]
            new |= {batch[index - 1][0] for index in cast("list[int]", await self.space.run(_REMEMBER, keys, args))}
        return new
