"""The demonstration: three common cases, torch's DataLoader and Penstock's, measured in turn.

Stands on Penstock's public API only. `images` makes the input, `cases` says what is run,
`measure` runs and times it, `advice` and `report` say what came out, `run` ties them together.
"""
