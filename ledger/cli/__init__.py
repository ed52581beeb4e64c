"""The `ledger` command, a module for each group of commands. Decides nothing."""
