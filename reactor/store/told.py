"""What was told to people and programs, so that all replicas together tell it once.

Key: `told:<subject>`, a string: what was told of it last, as a fingerprint; it expires.
"""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from itertools import islice
from typing import cast

from reactor.store.scripts import Script, Scripts, key_of

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
class Told:
    """What one namespace has told. Every method raises LedgerError."""

    scripts: InitVar[Scripts]
    namespace: str

    def __post_init__(self, scripts: Scripts) -> None:
        self._remember = Script(scripts, _REMEMBER)

    async def remember(self, told: Mapping[str, tuple[str, int]]) -> set[str]:
        """Store a fingerprint for each subject, and for how long (ms). Return the subjects of which it is new."""
        rest, new = iter(told.items()), set[str]()
        while some := list(islice(rest, CHUNK)):
            args = [part for _, (fingerprint, keep_ms) in some for part in (fingerprint, max(keep_ms, 1))]
            keys = [key_of(self.namespace, "told", subject) for subject, _ in some]
            new |= {some[index - 1][0] for index in cast("list[int]", await self._remember(keys=keys, args=args))}
        return new
