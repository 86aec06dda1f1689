"""Losses times distances on one recipe: does another distance help, and by more than chance?"""
