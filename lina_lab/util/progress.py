"""A bar in the terminal for work that is counted in images: how many, how fast, how long still."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Rate(ProgressColumn):
    """Images a second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


def image_progress(console: Console) -> Progress:
    """The bar; its task is counted in images."""
    return Progress(
        TextColumn("images"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(), console=console
    )
