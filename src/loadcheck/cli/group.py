"""A group of commands that answers a misspelt one with the nearest."""

from __future__ import annotations

import click

from loadcheck.errors import suggestion


class Group(click.Group):
    """As click's, but a command that is not there is answered with what may have been meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message} {suggestion(args[0], self.list_commands(ctx))}", ctx) from None
