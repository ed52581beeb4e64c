"""The ledger: the books, and every command a person or a script runs. Never imports `extproc`."""
