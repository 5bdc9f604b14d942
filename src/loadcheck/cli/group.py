"""A group of commands that suggests the nearest one for a misspelt name."""

from __future__ import annotations

import click

from loadcheck.errors import suggestion


class Group(click.Group):
    """click's group, with a suggestion for an unknown command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            message = error.message.removesuffix(".")
            raise click.UsageError(f"{message}; {suggestion(args[0], self.list_commands(ctx))}", ctx) from None
