"""How many of a study's requests are in the engine, beside others and alone."""

from __future__ import annotations

import asyncio

from steerd.server.study_places import StudyPlaces


class Crowd:
    """Twenty requests of a study, in an engine with some of others; counts how many were in at a time."""

    def __init__(self, most: int) -> None:
        self.others = 0
        self.here = self.done = 0
        self.order: list[int] = []
        self.places = StudyPlaces(most, lambda: self.others + self.here)
        self.leave = asyncio.Event()

    async def one(self, number: int) -> None:
        async with self.places.taken():
            self.order.append(number)
            self.here += 1
            try:
                await self.leave.wait()
            finally:
                self.here -= 1
        self.done += 1

    async def settle(self) -> int:
        for _ in range(200):
            await asyncio.sleep(0)
        return self.here


def test_a_study_has_more_places_while_it_is_alone_and_is_served_in_order() -> None:
    async def scenario() -> tuple[int, int, int, list[int]]:
        crowd = Crowd(16)
        tasks = [asyncio.create_task(crowd.one(number)) for number in range(20)]
        alone = await crowd.settle()
        crowd.others = 1
        tasks[0].cancel()
        tasks[1].cancel()
        beside = await crowd.settle()
        for task in tasks[2:8]:
            task.cancel()
        fewer = await crowd.settle()
        crowd.leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return alone, beside, fewer, crowd.order

    alone, beside, fewer, order = asyncio.run(scenario())

    assert alone == 14
    assert beside == 12, "none follows those that leave"
    assert fewer == 8
    assert order == list(range(20))


def test_there_is_a_place_however_few_there_are() -> None:
    async def scenario() -> int:
        crowd = Crowd(1)
        crowd.others = 1
        crowd.leave.set()
        await asyncio.gather(*(crowd.one(number) for number in range(5)))
        return crowd.done

    assert asyncio.run(scenario()) == 5
