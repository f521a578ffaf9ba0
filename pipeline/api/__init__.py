"""What the top of the package offers, and what the commands of the same names call.

``runs`` has `run`, `segment` and `plan`; ``images`` has `info`; ``results`` has `verify` and
`evaluate`; ``networks`` has `train`. ``facts`` says how facts are printed.
"""
