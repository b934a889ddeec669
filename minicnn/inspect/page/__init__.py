"""The page: a trace as one self-contained HTML file."""

from minicnn.inspect.page.build import page_html, write_page

__all__ = ["page_html", "write_page"]
