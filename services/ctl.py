"""`terwayctl`: the suite's command line. Each group of commands is imported when it is asked for."""

import importlib
from typing import Final

import click

GROUPS: Final = {
    "capacity": ("services.eni_manager.ctl:capacity", "How many pods a type of machine can host, in every mode."),
    "policy": ("services.policy.ctl:policy", "Network policies on manifests: what they come to, and why."),
    "migrate": ("services.policy.ctl_migrate:migrate", "Moving from Calico: what stays as it is, and what differs."),
    "lab": ("compose.lab.cli:lab", "A VPC of real packets on this machine: nodes, pods, probes."),
    "leaks": ("services.ipam.ctl:leaks", "What this node holds and nobody may need, with the evidence."),
}
"""Name -> where it lives, and its line of help, which must not cost its import."""


class LazyGroup(click.Group):
    """Commands that are imported when they are run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every group, without importing any."""
        return sorted(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the group."""
        if cmd_name not in GROUPS:
            return None
        module, _, attribute = GROUPS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of groups in `terwayctl --help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, GROUPS[name][1]) for name in self.list_commands(ctx)])


@click.command(cls=LazyGroup)
def main() -> None:
    """Pod networking for Kubernetes on Alibaba Cloud, from the command line."""


if __name__ == "__main__":
    main()
