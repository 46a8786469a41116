"""Look at a web page as a person would: headless chromium opens it, waits for a text, takes a picture."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

MISSING = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
_FLAGS = (
    "--headless=new --no-sandbox --disable-dev-shm-usage --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
_NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


@contextmanager
def browser(*, width: int = 1700, height: int = 1000) -> Iterator[Chrome]:
    """A headless chromium, wide enough for MLflow's tables, without the panel that it opens for newcomers."""
    options = ChromeOptions()
    for flag in (*_FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _NO_ASSISTANT})
    try:
        yield driver
    finally:
        driver.quit()


def screenshot(url: str, path: Path, *, expect: str, width: int = 1700, height: int = 1000) -> None:
    """Save a picture of the page once it shows the text `expect`."""
    with browser(width=width, height=height) as driver:
        visit(driver, url)
        await_text(driver, expect)
        path.parent.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(path))


def visit(driver: Chrome, url: str) -> None:
    """Open a page from scratch: a change behind the # alone would leave parts of the page before it."""
    driver.get("about:blank")
    driver.get(url)


def await_text(driver: Chrome, text: str, *, seconds: float = 60.0) -> None:
    """Return once the page shows the text; AssertionError with what it shows instead."""
    await_true(driver, f"return document.body.innerText.includes({text!r})", seconds=seconds)


def await_true(driver: Chrome, script: str, *, seconds: float = 60.0) -> None:
    """Return once a script says true; AssertionError with what the page shows instead."""
    deadline = time.monotonic() + seconds
    while not driver.execute_script(script):
        shown = driver.find_element(By.TAG_NAME, "body").text
        assert time.monotonic() < deadline, f"{driver.current_url} never did: {script}\n{shown[:2000]}"
        time.sleep(0.2)
