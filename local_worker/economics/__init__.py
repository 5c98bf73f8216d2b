"""What work costs on hardware that one owns: energy, machine time, people's time. And the books.

sources, detect   counters of energy, and which of them this machine has
energy            who has used how much of it (pure)
costs, prices     from joules and seconds to money, and what APIs ask (pure)
books             an account of every request, from its arrival to its row
ledger, summary   the rows, in SQLite, and what they add up to
"""
