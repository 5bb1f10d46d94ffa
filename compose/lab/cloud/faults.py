"""Where faults come in: each goes to whom it concerns, the cloud's plan, the Kubernetes API, or the account itself."""

from collections.abc import Iterable

import msgspec

from compose.lab.cloud.cloud import Cloud
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.faults import KUBERNETES, OUTSIDE, Fault
from compose.lab.cloud.kubernetes import KubeServer
from compose.lab.kubeapi.status import Refusal


class FaultDesk:
    """`kube` None: the API server is not the lab's own, and nothing can go wrong with it on purpose."""

    def __init__(self, cloud: Cloud, kube: KubeServer | None = None) -> None:
        self._cloud = cloud
        self._kube = kube
        self._of_kube: list[Fault] = []
        self._added = 0

    async def add(self, fault: Fault) -> Fault:
        """Put it in force, or make it happen; returns it with its id. Raises CloudError where it cannot be."""
        if fault.action == OUTSIDE:
            await self._from_outside(fault)
            return fault
        if fault.action == KUBERNETES:
            return await self._of_kubernetes(fault)
        return self._cloud.spoil(fault)

    def in_force(self) -> list[Fault]:
        """Oldest first, the Kubernetes API's last."""
        return [*self._cloud.faults.list(), *self._of_kube]

    async def clear(self, ids: Iterable[str] = ()) -> list[Fault]:
        """These end; none named: all. Returns those that were in force."""
        wanted = set(ids)
        gone = [f for f in self._of_kube if not wanted or f.id in wanted]
        self._of_kube = [f for f in self._of_kube if f not in gone]
        await self._settle_kubernetes()
        return [*self._cloud.faults.clear(wanted), *gone]

    async def _from_outside(self, fault: Fault) -> None:
        """Somebody at the console, whom no node has asked."""
        account, now = self._cloud.account, self._cloud.clock()
        account.advance(now)
        if fault.kind == "detach":
            eni = account.eni(fault.target)
            account.detach_eni(eni.id, eni.instance or "", now)
        else:
            holder = account.eni_at(fault.target)
            if holder is None:
                raise CloudError("InvalidIp.IpUnassigned", f"nobody has the address {fault.target}")
            unassign = account.unassign_ipv6 if ":" in fault.target else account.unassign_ipv4
            unassign(holder.id, now, [fault.target])
        await self._cloud.world.settle()

    async def _of_kubernetes(self, fault: Fault) -> Fault:
        if self._kube is None:
            raise CloudError("UnsupportedOperation", "the API server is not the lab's own")
        self._added += 1
        fault = msgspec.structs.replace(fault, id=fault.id or f"k{self._added}")
        if fault.kind == "compacted":
            self._kube.kube.compact()
        elif fault.kind == "error":
            self._kube.kube.faults.refuse(Refusal(fault.status, fault.code, fault.message), times=fault.times or 1)
        else:
            self._of_kube.append(fault)
            await self._settle_kubernetes()
        return fault

    async def _settle_kubernetes(self) -> None:
        if self._kube is None:
            return
        knobs = self._kube.kube.faults
        knobs.delay_s = max((f.delay_s for f in self._of_kube if f.kind == "slow"), default=0.0)
        if any(f.kind == "cut_off" for f in self._of_kube):
            knobs.go_away()
        else:
            knobs.come_back()
        if any(f.kind == "down" for f in self._of_kube):
            await self._kube.stop()
        else:
            await self._kube.start()
