"""A real Chromium without a screen, for tests of pages."""

import contextlib
import json
import shutil

from selenium import webdriver

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium(folder):
    """A selenium driver whose browser keeps its profile in `folder`."""
    options = webdriver.ChromeOptions()
    options.binary_location, driver_path = found("chromium"), found("chromedriver")
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    try:
        yield driver
    finally:
        driver.quit()


def found(program):
    path = shutil.which(program)
    assert path, f"{program} is not installed: make browser"
    return path


def requests(driver):
    """Addresses the browser asked for since the last call (of data: only the beginning)."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [request["request"]["url"][:300] for request in sent]
