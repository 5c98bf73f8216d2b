"""Models: what they are (`models.yaml`), whether they fit, and how their weights get here."""
