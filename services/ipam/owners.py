"""Who holds what, when the database has lost it: rebuilt from what is wired (terway.md §8.3).

eni_manager keeps each attachment with the lease that it was plugged with, in a database of its own. A lease is written
before its attachment and ends after it, so an attachment without a lease is one that was lost: the file was deleted,
was broken, or is an old copy. Its sandbox lives, so it keeps its address; one that is dead is cleared away by the
search for garbage. This is done before the first inventory is taken over: until then no address can go to anybody.
"""

from services.ipam.adapters.enis import Enis, alive
from services.ipam.driver import Ledger
from shared import log as logs
from shared.errors import Conflict, Internal

log = logs.get(__name__)


async def rebuild(ledger: Ledger, enis: Enis) -> None:
    """Adopt the leases of live attachments that have none. Raises what eni_manager or the disk raises."""
    known = set(ledger.pool.holds)  # before the question: what ends meanwhile, ends by a DEL
    adopted = []
    for attachment in await enis.attachments():
        lease = attachment.lease
        if not attachment.alive or lease is None or attachment.key in known or attachment.key in ledger.pool.holds:
            continue
        try:
            await ledger.adopt(lease)
        except (Conflict, Internal) as error:
            log.error("lease_not_adopted", attachment=str(lease.key), pod=str(lease.pod), error=error.message)
            continue
        adopted.append(lease.key)
        log.warning("lease_adopted", attachment=str(lease.key), pod=str(lease.pod), addresses=lease.addresses)
    if adopted:  # a DEL may have come between our question and our writing: it has unplugged before it released
        for key in set(adopted) - alive(await enis.attachments()):
            await ledger.release(key)
