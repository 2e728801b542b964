"""A real browser, and checks of every page.

Debian has no Chromium for riscv64, and Playwright does not support riscv64, so this module imports
Playwright only to open a page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildkit_riscv64.testing import capabilities
from buildkit_riscv64.validation.environment.waiting import BOUND

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Width and height, in CSS pixels.
DESK = (1280, 900)
PHONE = (390, 844)

# Elements outside the screen that cannot be scrolled to, except by scrolling the whole page.
_CUT_OFF = """
() => {
  const scrolls = node => {
    for (let up = node.parentElement; up && !up.querySelector("h1"); up = up.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(up).overflowX)) return true;
    return false;
  };
  const outside = node => node.getBoundingClientRect().right > innerWidth + 1 && !scrolls(node);
  const clipped = node => ["hidden", "clip"].includes(getComputedStyle(node).overflowX)
    && node.scrollWidth > node.clientWidth + 1;
  return [...document.querySelectorAll("main *, [role=main] *, header *, footer *")]
    .filter(node => node.checkVisibility() && !node.closest("aside, .visually-hidden"))
    .filter(node => outside(node) || clipped(node))
    .map(node => node.outerHTML.slice(0, 200));
}
"""


@dataclass
class Tab:
    """An open page, with its messages and requests.

    Args:
        page: the page.
        messages: errors and warnings on its console, errors of its scripts, dialogs.
        asked: requests to other addresses than this disk.
    """

    page: Page
    messages: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Record messages and requests; called before the page is opened."""

        def dialog(one: Any) -> None:
            self.messages.append(f"dialog: {one.message}")
            one.dismiss()

        self.page.on("dialog", dialog)
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on(
            "console",
            lambda one: (
                self.messages.append(one.text) if one.type in {"error", "warning"} else None
            ),
        )
        self.page.on(
            "request",
            lambda one: (
                None if one.url.startswith(("file:", "data:")) else self.asked.append(one.url)
            ),
        )

    def unfold(self) -> None:
        """Open all details."""
        self.page.evaluate(
            "for (const one of document.querySelectorAll('details')) one.open = true"
        )

    def width(self) -> int:
        """The width of the page."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def cut_off(self) -> list[str]:
        """Elements that are cut off, even with scrolling."""
        return [str(one) for one in self.page.evaluate(_CUT_OFF)]

    def brightness(self) -> float:
        """The brightness of the background, from 0 (black) to 255."""
        return float(
            self.page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"
                ".reduce((sum, one) => sum + Number(one) / 3, 0)"
            )
        )

    def barriers(self, *, without: tuple[str, ...] = ()) -> list[str]:
        """Barriers to accessibility that axe finds, such as low contrast.

        Args:
            without: rules to leave out.
        """
        from axe_playwright_python.sync_playwright import Axe

        rules = {"target-size": {"enabled": True}, **{rule: {"enabled": False} for rule in without}}
        # preload would read style sheets again, which the browser forbids for a page on disk.
        found = Axe().run(
            self.page, options={"preload": False, "rules": rules, "resultTypes": ["violations"]}
        )
        return [
            f"{one['id']}: {node['target']}: {node['failureSummary']}"
            for one in found.response["violations"]
            for node in one["nodes"]
        ]


#: Opens a page: address, size of the screen, and `light` or `dark`.
Open = Callable[..., Tab]


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """Debian's headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=f"/usr/bin/{capabilities.BROWSER}")
        yield browser
        browser.close()


@contextlib.contextmanager
def tabs(browser: Browser) -> Iterator[Open]:
    """A function that opens pages, which close with the block."""
    with contextlib.ExitStack() as stack:

        def open_(url: str, screen: tuple[int, int] = DESK, scheme: Any = "light") -> Tab:
            width, height = screen
            phone = screen == PHONE
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme,
                is_mobile=phone, has_touch=phone,
            )  # fmt: skip
            stack.callback(context.close)
            context.set_default_timeout(BOUND * 1000)
            tab = Tab(context.new_page())
            tab.watch()
            tab.page.goto(url)
            return tab

        yield open_


def on_disk(directory: Path, name: str) -> str:
    """The address of a page in a directory; its name may have a query."""
    return f"{directory.as_uri()}/{name}"
