"""MLflow's UI shows a study: a browser opens it and finds axes and metrics."""

import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.system.conftest import Place, wait_for
from tests.system.servers import answers

pytestmark = pytest.mark.system
PORT = 5073
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1800,1100"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@pytest.fixture(scope="module")
def ui(finished: tuple[Place, tuple[int, str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's UI on the finished study, as `make ui` starts it."""
    store = f"sqlite:///{finished[0].folder / 'runs/mlflow.db'}"
    arguments = ["--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(PORT), "--workers", "1"]
    uri = f"http://127.0.0.1:{PORT}"
    with (tmp_path_factory.mktemp("ui") / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "mlflow", "ui", *arguments], stdout=log, stderr=log)
        try:
            wait_for(lambda: answers(uri), 180)
            yield uri
        finally:
            server.terminate()
            server.wait()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def shows(browser: webdriver.Chrome, *texts: str) -> None:
    """Wait until the page holds all the texts."""
    deadline = time.monotonic() + 60
    while True:
        page = browser.find_element(By.TAG_NAME, "body").text
        missing = [text for text in texts if text not in page]
        if not missing:
            return
        assert time.monotonic() < deadline, f"{missing} not in: {page[-2500:]}"
        time.sleep(0.3)


def test_the_runs_table_and_the_comparison_of_four_cells_show_axes_and_metrics(
    finished: tuple[Place, tuple[int, str, str]], ui: str, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    place, _ = finished
    runs = place.attempts()
    assert len(runs) == 4
    experiment = runs[0].info.experiment_id
    # The assistant that opens by itself takes a quarter of the page.
    browser.get(ui)
    browser.execute_script(
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
    )
    browser.get(f"{ui}/#/experiments/{experiment}/runs/{runs[0].data.tags['mlflow.parentRunId']}")
    shows(browser, "Does it run?", "No primary comparison is declared", "All cells, with axes and objectives")
    # The link of the note leads to the table with the columns that one wants.
    link = browser.find_element(By.LINK_TEXT, "All cells, with axes and objectives").get_attribute("href")
    assert link is not None
    browser.get(link)
    columns = ("val/loss_ema", "train/loss", "images_per_second", "model.dim", "seed")
    shows(browser, *(run.info.run_name for run in runs), *columns)
    assert all("dim=" in run.info.run_name for run in runs)
    browser.save_screenshot(str(tmp_path / "runs.png"))
    ids, experiments = (
        urllib.parse.quote(json.dumps(value)) for value in ([run.info.run_id for run in runs], [experiment])
    )
    browser.get(f"{ui}/#/compare-runs?runs={ids}&experiments={experiments}")
    # The page writes a number with three digits behind the point, and none that is a zero at its end.
    losses = [str(round(run.data.metrics["val/loss_ema"], 3)) for run in runs]
    names = ("Comparing 4 Runs", "model.attention.normalization", "model.dim", "val/loss_ema", "train/loss")
    shows(browser, *names, *losses)
    browser.save_screenshot(str(tmp_path / "compare.png"))


def test_the_report_page_renders_without_a_complaint(browser: webdriver.Chrome, tmp_path: Path) -> None:
    from lina_lab.analysis.plots import COMMAND

    assert COMMAND.main(["source=published", f"out={tmp_path}"]) == 0
    browser.get((tmp_path / "published/index.html").as_uri())
    shows(browser, "Paired differences", "Design and audit: confounded with size", "Provenance")
    folded = browser.find_elements(By.TAG_NAME, "details")
    assert not any(part.get_property("open") for part in folded)
    for part in folded:
        part.find_element(By.TAG_NAME, "summary").click()
    shows(browser, "batch in images (2,048 at 768, 1,536 at 1024, 768 at 1536)")
    pictures = browser.find_elements(By.TAG_NAME, "img")
    assert len(pictures) == len(list((tmp_path / "published").glob("*.png"))) > 2
    assert all(int(str(picture.get_property("naturalWidth"))) > 500 for picture in pictures)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    browser.save_screenshot(str(tmp_path / "page.png"))
