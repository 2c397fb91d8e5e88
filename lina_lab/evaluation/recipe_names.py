"""Names of a recipe's fields in earlier versions."""

RENAMED = {
    "steps": "ar_steps",
    "flow_steps": "ode_steps",
    "guidance": "guidance_scale",
    "min_guidance": "guidance_scale_start",
    "portion": "batch_size",
}
"""Fields of a recipe: name in version 0.1 -> today's."""
