"""Open pages from disk in a headless Chromium."""

import html
import json
import shutil
import subprocess

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# collects what a page complains about, from before its first script on
LISTEN = """<head><script>
const problems = [];
addEventListener("error", event => problems.push(event.message));
addEventListener("unhandledrejection", event => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => problems.push(`refused: ${event.violatedDirective}`));
for (const kind of ["error", "warn"]) {
  const write = console[kind];
  console[kind] = (...words) => { problems.push(words.join(" ")); write.apply(console, words); };
}
</script>"""
RUN = """<script>
(async () => {
  const wait = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
  const seen = {};
  try { %s } catch (error) { problems.push(String(error)); }
  seen.problems = problems;
  document.body.textContent = "SEEN" + JSON.stringify(seen) + "SEEN";
})();
</script></body>"""


def chromium(*options):
    """Run the browser without a window, with a renderer in software, and return its output."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium on this computer")
    quiet = ["--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command = [program, *quiet, "--hide-scrollbars", "--window-size=1500,950", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def visit(page, script, folder):
    """Run a script in a page, and return what it puts into ``seen``, with the ``problems`` of the page.

    Args:
        page: path of the page.
        script: body of an asynchronous function.
        folder: empty folder for the browser.
    """
    text = page.read_text(encoding="utf-8").replace("<head>", LISTEN, 1)
    changed = page.with_name(f"visited_{page.name}")
    changed.write_text("".join([*text.rpartition("</body>")[:1], RUN % script, "</html>"]), encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = chromium(profile, "--virtual-time-budget=60000", "--dump-dom", changed.as_uri())
    return json.loads(html.unescape(done.split("SEEN")[1]))


def screenshot(page, picture, folder):
    """Take a picture of a page."""
    profile = f"--user-data-dir={folder / 'profile'}"
    chromium(profile, "--virtual-time-budget=20000", f"--screenshot={picture}", page.as_uri())
