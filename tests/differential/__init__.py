"""torch's DataLoader and ours over generated settings; what they do is recorded and compared.

`samples` says what a sample holds, `sources` what the dataset and the samplers are, `cases` draws whole
settings, `recording` runs one with either class, `known` holds the differences that are on purpose.
"""
