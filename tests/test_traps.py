"""Every trap that the description of Terway warns of (terway.md, the marks ⚠ and section 13), and who shows it avoided.

Of section 13, R13 (the CNI configuration is written last) is in the DaemonSet's order of steps, R22 (a new vSwitch has
no SNAT) and R24 (DHCP agents) are for operators; the IPvlan filter's priority of §5.3 is under test in tests/kernel.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TRAPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("§4.3", "GetIPInfo judges the wrong error"): (
        "tests/ipam/test_service.py::test_inspect_and_leases",
        "tests/ipam/test_service.py::test_a_key_of_another_pod_and_an_empty_key",
    ),
    ("§4.4", "DEL fails for ever once the namespace has gone"): (
        "tests/lab/running/test_pods.py::test_a_namespace_that_vanished_before_its_del",
        "tests/system/dataplane/test_unplug.py::test_the_namespace_may_be_gone",
    ),
    ("§5.3", "the shaper is called with rate 0"): (
        "tests/system/dataplane/test_limits.py::test_a_foreign_qdisc_stays_where_no_limit_is_wanted",
    ),
    ("§6.2", "a sticky address goes to another pod though there is room"): (
        "tests/ipam/core/test_stickiness.py::test_a_promise_is_broken_only_at_capacity_after_the_rest_and_when_nothing_cools",
        "tests/ipam/test_service.py::test_at_capacity_a_reserved_address_goes_to_the_pod_that_waits",
    ),
    ("§6.2", "the pool's loop leaves with its lock held; one step starves behind another"): (
        "tests/ipam/test_driver.py::test_any_interleaving",
        "tests/pool_and_enis/test_machine.py::test_nothing_doubles_or_leaks",
    ),
    ("§6.5", "one address that is visible stands for all"): (
        "tests/pool_and_enis/test_machine.py::test_nothing_doubles_or_leaks",
    ),
    ("§6.5", "addresses of a lost answer are known to nobody"): (
        "tests/eni_manager/test_service.py::test_an_address_that_appears_is_adopted",
        "tests/pool_and_enis/test_machine.py::test_nothing_doubles_or_leaks",
    ),
    ("§6.6", "only the first vSwitch is tried"): (
        "tests/eni_manager/test_service.py::test_an_exhausted_vswitch_is_passed_over",
    ),
    ("§6.9", "assigning and unassigning are not limited"): (
        "tests/eni_manager/adapters/test_openapi.py::test_buckets_are_per_action_and_configurable",
    ),
    ("§7", "capacity overstated by counting member ENIs"): (
        "tests/eni_manager/core/test_capacity.py::test_shared_and_exclusive",
        "tests/eni_manager/core/test_capacity.py::test_the_service_counts_alike",
    ),
    ("§8.1", "the time of a deletion dies with the process"): (
        "tests/ipam/test_store.py::test_promises_and_milestones_survive_a_restart",
        "tests/ipam/test_service.py::test_everything_survives_a_restart",
    ),
    ("§8.2", "a lock held during cloud calls holds up ADDs"): (
        "tests/eni_manager/test_service.py::test_serves_from_the_journal_while_the_api_is_down",
    ),
    ("§8.3", "the address of a force-deleted pod whose sandbox lives is freed"): (
        "tests/ipam/test_pods.py::test_leases_of_pods_that_are_gone_end_after_two_looks_unless_something_is_connected",
    ),
    ("§8.3", "a lost database forgets who has what"): (
        "tests/ipam/test_owners.py::test_sandboxes_keep_their_addresses",
        "tests/ipam/test_crash.py::test_owners_are_rebuilt_after_a_death_in_the_middle",
    ),
    ("§9.1", "a bare number as bandwidth"): (
        "tests/ipam/test_pods.py::test_an_annotation_that_cannot_be_read_is_an_event_on_the_pod",
        "tests/ipam/core/test_bandwidth.py::test_what_is_not_a_rate",
    ),
    ("R1", "an address freed under a live pod, or given twice"): (
        "tests/pool_and_enis/test_machine.py::test_nothing_doubles_or_leaks",
        "tests/ipam/test_pods.py::test_a_pod_list_that_is_wrong_ends_no_lease",
        "tests/eni_manager/test_service.py::test_an_attached_address_is_not_given_back",
    ),
    ("R2", "slow or stuck start of pods"): (
        "tests/scale/test_cold_burst.py::test_200_pods_at_once",
        "tests/ipam/test_service.py::test_a_node_warms_up_once",
    ),
    ("R3", "an exhausted vSwitch blocks everything"): (
        "tests/eni_manager/test_service.py::test_all_vswitches_exhausted_is_said_and_tested_again_later",
        "tests/eni_manager/test_service.py::test_a_vswitch_with_less_than_a_new_eni_could_hold_gives_what_it_has",
    ),
    ("R4", "many nodes that start are throttled"): (
        "tests/scale/test_many_nodes.py::test_100_nodes_at_once",
        "tests/eni_manager/test_service.py::test_throttling_slows_and_loses_nothing",
    ),
    ("R5", "leaks of ENIs, rules, routes"): (
        "tests/crash/test_crash_points.py::test_death_leaves_nothing_behind",
        "tests/system/dataplane/test_repair.py::test_repair_takes_away_what_dead_pods_left_and_nothing_foreign",
    ),
    ("R6", "rules and routes that others removed"): (
        "tests/system/dataplane/test_repair.py::test_repair_at_start_after_interference",
        "tests/system/dataplane/test_dual.py::test_settings_that_others_flipped_are_found_and_mended",
    ),
    ("R7", "the device comes late, or never"): (
        "tests/eni_manager/test_service.py::test_a_device_that_never_comes_is_replaced",
        "tests/system/dataplane/test_link.py::test_a_link_is_found_when_it_appears",
    ),
    ("R8", "metadata that is empty or lags"): (
        "tests/eni_manager/adapters/test_imds.py::test_an_empty_answer_is_an_error_not_a_fact",
        "tests/eni_manager/test_service.py::test_an_address_leaves_when_the_metadata_service_has_forgotten_it",
    ),
    ("R9", "security groups repaired against their users"): (
        "tests/eni_manager/test_service.py::test_what_people_should_mend_is_said_when_it_is_sure",
    ),
    ("R10", "DEL blocks, or loses an exclusive ENI"): (
        "tests/lab/running/test_pods.py::test_a_namespace_that_vanished_before_its_del",
        "tests/system/modes/test_exclusive.py::test_a_namespace_that_ends_without_del_loses_no_eni",
    ),
    ("R11", "neighbours that are stale"): (
        "tests/system/dataplane/test_plug.py::test_the_very_first_packet_to_a_new_pod_arrives",
    ),
    ("R12", "a pod does not reach its own Service"): (
        "tests/system/modes/test_traffic.py::test_a_pod_reaches_itself_by_its_service",
    ),
    ("R14", "sysctls of others overwritten"): (
        "tests/system/dataplane/test_plug.py::test_a_pod_is_wired_exactly_as_terway_does",
    ),
    ("R15", "bursts too small"): (
        "tests/eni_manager/wiring/test_wire.py::test_tbf_queues_are_those_of_the_reference_and_bursts_last_a_tick",
    ),
    ("R16", "sticky addresses that are never reclaimed"): (
        "tests/ipam/core/test_stickiness.py::test_a_promise_lapses_and_only_then_the_address_may_leave_the_node",
    ),
    ("R17", "IPv6 on a single-stack node"): (
        "tests/eni_manager/wiring/test_wire.py::test_a_pod_without_ipv6_meets_nothing_of_it",
    ),
    ("R18", "tokens that are not refreshed"): (
        "tests/eni_manager/adapters/test_credentials.py::test_valid_keys_serve_on_when_fetching_fails",
        "tests/eni_manager/adapters/test_openapi.py::test_refused_keys_are_fetched_again",
    ),
    ("R19", "hostPort"): ("tests/system/modes/test_traffic.py::test_a_host_port_by_the_portmap_plugin",),
    ("R20", "pods that have ended hold addresses"): ("tests/ipam/core/test_garbage.py::test_both_sides_must_agree",),
    ("R21", "wrong counters of capacity"): ("tests/eni_manager/core/test_capacity.py::test_shared_and_exclusive",),
    ("R23", "mask and gateway of the result"): ("tests/cni/test_rules.py::test_p27_keys_of_the_result",),
    ("R25", "false alarms"): ("tests/eni_manager/core/test_drift.py::test_an_absence_is_believed_the_second_time",),
}


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap[0])
def test_a_test_shows_that_it_is_avoided(trap: tuple[str, str]) -> None:
    assert TRAPS[trap]
    for place in TRAPS[trap]:
        path, _, name = place.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        tests = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {node.name for node in tree.body if isinstance(node, tests)}, place
