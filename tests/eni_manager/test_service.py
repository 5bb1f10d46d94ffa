"""The cloud half against the lab's cloud: real signatures, real asynchrony, no kernel."""



async def test_meets_demand_and_gives_back(start, cloud):
    async with start() as eni:
        await eni.demand(3)
        seen = await eni.until_usable(3)
        assert seen.capacity == 30
        assert len(cloud.enis()) == 1
        assert cloud.addresses() == 3
        assert seen.enis[0].subnet4 is not None and seen.enis[0].subnet4.gateway == "192.168.15.253"

        await eni.demand(25)
        await eni.until_usable(25)
        assert cloud.addresses() == 25
