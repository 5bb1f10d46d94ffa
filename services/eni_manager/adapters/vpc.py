"""The VPC's route tables: the actions that mode vpc-route needs, typed (terway.md §5.6)."""

from collections.abc import Mapping
from ipaddress import ip_network

import msgspec
from aliyunsdkvpc.request.v20160428.CreateRouteEntryRequest import CreateRouteEntryRequest
from aliyunsdkvpc.request.v20160428.DeleteRouteEntriesRequest import DeleteRouteEntriesRequest
from aliyunsdkvpc.request.v20160428.DescribeRouteEntryListRequest import DescribeRouteEntryListRequest
from aliyunsdkvpc.request.v20160428.DescribeRouteTableListRequest import DescribeRouteTableListRequest

from services.eni_manager.adapters.openapi import CloudError, OpenApi, with_parameters
from services.eni_manager.core.reactions import Reaction
from services.eni_manager.core.route_table import Entry
from shared.backoff import Backoff
from shared.errors import NotFound
from shared.model import Cidr

ENTRIES_PER_PAGE = 500
TABLES_PER_PAGE = 50
LONGEST_NAME = 128


class _Hop(msgspec.Struct, rename="pascal"):
    next_hop_id: str = ""


class _Hops(msgspec.Struct, rename="pascal"):
    next_hop: list[_Hop] = []


class _Entry(msgspec.Struct, rename="pascal"):
    destination_cidr_block: str
    status: str
    route_entry_id: str = ""
    description: str = ""
    next_hops: _Hops = msgspec.field(default_factory=_Hops)

    def plain(self) -> Entry:
        hops = self.next_hops.next_hop
        return Entry(
            id=self.route_entry_id,
            destination=Cidr(str(ip_network(self.destination_cidr_block, strict=False))),
            hop=hops[0].next_hop_id if len(hops) == 1 else "several next hops",
            status=self.status,
            description=self.description,
        )


class _Entries(msgspec.Struct, rename="pascal"):
    route_entry: list[_Entry] = []


class _EntryPage(msgspec.Struct, rename="pascal"):
    route_entrys: _Entries
    next_token: str = ""


class _Table(msgspec.Struct, rename="pascal"):
    route_table_id: str
    route_table_type: str = ""


class _TableList(msgspec.Struct, rename="pascal"):
    router_table_list_type: list[_Table] = []


class _Tables(msgspec.Struct, rename="pascal"):
    router_table_list: _TableList
    total_count: int = 0


class _Made(msgspec.Struct, rename="pascal"):
    route_entry_id: str = ""


class _Failure(msgspec.Struct, rename="pascal"):
    failed_code: str = ""
    failed_message: str = ""


class _Deleted(msgspec.Struct, rename="pascal"):
    failed_route_entries: list[_Failure] = []
    request_id: str = ""


class Vpc:
    """The VPC, as our route keeper knows it. Every method raises CloudError."""

    def __init__(self, api: OpenApi, *, backoffs: Mapping[str, Backoff]) -> None:
        self._api, self._backoffs = api, backoffs

    async def system_table(self, vpc: str) -> str:
        """The id of the table that every vSwitch has unless it is given another. NotFound: the VPC has none."""
        page = 1
        while True:
            request = DescribeRouteTableListRequest()
            request.set_VpcId(vpc)
            request.set_PageNumber(page)
            request.set_PageSize(TABLES_PER_PAGE)
            answer = await self._api.call(request, _Tables, self._backoffs["default"])
            tables = answer.router_table_list.router_table_list_type
            for table in tables:
                if table.route_table_type == "System":
                    return table.route_table_id
            if not tables or page * TABLES_PER_PAGE >= answer.total_count:
                raise NotFound(f"the cloud lists no system route table of {vpc}; name one in eni_manager.route_table")
            page += 1

    async def entries(self, table: str) -> list[Entry]:
        """All entries but the cloud's own."""
        found: list[Entry] = []
        token = ""
        while True:
            request = DescribeRouteEntryListRequest()
            request.set_RouteTableId(table)
            request.set_RouteEntryType("Custom")
            request.set_MaxResult(ENTRIES_PER_PAGE)
            with_parameters(request, NextToken=token)
            page = await self._api.call(request, _EntryPage, self._backoffs["default"])
            found += [entry.plain() for entry in page.route_entrys.route_entry]
            token = page.next_token
            if not token:
                return found

    async def create(
        self, table: str, destination: Cidr, instance: str, *, name: str, description: str, token: str
    ) -> None:
        """Begin to route `destination` to an instance; `entries` says when it is Available."""
        request = CreateRouteEntryRequest()
        request.set_RouteTableId(table)
        request.set_DestinationCidrBlock(destination)
        request.set_NextHopType("Instance")
        request.set_NextHopId(instance)
        request.set_RouteEntryName(name[:LONGEST_NAME])
        request.set_Description(description)
        request.set_ClientToken(token)
        await self._api.call(request, _Made, self._backoffs["eni_ops"])

    async def delete(self, table: str, entry: Entry) -> None:
        """Begin to delete an entry; one that is gone is success. By its id, so that no other can be meant."""
        request = DeleteRouteEntriesRequest()
        request.set_RouteEntriess([{"RouteTableId": table, "RouteEntryId": entry.id}])
        answer = await self._api.call(request, _Deleted, self._backoffs["eni_ops"])
        for failure in answer.failed_route_entries:
            error = CloudError(
                action="DeleteRouteEntries",
                cloud_code=failure.failed_code,
                message=failure.failed_message,
                request_id=answer.request_id,
                status=400,
            )
            if error.reaction is not Reaction.GONE:
                raise error
