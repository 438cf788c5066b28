"""Drive a notebook in JupyterLab as a student does: read it, run it, move its explorers with the keyboard."""

from pathlib import Path

from playwright.sync_api import ElementHandle, Locator
from playwright.sync_api import TimeoutError as TooLate

NOTEBOOK = "window.jupyterapp.shell.currentWidget"
PANEL = ".pefteach-explorer"
INPUTS = [f"input[type={kind}]" for kind in ("text", "number", "checkbox")]
CONTROLS = ", ".join([".noUi-handle", "select", *INPUTS, "input[type=radio]:not(:checked)", "button:not(.mod-active)"])

# A picture as numbers: its size in the file and on the page, a hash of its pixels, and how many of them are not paper.
READ = """image => {
  const size = {width: image.naturalWidth, height: image.naturalHeight};
  const canvas = Object.assign(document.createElement('canvas'), size);
  if (!image.complete || !canvas.width) return null;
  const pen = canvas.getContext('2d');
  pen.drawImage(image, 0, 0);
  const pixels = new Uint32Array(pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  let hash = 0, ink = 0;
  for (const pixel of pixels) { hash = Math.imul(hash, 31) + pixel | 0; ink += pixel !== pixels[0]; }
  return {hash, ink, width: canvas.width, shown: image.clientWidth, alt: image.alt};
}"""
# What the kernel was asked and has not answered, from the first message on. It says "idle" after each that it is done.
LISTEN = f"""() => {{
  const asked = window.asked = {{count: 0, open: new Set(), last: 0}};
  {NOTEBOOK}.sessionContext.session.kernel.anyMessage.connect((_, {{msg, direction}}) => {{
    asked.last = performance.now();
    if (direction === 'send' && ['shell', 'control'].includes(msg.channel)) {{
      asked.count += 1;
      asked.open.add(msg.header.msg_id);
    }} else if (msg.header.msg_type === 'status' && msg.content.execution_state === 'idle') {{
      asked.open.delete(msg.parent_header.msg_id);
    }}
  }});
}}"""
PATIENCE = 20_000  # milliseconds that only something broken takes, also on a busy machine
QUIET = 400  # milliseconds without a message, after the last answer, in which the page shows what it was sent
LEAST_INK = 500  # pixels; the axes of an otherwise empty plot have more, a blank sheet has none


class Page:
    """One notebook in one browser tab; ``errors`` collects what the browser's console reports."""

    def __init__(self, page, address: str):
        self.page, self.errors = page, []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.set_default_timeout(6 * PATIENCE)
        page.goto(address)
        self._wait_until_ready()
        page.evaluate(LISTEN)

    def _wait_until_ready(self) -> None:
        """Wait for an idle kernel; a dialog, such as the one that asks for a kernel, would wait for an answer forever.

        Raises:
            AssertionError: a dialog is open, or nothing happens; with what the page shows instead.
        """
        context = f"(window.jupyterapp && {NOTEBOOK}?.sessionContext)"
        kernel = f"{context}?.session?.kernel"
        dialog = "document.querySelector('.jp-Dialog')"
        try:
            ready = f"{context}?.isReady && {kernel}?.status === 'idle'"
            self.page.wait_for_function(f"() => {dialog} || {ready}")
        except TooLate:
            state = self.page.evaluate(f"() => `${{{kernel}?.status}}, ${{{kernel}?.connectionStatus}}`")
            raise AssertionError(f"no idle kernel; it is {state}; the console says {self.errors}") from None
        asks = self.page.evaluate(f"() => {dialog}?.innerText")
        assert not asks, f"JupyterLab asks before it starts a kernel: {asks!r}"

    def run_all(self) -> list[str]:
        """Run the cells until each has a number or one has raised, and the kernel is quiet; the errors."""
        cells = f"{NOTEBOOK}.content.widgets.filter(c => c.model.type === 'code')"
        expected = "(c.model.getMetadata('tags') ?? []).includes('raises-exception')"
        outputs = f"{cells}.filter(c => !{expected}).flatMap(c => c.model.outputs.toJSON())"
        errors = f"{outputs}.filter(o => o.output_type === 'error').map(o => `${{o.ename}}: ${{o.evalue}}`)"
        done = "c.model.executionCount !== null && c.model.sharedModel.executionState !== 'running'"
        idle = f"{NOTEBOOK}.sessionContext.session.kernel.status === 'idle'"
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.page.wait_for_function(
            f"() => {idle} && ({errors}.length || {cells}.every(c => {done}))", timeout=30 * PATIENCE
        )
        return self.page.evaluate(f"() => {errors}")

    def clear(self) -> None:
        """Take the stored outputs away, so that what is seen next comes from this run."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")

    def stored_pictures(self) -> list[dict]:
        return [image.evaluate(READ) for image in self.page.locator(".jp-RenderedImage img").all()]

    def panels(self) -> list[Locator]:
        return self.page.locator(PANEL).all()

    def theme(self, name: str) -> None:
        """Switch to JupyterLab's "Light" or "Dark" theme. The server keeps it, also for the next notebook."""
        change = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: `JupyterLab ${name}`})"
        self.page.evaluate(change, name)
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light", arg=str(name == "Light").lower()
        )

    def photograph(self, file: Path) -> None:
        """The whole notebook in one picture, as far as Chromium can make one."""
        scroller = f"({NOTEBOOK}.content.node.querySelector('.jp-WindowedPanel-outer') ?? {NOTEBOOK}.content.node)"
        height = self.page.evaluate(f"() => {scroller}.scrollHeight")
        size = self.page.viewport_size
        self.page.set_viewport_size({"width": size["width"], "height": min(height + 150, 16000)})
        self.page.evaluate(f"() => {{ {scroller}.scrollTop = 0 }}")
        self.page.screenshot(path=file)
        self.page.set_viewport_size(size)

    def shut_down(self) -> None:
        self.page.evaluate(f"async () => {{ await {NOTEBOOK}.sessionContext.shutdown() }}")


def keys_for(control: ElementHandle) -> list[str]:
    """The keys that change a control from where it stands: a small move and, should that not show, a larger one."""
    kind = control.evaluate("e => e.classList.contains('noUi-handle') ? 'slider' : e.type ?? e.tagName")
    if kind == "slider":
        at_end = control.evaluate("e => +e.getAttribute('aria-valuenow') >= +e.getAttribute('aria-valuemax')")
        return ["ArrowLeft", "PageDown"] if at_end else ["ArrowRight", "PageUp"]
    if kind == "select-one":  # Space opens the list; while it is closed, JupyterLab takes the arrows for itself
        at_end = control.evaluate("e => e.selectedIndex === e.options.length - 1")
        return ["Space ArrowUp Enter" if at_end else "Space ArrowDown Enter"]
    if kind == "text":
        return ["End a", "Enter"]
    return ["ArrowUp", "ArrowDown"] if kind == "number" else ["Space"]  # a box, a radio button, a button


def faults(panel: Locator) -> list[str]:
    """Move every control of an explorer by keyboard; what is wrong with how its picture follows.

    A control may have nothing to say in one state of the others ("size", while a model of fixed size is chosen), so
    one that does nothing is tried again with every list at its last choice.
    """
    image, controls = panel.locator("img"), panel.locator(CONTROLS).element_handles()
    if image.count() != 1 or not controls:
        return [f"{image.count()} pictures and {len(controls)} controls: an explorer has one picture and some controls"]
    found = []
    lists = panel.locator("select").element_handles()
    for control in controls:
        if not moves(image, control):
            for each in lists:
                press(each, "Space End Enter")
            if not lists or not moves(image, control):
                found.append(f"{label(control)!r} does not change the picture")
        found += [f"{label(control)!r}: {fault}" for fault in picture_faults(image.evaluate(READ))]
    return found


def moves(image: Locator, control: ElementHandle) -> bool:
    """Press a control's keys until the picture has other pixels, or the kernel has answered and it has not."""
    before = settled(image)
    differs = f"([image, hash]) => {{ const now = ({READ})(image); return now && now.hash !== hash }}"
    answered = (
        f"asked.count > count && asked.open.size === 0 && image.complete && performance.now() - asked.last > {QUIET}"
    )
    for keys in keys_for(control):
        count = image.page.evaluate("() => asked.count")
        press(control, keys)
        try:
            image.page.wait_for_function(
                f"([image, hash, count]) => ({differs})([image, hash]) || ({answered})",
                arg=[image.element_handle(), before, count],
                timeout=PATIENCE / 4,  # a key that the control does not take asks the kernel nothing
            )
        except TooLate:
            continue
        if image.page.evaluate(differs, [image.element_handle(), before]):
            return True
    return False


def press(control: ElementHandle, keys: str) -> None:
    control.focus()
    for key in keys.split():
        control.press(key)


def settled(image: Locator) -> int:
    """The hash of the picture once the answers to earlier keys have all arrived."""
    image.page.wait_for_function(f"() => asked.open.size === 0 && performance.now() - asked.last > {QUIET}")
    return image.evaluate(READ)["hash"]


def label(control: ElementHandle) -> str:
    return control.evaluate(
        "e => e.closest('.jupyter-widgets').querySelector('.widget-label')?.innerText ?? e.innerText"
    )


def picture_faults(seen: dict | None) -> list[str]:
    if seen is None:
        return ["there is no picture"]
    found = ["the picture is blank"] if seen["ink"] < LEAST_INK else []
    if seen["shown"] != seen["width"]:
        found.append(f"the picture of {seen['width']} pixels is shown in {seen['shown']}, which blurs it")
    return found
