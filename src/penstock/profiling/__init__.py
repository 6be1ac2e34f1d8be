"""`penstock.profile`: what a training loop waits for, why, and what to change.

`session`, `measure` and what they use take the figures; `data` holds them; `figures`, `predict`, `diagnose`,
`advise` and `verdict` are pure functions of them, and need no torch; `render` shows them.
"""
