"""Actions on the VPC's route table."""

from compose.lab.cloud.core import paging, render, routes
from compose.lab.cloud.core import requests_network as requests
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions.registry import VPC, Body, action, at_most_one
from compose.lab.cloud.core.errors import CloudError, malformed, missing
from compose.lab.cloud.core.model import RouteEntry


@action(VPC, changes=True)
def create(account: Account, r: requests.CreateRouteEntry, now: float) -> Body:
    """Asynchronous: Pending, later Available."""
    hop_type, hop = _hop(r)
    made = routes.create(
        account,
        now,
        table=r.RouteTableId,
        destination=r.DestinationCidrBlock,
        hop_type=hop_type,
        hop=hop,
        name=r.RouteEntryName,
        description=r.Description,
    )
    return {"RouteEntryId": made.id}


def _hop(r: requests.CreateRouteEntry | requests.DeleteRouteEntry) -> tuple[str, str]:
    """Given directly, or in a list of one: next hops that share the load are for other kinds of routers."""
    at_most_one(NextHopId=r.NextHopId, NextHopList=r.NextHopList)
    if len(r.NextHopList) > 1:
        raise malformed("NextHopList", "one next hop")
    if r.NextHopList:
        return r.NextHopList[0].NextHopType, r.NextHopList[0].NextHopId
    if not r.NextHopId and isinstance(r, requests.CreateRouteEntry):
        raise missing("NextHopId")
    return getattr(r, "NextHopType", "Instance"), r.NextHopId


@action(VPC, changes=True)
def delete(account: Account, r: requests.DeleteRouteEntry, now: float) -> Body:
    """Asynchronous: Deleting, later gone."""
    _, hop = _hop(r)
    if not r.RouteEntryId and not r.DestinationCidrBlock:
        raise missing("DestinationCidrBlock")
    routes.delete(
        account,
        now,
        table=r.RouteTableId or account.layout.route_table,
        destination=r.DestinationCidrBlock,
        hop=hop,
        entry=r.RouteEntryId,
    )
    return {}


@action(VPC, changes=True)
def create_several(account: Account, r: requests.CreateRouteEntries, now: float) -> Body:
    """Each for itself; the answer says which failed. All of one call become available together."""
    made: list[RouteEntry] = []
    failed: list[Body] = []
    for wanted in r.RouteEntries:
        try:
            made.append(
                routes.create(
                    account,
                    now,
                    table=wanted.RouteTableId,
                    destination=wanted.DstCidrBlock,
                    hop_type=wanted.NextHopType,
                    hop=wanted.NextHop,
                    name=wanted.Name,
                    description=wanted.Description,
                    beside=made,
                )
            )
        except CloudError as e:
            failed.append(_failure(e, wanted.DstCidrBlock, wanted.NextHop))
    return {
        "RouteEntryIds": [entry.id for entry in made],
        "SuccessCount": len(made),
        "FailedCount": len(failed),
        "FailedRouteEntries": failed,
    }


@action(VPC, changes=True)
def delete_several(account: Account, r: requests.DeleteRouteEntries, now: float) -> Body:
    """Each for itself; the answer says which failed."""
    gone: list[RouteEntry] = []
    failed: list[Body] = []
    for wanted in r.RouteEntries:
        try:
            if not wanted.RouteEntryId and not wanted.DstCidrBlock:
                raise missing("DstCidrBlock")
            gone.append(
                routes.delete(
                    account,
                    now,
                    table=wanted.RouteTableId,
                    destination=wanted.DstCidrBlock,
                    hop=wanted.NextHop,
                    entry=wanted.RouteEntryId,
                    beside=gone,
                )
            )
        except CloudError as e:
            failed.append({**_failure(e, wanted.DstCidrBlock, wanted.NextHop), "RouteEntryId": wanted.RouteEntryId})
    return {"SuccessCount": len(gone), "FailedCount": len(failed), "FailedRouteEntries": failed}


def _failure(error: CloudError, destination: str, hop: str) -> Body:
    return {
        "DstCidrBlock": destination,
        "NextHop": hop,
        "FailedCode": error.code,
        "FailedMessage": error.message,
    }


@action(VPC, changes=False)
def describe_entries(account: Account, r: requests.DescribeRouteEntryList, now: float) -> Body:
    """The cloud's own entries first."""
    routes.check_table(account, r.RouteTableId)
    entries = [(e, "System") for e in routes.system_entries(account)]
    entries += [(e, "Custom") for e in account.routes.values()]
    matching = [
        (e, kind)
        for e, kind in entries
        if r.RouteEntryType in (None, kind)
        and r.DestinationCidrBlock in (None, e.destination)
        and (not r.DestCidrBlockList or e.destination in r.DestCidrBlockList)
        and r.NextHopId in (None, e.next_hop)
        and r.NextHopType in (None, e.next_hop_type)
        and r.RouteEntryId in (None, e.id)
        and r.RouteEntryName in (None, e.name)
        and (r.IpVersion or "").lower() in ("", "ipv6" if ":" in e.destination else "ipv4")
    ]
    page, fields = paging.tokened(matching, r.NextToken, r.MaxResult, 50)
    return {
        "NextToken": fields["NextToken"],
        "TotalCount": len(matching),
        "RouteEntrys": {"RouteEntry": [render.route_entry(account, e, kind) for e, kind in page]},
    }


@action(VPC, changes=False)
def describe_tables(account: Account, r: requests.DescribeRouteTableList, now: float) -> Body:
    """There is one: the VPC's."""
    layout = account.layout
    fits = (
        r.RouteTableId in (None, layout.route_table)
        and r.RouterId in (None, layout.router)
        and r.VpcId in (None, layout.vpc)
        and r.RouterType in (None, "VRouter")
        and r.RouteTableType in (None, "System")
        and r.RouteTableName in (None, layout.route_table)
        and r.ResourceGroupId in (None, layout.resource_groups[0])
        and not r.Tag
    )
    page, fields = paging.numbered([layout] if fits else [], r.PageNumber, r.PageSize, 10)
    return {**fields, "RouterTableList": {"RouterTableListType": [render.route_table(account) for _ in page]}}
