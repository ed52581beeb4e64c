"""A provider that bills nobody: real formats, exact token counts, misbehaviour on request.

Run it with `python -m ledger.fake_provider --port P`. It serves the demo and the tests, and knows
nothing of Tollkeeper but how a leaked key of ours looks.

Input tokens are one for each four bytes (UTF-8) of the request's text, rounded up, plus what a
directive adds. Output tokens are words of `speech.WORDS`, as many as a directive asks for, never
more than the request's own maximum. See `directives` for everything that can be asked.
"""
