"""What work costs on hardware that one owns: energy, machine time, people's time. And the books."""
