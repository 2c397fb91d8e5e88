"""Private doors of other libraries: what the project uses that their authors do not promise to keep.

One module a library, or a part of it (`mlflow_views`), one function a door. Each says in which version it was seen and
which public function is missing.
`pyproject.toml` bounds these libraries from above, and `tests/util/test_compat.py` tries each door, so that a new
release that closes one fails one named test. No other module uses a private name of another library; a test sees to it.
"""
