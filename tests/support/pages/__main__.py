"""Owns refreshing the generated parts of all pages: `python -m tests.support.pages`."""

from __future__ import annotations

from tests.support.pages.generated import PAGES

if __name__ == "__main__":
    for page in PAGES:
        print(f"{page.name}: {'changed' if page.refresh() else 'fresh'}")
