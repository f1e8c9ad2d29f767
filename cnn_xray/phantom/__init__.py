"""Chest-like images whose truth is known because it was planted; imports nothing of the rest."""
