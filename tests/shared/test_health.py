"""What is wrong, and nothing else."""

import pytest

from shared.health import Health


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_is_late_after_its_deadline_and_well_again_when_it_reports() -> None:
    clock = Clock()
    health = Health(clock)
    slow, fast = health.reporter("gc", 60.0), health.reporter("sync", 5.0)
    assert health.live() == []
    clock.now += 5.0
    assert health.live() == []
    clock.now += 0.5
    assert health.live() == ["sync: silent for 5.5 s, allowed are 5 s"]
    fast.alive()
    assert health.live() == []
    clock.now += 60.0
    assert len(health.live()) == 2
    slow.alive()
    assert health.live() == ["sync: silent for 60.0 s, allowed are 5 s"]


def test_ready_means_that_every_condition_is_met() -> None:
    health = Health()
    cloud, enis = health.condition("cloud"), health.condition("eni_manager")
    assert health.ready() == ["cloud: not yet known", "eni_manager: not yet known"]
    cloud.met()
    enis.missing("eni_manager cannot be reached")
    assert health.ready() == ["eni_manager: eni_manager cannot be reached"]
    assert cloud and not enis
    enis.met()
    assert health.ready() == []
    cloud.missing("throttled")
    assert health.ready() == ["cloud: throttled"]


def test_what_is_watched_is_asked_each_time() -> None:
    health, why = Health(), ["still listing", ""]
    health.watch("in_sync", lambda: why.pop(0))
    assert health.ready() == ["in_sync: still listing"]
    assert health.ready() == []


def test_names_are_unique() -> None:
    health = Health()
    health.reporter("gc", 1.0)
    health.condition("gc")
    with pytest.raises(ValueError, match="gc"):
        health.reporter("gc", 1.0)
    with pytest.raises(ValueError, match="gc"):
        health.condition("gc")
    with pytest.raises(ValueError, match="gc"):
        health.watch("gc", str)
