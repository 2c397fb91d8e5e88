"""Hydra's config groups: `study`, `task`, `scale`, their common `base`, and what one changes in another."""
