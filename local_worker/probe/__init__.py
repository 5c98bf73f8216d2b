"""What this machine has, which backend it gets and why. Imports no engine.

`survey.probe_hardware` reads the machine, `software.installed_engines` says what is installed,
`backend.choose_backend` decides (pure) and `report` prints. `hardware` holds the facts.
"""
